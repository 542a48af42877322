"""Records of runs: what a run is, written once, and each of its starts, a numbered record that is only ever added.

`runs/<run_id>.json` holds the operator, its settings and what it read; `runs/<run_id>/000001.json` when, where and on
what it was started, with the same facts once more, so that either can be read where the other is lost. Stores of
earlier versions hold their starts inside runs/<run_id>.json; both are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from florence2.store import layout, sealed
from florence2.store.chain import Chain
from florence2.store.sealed import Damaged, Missing
from florence2.store.storage import Storage, next_number


def record(storage: Storage, run_id: str, facts: Mapping[str, Any], start: Mapping[str, Any]) -> None:
    """Add one start of a run."""
    body = json.loads(sealed.json_bytes({"run_id": run_id, **facts}))
    path = layout.run(run_id)
    if storage.exists(path):
        read_one(storage, path)  # a damaged one is named, not written over
    storage.put_if_absent([(path, sealed.seal(body))])
    data = sealed.seal(json.loads(sealed.json_bytes({"run_id": run_id, "facts": facts, "start": start})))
    folder = layout.run_starts(run_id)
    while not storage.put_if_absent([(layout.numbered(folder, next_number(storage, folder), ".json"), data)])[0]:
        pass  # another process took the number


def read(storage: Storage, run_id: str) -> dict[str, Any] | None:
    """What a run is, with all its starts under "starts"; None where it was never recorded, Missing where it is gone."""
    starts = storage.list(layout.run_starts(run_id))
    path = layout.run(run_id)
    if not storage.exists(path) and not starts:
        return None
    found = read_one(storage, path)
    earlier, reads = found.get("starts", []), found.get("reads", [])
    runs_read = isinstance(reads, list) and all(isinstance(run, str) for run in reads)
    if not isinstance(earlier, list) or not runs_read:
        raise _damaged(storage, path)
    found["starts"] = [*(_start(storage, path, one) for one in earlier), *(_read_start(storage, one) for one in starts)]
    return found


def _read_start(storage: Storage, path: str) -> dict[str, Any]:
    return _start(storage, path, read_one(storage, path).get("start"))


def _start(storage: Storage, path: str, start: Any) -> dict[str, Any]:
    """A start, if it is one; sealed records of strangers may hold anything."""
    if not isinstance(start, dict):
        raise _damaged(storage, path)
    return start


def _damaged(storage: Storage, path: str) -> Damaged:
    remedy = f"florence2 verify {storage.location()} --repair mends what can be mended"
    return Damaged(f"{storage.location(path)}: damaged (it is no record of a run); {remedy}")


def read_one(storage: Storage, path: str) -> dict[str, Any]:
    """One record; Missing or Damaged say what to do."""
    remedy = f"florence2 verify {storage.location()} --repair mends what can be mended"
    found = Chain(storage).read(path, remedy)
    if (of := found.get("run_id")) not in (None, run_id := layout.run_of(path)):
        raise Damaged(f"{storage.location(path)}: damaged (it is the record of run {of!r:.60}, not {run_id}); {remedy}")
    if {"facts", "start"} <= found.keys() and not _is_start(path):
        raise Damaged(f"{storage.location(path)}: damaged (it is the record of a start of the run); {remedy}")
    if not {"facts", "start"} <= found.keys() and _is_start(path):
        raise Damaged(f"{storage.location(path)}: damaged (it is the record of no start of the run); {remedy}")
    return found


def _is_start(path: str) -> bool:
    return path.startswith(f"{layout.RUNS}/") and path.count("/") > 1


def recorded(storage: Storage, run_ids: Iterable[str], known: Iterable[str]) -> set[str]:
    """The records that there must have been, whether or not a link of the chain says so.

    What each of these runs is, and its first start; what any run is that has a start; and every start before another
    one, that is there or was once `known`.
    """
    starts: dict[str, set[int]] = {}
    for path in filter(_is_start, [*storage.list(layout.RUNS), *known]):
        starts.setdefault(layout.run_of(path), set()).add(layout.number_of(path))
    for run_id in run_ids:
        if run_id not in starts:
            starts[run_id] = set() if _holds_starts(storage, run_id) else {1}
    out = {layout.run(run_id) for run_id in starts}
    return out | {
        layout.numbered(layout.run_starts(run_id), number, ".json")
        for run_id, numbers in starts.items()
        for number in layout.up_to(numbers)
    }


def _holds_starts(storage: Storage, run_id: str) -> bool:
    """Whether a record is one of an earlier version of the store, with the run's starts in it."""
    try:
        return bool(read_one(storage, layout.run(run_id)).get("starts"))
    except ValueError:
        return False


def restore(storage: Storage, path: str, sha256: str | None) -> bool:
    """Write a lost record of what a run is again, from its starts; whether it could. It must hash to `sha256`."""
    run_id = layout.run_of(path)
    for start in storage.list(layout.run_starts(run_id)):
        try:
            facts = read_one(storage, start)["facts"]
        except (Missing, Damaged, KeyError):
            continue
        data = sealed.seal({"run_id": run_id, **facts})
        if sha256 in (None, hashlib.sha256(data).hexdigest()):
            storage.discard(path)
            return storage.put_if_absent([(path, data)])[0]
    return False

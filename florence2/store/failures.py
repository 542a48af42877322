"""Which failures count: of a picture that was retried, only the last attempt, be it an answer or a failure.

A further attempt writes fragments of its own, for the pictures that had failed; its number and these pictures are in
the metadata of its files: of annotations too, a file that is written even where it holds no row.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

import pyarrow as pa

from florence2.store import parquet
from florence2.store.parquet import Fragment
from florence2.store.snapshots import Snapshot
from florence2.store.storage import Storage

ATTEMPT, IMAGES = "attempt", "images"  # keys of a fragment's facts


def attempt_facts(number: int, image_ids: Sequence[str]) -> dict[str, str]:
    """What goes into the metadata of the fragments of an attempt; nothing for the first."""
    return {ATTEMPT: str(number), IMAGES: json.dumps(list(image_ids))} if number > 1 else {}


def current(storage: Storage, snapshot: Snapshot) -> pa.Table:
    """The rows of `failures` that count."""
    attempts: dict[tuple[str, str], list[Fragment]] = defaultdict(list)
    for fragment in snapshot.of("annotations"):
        if len(fragment.units) == 1 and fragment.run_id:
            attempts[fragment.run_id, fragment.units[0]].append(fragment)
    tables = []
    for fragment in snapshot.of("failures"):
        table = parquet.read(storage, fragment).replace_schema_metadata(None)
        tried = attempts[fragment.run_id, fragment.units[0]] if len(fragment.units) == 1 else []
        if len(tried) > 1:
            answered = _last_attempts(storage, tried)
            attempt = int(parquet.facts(storage, fragment).get(ATTEMPT, 1))
            counts = [answered.get(name, 1) == attempt for name in table["image_id"].to_pylist()]
            table = table.filter(pa.array(counts, pa.bool_()))
        tables.append(table)
    tables = tables or [parquet.read_table(storage, "failures", ())]
    return pa.concat_tables(tables, promote_options="default")


def _last_attempts(storage: Storage, fragments: list[Fragment]) -> dict[str, int]:
    """The number of the last attempt at each picture that was tried more than once."""
    last: dict[str, int] = {}
    for facts in (parquet.facts(storage, fragment) for fragment in fragments):
        number = int(facts.get(ATTEMPT, 1))
        last.update({name: max(number, last.get(name, 1)) for name in json.loads(facts.get(IMAGES, "[]"))})
    return last

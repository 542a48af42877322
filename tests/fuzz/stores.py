"""Stores with any files damaged in any way: verify names each; repair gives it back to the byte, or says it cannot.

Nothing else changes, a second verify says the same, and what is read in between is refused in a line or what was there.
"""

import json
import random
import shutil
import tempfile
from pathlib import Path

import florence2
from florence2.engine.planning.repair import repair
from florence2.store import Store
from tests.engine.test_repair import full_store, own_names
from tests.fuzz.attempts import Attempt, limited, one_line
from tests.fuzz.damage import damaged_binary, damaged_json

PARTS = ("images", "annotations", "decisions", "failures", "snapshots", "runs", "chain", "compact")


def whole_store(root):
    """A store with every kind of file, below `root`, and what they hold."""
    store = full_store(root)
    store.compact(rows=12)
    florence2.annotate(store.root, with_=own_names(root, 2), workers=0)
    return content(store.root)


def content(root):
    """path -> bytes of every file that a store is."""
    return {p: (root / p).read_bytes() for part in PARTS for p in files(root, part)}


def files(root, part):
    """The paths of one part of a store."""
    return sorted(path.relative_to(root).as_posix() for path in (root / part).rglob("*") if path.is_file())


def attempts(seed):
    """Damaged stores without end."""
    base = Path(tempfile.mkdtemp(prefix="fuzz-stores-"))
    try:
        before = whole_store(base)
        out, number = base / "s", 0
        held = list(Store(out).samples(view="all"))
        while True:
            rng = random.Random(f"{seed}-{number}")
            parts = [rng.choice(PARTS) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
            damage = {}
            for part in parts:
                path = rng.choice([p for p in before if p.startswith(f"{part}/")])
                damage[path] = damaged_file(rng, before, path)
            for path, (_, data) in damage.items():
                write(out, path, data)
            damage = {path: what for path, (what, data) in damage.items() if data != before[path]}
            faults = [*reading_faults(out, held), repair_fault(out, before, damage)]
            restore(out, before)
            target = f"{parts[0]}, 1 file" if len(parts) == 1 else f"{len(parts)} files"
            yield Attempt(target, f"seed {seed}, number {number}: {damage}", "; ".join(filter(None, faults)))
            number += 1
    finally:
        shutil.rmtree(base, ignore_errors=True)


def damaged_file(rng, before, path):
    """(what was done, the bytes or None for none). The last link is not deleted: nothing tells that it was there."""
    kind = rng.choice(("bytes", "bytes", "deleted", "another's", "value"))
    if kind == "deleted" and path != max(p for p in before if p.startswith("chain/")):
        return "deleted", None
    if kind == "another's":
        other = rng.choice([p for p in before if p.split("/")[0] == path.split("/")[0]])
        return f"the bytes of {other}", before[other]
    if kind == "value" and path.endswith(".json"):
        return damaged_json(rng, before[path])
    return damaged_binary(rng, before[path])


def write(out, path, data):
    """Put bytes at a path; None takes the file away."""
    if data is None:
        (out / path).unlink(missing_ok=True)
    else:
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)


def restore(out, before):
    """Give a store the files it had, and no others."""
    for path, data in before.items():
        if not (out / path).is_file() or (out / path).read_bytes() != data:
            write(out, path, data)
    for path in content(out).keys() - before.keys():
        (out / path).unlink()


def reading_faults(out, held):
    """What is wrong with how a damaged store is read: it gives the samples `held`, or a refusal of one line."""
    faults = []
    with limited(2_000_000, faults):
        try:
            store = Store(out)
            if list(store.samples(view="all")) != held:
                faults.append("something else is read than was there")
            store.counts()
        except (ValueError, OSError) as error:
            faults.append(one_line(error, out))
        except Exception as error:
            faults.append(f"reading: {type(error).__name__}: {str(error)[:200]}")
    return faults


def _known(before, there):
    """The files of which another one that is left in `there` says what they hold, and those of which one says at least
    that they were: not fragments that only lost snapshots name, nor records that are lost with all that speaks of them.

    A deleted record whose link is lost too leaves no trace but these: a later one of the same kind, a snapshot's number
    in a link, a run's name in a snapshot, a start of a run. And a last link, which no other one says the hash of,
    cannot be made again with a record that has left no trace.
    """
    whole = {
        path: json.loads(data) for path, data in before.items() if path.endswith(".json") and there.get(path) == data
    }
    snapshots = [body for path, body in whole.items() if path.startswith("snapshots/")]
    links = [body for path, body in whole.items() if path.startswith("chain/")]
    started = {operator["run_id"] for snapshot in snapshots for operator in snapshot["operators"]}
    said = {name for link in links for name in link["files"]}
    left = said | {path for path in there if path.startswith(("snapshots/", "runs/"))}
    left |= {f"snapshots/{link['snapshot']:06d}.json" for link in links}
    left |= {path for run in started for path in (f"runs/{run}.json", f"runs/{run}/000001.json")}

    def has_left_a_trace(path):
        folder, stem = path.rsplit("/", 1)
        if path.startswith("runs/") and path.count("/") == 1:
            return path in left or any(other.startswith(f"{path.removesuffix('.json')}/") for other in left)
        if path not in there or path.startswith("snapshots/"):
            return any(other.rsplit("/", 1)[0] == folder and other >= path for other in left)
        starts = [data for other, data in before.items() if other != path and other.rsplit("/", 1)[0] == folder]
        return path in said or there[path] not in starts  # two starts of one second are equal to the byte

    named = {fragment["path"] for snapshot in snapshots for fragment in snapshot["fragments"]}
    named |= {path for path in before if path.startswith("chain/")}
    named |= {path for path in before if path.startswith(("snapshots/", "runs/")) and has_left_a_trace(path)}
    last = max(path for path in before if path.startswith("chain/"))
    as_it_was = named if json.loads(before[last])["files"].keys() <= named else named - {last}
    return as_it_was, named


def repair_fault(out, before, damaged):
    """What is wrong with how verify and repair take damage to the files `damaged`; "" for nothing."""
    faults, said = [], []
    try:
        with limited(20_000_000, faults):
            store = Store(out)
            named = [damage.path for damage in store.verify()]
            known, noticed = _known(before, content(out))
            faults += [f"verify does not name {path}" for path in damaged if path not in named and path in noticed]
            left = repair(store, store.verify(), workers=0, on_message=said.append)
            after, named = content(out), {damage.path for damage in left}
            changed = {path for path in before if after.get(path) != before[path]}
            faults += [f"{path} is not what it was, and is not named" for path in (changed & known) - named]
            given_up = {path for path in named if path.startswith("runs/")}  # said by a further link
            faults += [f"{path} was not there before" for path in after.keys() - before.keys()
                       if not (given_up and path.startswith("chain/"))]  # fmt: skip
            if left and not said:
                faults.append("repair leaves damage and does not say why")
            faults += [f"says several lines: {line!r}" for line in said if len(line.splitlines()) != 1]
            again = {damage.path for damage in store.verify()}
            if not named - given_up <= again | {p for p in named if p.startswith("chain/")} or not again <= named:
                faults.append(f"a second verify says {sorted(again)}, repair left {sorted(named)}")
    except Exception as error:
        faults.append(f"{type(error).__name__}: {str(error)[:300]}")
    return "; ".join(faults)

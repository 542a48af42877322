"""Stores whose JSON says anything under a right seal, as a stranger can write it: refused in one line, or used.

Nothing outside the store is touched, whatever command is run on it.
"""

import json
import random
import shutil
import tempfile
from pathlib import Path

import florence2
from florence2.engine.planning.repair import repair
from florence2.store import Store, sealed
from tests.engine.doubles import Boxes, Floor, folder_of
from tests.fuzz.attempts import Attempt, limited, one_line
from tests.fuzz.damage import damage_value

COMMANDS = {
    "samples": lambda out: list(Store(out).samples(view="all")),
    "counts": lambda out: Store(out).counts(),
    "verify": lambda out: Store(out).verify(),
    "filter": lambda out: florence2.filter(out, [Floor(0.6)]),
    "annotate": lambda out: florence2.annotate(out, with_=[Boxes("b")], workers=0),
    "repair": lambda out: repair(Store(out), Store(out).verify(), workers=0),
    "undo": lambda out: Store(out).undo(),
    "compact": lambda out: Store(out).compact(rows=3),
}
OUTSIDE = (
    "annotations/../../{0}",
    "../{0}",
    "compact/000002/annotations/../../../../{0}",
    "{1}/{0}",
    "{0}\0",
    "",
    "a//b",
)


def attempts(seed):
    """Hostile stores without end, each seen by every command in turn."""
    base = Path(tempfile.mkdtemp(prefix="fuzz-sealed-"))
    try:
        store = florence2.annotate(folder_of(base, 3), base / "whole", [Boxes()], workers=0, unit=2)
        florence2.filter(store, [Floor(0.5)])
        store.compact(rows=4)
        (base / "victim.parquet").write_bytes(b"precious")
        outside, number = files(base), 0
        while True:
            rng = random.Random(f"{seed}-{number}")
            out = shutil.copytree(store.root, base / "s")
            what = change(rng, out, base)
            faults = []
            for name, call in COMMANDS.items():
                faults += [f"{name}: {fault}" for fault in faults_of(call, out)]
            if files(base) != outside:
                faults.append("something outside the store has changed")
            shutil.rmtree(out)
            yield Attempt(what.partition(":")[0], f"seed {seed}, number {number}: {what}", "; ".join(faults))
            number += 1
    finally:
        shutil.rmtree(base, ignore_errors=True)


def files(base):
    """The files beside the store that is tried."""
    return {
        path: path.read_bytes() for path in base.rglob("*") if path.is_file() and path.parts[len(base.parts)] != "s"
    }


def change(rng, out, base):
    """Change one value of a file, and seal it; what was done."""
    files = [*out.glob("snapshots/*.json"), *out.glob("runs/**/*.json"), *out.glob("chain/*.json")]
    file = rng.choice(sorted(files))
    if file.parent.name != "chain":
        shutil.rmtree(out / "chain")  # of a store that has none nothing is known
    data = json.loads(file.read_bytes())
    data.pop("sha256")
    fragments, operators = data.get("fragments", ()), data.get("operators", ())
    way = rng.random()
    if fragments and way < 0.3:
        path = rng.choice(OUTSIDE).format("victim.parquet", base)
        rng.choice(fragments)["path"] = path
        what = f"a fragment's path: {path!r}"
    elif operators and way < 0.4:
        rng.choice(operators)["run_id"] = what = rng.choice(("../../victim", "/", "", ".."))
        what = f"a run: {what!r}"
    else:
        kind, place = damage_value(rng, data)
        what = f"a value: {kind} {'/'.join(map(str, place))} of {file.name}"
    file.write_bytes(sealed.seal(json.loads(json.dumps(data))))
    return what


def faults_of(call, out):
    """What is wrong with how a command takes the store."""
    faults = []
    with limited(20_000_000, faults):
        try:
            call(out)
        except (ValueError, OSError) as error:
            faults.append(one_line(error, out))
        except Exception as error:
            faults.append(f"{type(error).__name__}: {str(error)[:200]}")
    return filter(None, faults)

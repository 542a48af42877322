"""Two commands started together on one store leave what one after the other leaves, in one of the two orders.

    python -m tests.faults 200 [SEED]      # `make faults`

Commands are forked from one process and begin a random fraction of a second apart. Compared are the current view, and
the set of (path, sha256) of the newest snapshot's fragments; the store is whole afterwards, and no annotation has two
verdicts of one (round, seq) among all that ever was written.
"""

import dataclasses
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.planning.repair import repair
from florence2.object_store import is_object_url, root_of
from florence2.refinement import refine, rounds
from florence2.store import Store
from florence2.store.storage import open_storage
from tests.engine.doubles import Boxes, Floor, NoTexts, folder_of, picture
from tests.stores import copied, removed


def _refine(root, out):
    from tests.refinement.test_refine import FakeTraining, Learned

    rounds.weights_of = lambda start: "0"
    refine(out, 1, rules=[Floor(0.35)], workers=0, train=FakeTraining(), open_student=Learned)


def _repair(root, out):
    store = Store(out)
    repair(store, store.verify(), [Boxes()], [Floor(0.4)], workers=0)


COMMANDS = {
    "annotate": lambda root, out: florence2.annotate(out, with_=[Boxes("a", shift=2.0)], workers=0),
    "annotate a reader": lambda root, out: florence2.annotate(
        out, with_=[Boxes("b", shift=3.0, requires={"box"})], workers=0
    ),
    "annotate new pictures": lambda root, out: florence2.annotate(root / "more", out, [Boxes()], workers=0, unit=2),
    "annotate anew": lambda root, out: florence2.annotate(out, with_=[Boxes(version="2")], workers=0),
    "filter": lambda root, out: florence2.filter(out, [Floor(0.5)]),
    "filter otherwise": lambda root, out: florence2.filter(out, [Floor(0.6), NoTexts()]),
    "filter and merge": lambda root, out: florence2.filter(out, [Floor(0.3)], merging=MergeConfig()),
    "import": lambda root, out: import_labels(root / "labels.jsonl", out, workers=0, unit=3),
    "import again": lambda root, out: import_labels(root / "changed" / "labels.jsonl", out, workers=0, unit=3),
    "compact": lambda root, out: Store(out).compact(rows=9),
    "undo": lambda root, out: Store(out).undo(),
    "verify --repair": _repair,
    "refine": _refine,
}


class Trials:
    """A store with a history, copies of it for each trial, and what each order of two commands leaves on the disk."""

    def __init__(self, folder, place=""):
        self.root = Path(folder)
        folder_of(self.root, 5)
        for n in range(20, 24):
            picture(self.root / "more", f"n{n}.png", n)
        (self.root / "changed").mkdir()
        for path, side in ((self.root / "labels.jsonl", 9), (self.root / "changed" / "labels.jsonl", 12)):
            path.write_text("".join(self._line(n, side) for n in range(20, 24)))
        store = florence2.annotate(self.root / "pictures", self.root / "base", [Boxes()], workers=0, unit=2)
        florence2.filter(store, [Floor(0.4)])
        florence2.annotate(store.root, with_=[Boxes("c", shift=1.0)], workers=0)
        self.base = root_of(place or self.root / "base")
        if self.base != store.root:
            _put(store, self.base)
        self.orders = {}

    def _line(self, n, side):
        uri = self.root / "more" / f"n{n}.png"
        region = f'{{"id": "r", "box": [1, 1, {side}, 9], "label": "thing"}}'
        return f'{{"id": "{n}", "image": {{"id": "{n}", "uri": "{uri}"}}, "regions": [{region}]}}\n'

    def run(self, first, second, apart_s):
        """Start two commands together; returns what they leave."""
        out = self._copy(self.base, f"pair-{time.monotonic_ns()}", "verify --repair" in (first, second))
        children = [self._fork(first, out, 0.0), self._fork(second, out, apart_s)]
        for child in children:
            os.waitpid(child, 0)
        found = state(Store(out))
        removed(out)
        return found

    def serial(self, first, second):
        """What two commands leave, one after the other."""
        if (first, second) not in self.orders:
            name = f"serial-{len(self.orders)}"
            out = self._copy(self.root / "base", name, "verify --repair" in (first, second))
            for name in (first, second):
                os.waitpid(self._fork(name, out, 0.0), 0)
            self.orders[first, second] = state(Store(out))
            removed(out)
        return self.orders[first, second]

    def _copy(self, base, name, damaged):
        store = Store(copied(base, name))
        if damaged:
            path = store.snapshot().of("annotations")[1].path
            store.storage.replace(path, store.storage.read(path)[:-7])
        return store.root

    def _fork(self, name, out, wait_s):
        child = os.fork()
        if child:
            return child
        try:
            if is_object_url(out):  # as if on machines of their own: no file is shared
                os.environ["XDG_CACHE_HOME"] = str(self.root / f"cache-{os.getpid()}")
            time.sleep(wait_s)
            COMMANDS[name](self.root, out)
            os._exit(0)
        except ValueError as refusal:  # such as: a fragment is damaged; the other one mends it
            if "damaged" not in str(refusal) and "missing" not in str(refusal):
                print(f"{name}: {refusal}", file=sys.stderr)
            os._exit(1)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(2)


def _put(store, place):
    """Copy a store of this machine to another place."""
    storage = open_storage(place)
    for path in sorted(store.root.rglob("*")):
        if path.is_file() and not path.is_relative_to(store.root / "tmp"):
            storage.replace(path.relative_to(store.root).as_posix(), path.read_bytes())


def state(store):
    """The current view, the newest snapshot's fragments, and what is wrong with the store."""
    view = {sample.id: _in_order(sample) for sample in store.samples()}
    named = frozenset((f.path, f.sha256) for f in store.snapshot().fragments)
    verdicts = Counter()
    for path in store.storage.list("decisions"):
        table = pq.read_table(store.storage.source(path), columns=["ann_id", "round", "seq"])
        verdicts.update(zip(*(table[name].to_pylist() for name in table.column_names)))
    wrong = [damage.path for damage in store.verify()] + [key for key, count in verdicts.items() if count > 1]
    pictures = Counter(row.image.uri for row in store.images())
    return view, named, wrong + [uri for uri, count in pictures.items() if count > 1]


def _in_order(sample):
    """The sample with its items by id: in which order they came is no part of what it says."""
    names = ("texts", "regions", "groundings")
    return dataclasses.replace(sample, **{n: tuple(sorted(getattr(sample, n), key=lambda i: i.id)) for n in names})


def difference(trials, first, second, apart_s):
    """ "" if two commands left what one of their orders leaves, else what is the matter."""
    view, named, wrong = trials.run(first, second, apart_s)
    orders = [trials.serial(first, second), trials.serial(second, first)]
    if any((view, named) == order[:2] and set(map(str, wrong)) <= set(map(str, order[2])) for order in orders):
        return ""
    missing = [len(named ^ order[1]) for order in orders]
    return f"views as in order: {[view == o[0] for o in orders]}, fragments amiss: {missing}, wrong: {wrong[:3]}"


def main(count, seed):
    """Try so many random pairs; prints each that differs and a table; returns how many did."""
    draw, bad, tried = random.Random(seed), 0, Counter()
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(folder)
        for _ in range(count):
            first, second = draw.choice(list(COMMANDS)), draw.choice(list(COMMANDS))
            apart_s = draw.choice((0.0, draw.uniform(0, 0.15)))
            what = difference(trials, first, second, apart_s)
            tried.update({first, second})
            if what:
                bad += 1
                print(f"{first} | {second}, {apart_s:.3f} s apart: {what}")
    print("command              pairs")
    for name in COMMANDS:
        print(f"{name:<22}{tried[name]:>4}")
    print(f"{count} pairs, seed {seed}: {count - bad} left what one of the two orders leaves")
    return bad


if __name__ == "__main__":
    sys.exit(bool(main(int((sys.argv[1:] or ["200"])[0]), int((sys.argv[2:] or ["0"])[0]))))

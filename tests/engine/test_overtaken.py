"""A command beside people who correct without a pause: it ends all the same, and nothing of either is lost."""

import contextlib
import inspect
import threading
import time

import pytest

import florence2
from florence2.engine.commands import import_labels, relocate
from florence2.engine.curation.correcting import AnnotationChange, Corrected, Correction, correct
from florence2.engine.curation.merging import MergeConfig
from florence2.formats import jsonl
from florence2.records import ImageRef, Region, Sample
from florence2.refinement import refine
from florence2.store import COMMIT_TRIES, Store
from florence2.store.snapshots import StaleBase
from florence2.store.storage.local import LocalStorage
from tests.engine.doubles import Boxes, Floor, folder_of
from tests.refinement.test_refine import FakeTraining, Learned

WAIT_S = 1.0  # in which somebody overtakes a command, if somebody can


class Corrector(threading.Thread):
    """A person who enters one correction after another."""

    def __init__(self, root):
        super().__init__(daemon=True)
        self.store, self.done, self.going, self.fault = Store(root), 0, True, None

    def run(self):
        index = None
        try:
            while self.going:
                box = (1.0, 1.0, 5.0 + self.done % 7, 6.0)
                change = AnnotationChange("added", label=f"hen {self.done}", box=box)
                image = index.ids[self.done % 2] if index else next(iter(self.store.images())).id
                (outcome,), index = correct(self.store, [Correction("Ada", image, (change,))], index)
                assert isinstance(outcome, Corrected)
                self.done += 1
        except Exception as error:
            self.fault = error

    def stop(self):
        self.going = False
        self.join()
        if self.fault:
            raise self.fault


@pytest.fixture
def store(tmp_path):
    (tmp_path / "a").mkdir()
    return florence2.annotate(folder_of(tmp_path / "a", 2), tmp_path / "s", [Boxes()], workers=0)


@pytest.fixture
def corrector(store, monkeypatch):
    """Somebody who overtakes every commit of the test's own thread, as long as commits of others are possible."""
    person, mine, written = Corrector(store.root), threading.get_ident(), LocalStorage.put_if_absent
    overtaken = []

    def put_if_absent(self, files, durable=True):
        if threading.get_ident() == mine and files[0][0].startswith("snapshots/"):
            before, end = len(store.snapshots()), time.monotonic() + WAIT_S
            while len(store.snapshots()) == before and time.monotonic() < end:
                time.sleep(0.005)
        return written(self, files, durable)

    monkeypatch.setattr(LocalStorage, "commit_turn", unlocked_until_it_must(LocalStorage.commit_turn, mine))
    monkeypatch.setattr(LocalStorage, "put_if_absent", put_if_absent)
    monkeypatch.setattr(StaleBase, "__init__", lambda self, *_: overtaken.append(threading.get_ident() == mine))
    person.overtaken = overtaken
    person.start()
    yield person
    person.stop()


def unlocked_until_it_must(commit_turn, mine):
    """The moment's lock around each commit of the test's thread is left out, so that it is overtaken every time."""

    def turn(self):
        moment = threading.get_ident() == mine and inspect.stack()[1].function == "write"
        return contextlib.nullcontext() if moment else commit_turn(self)

    return turn


def more_labels(tmp_path):
    (tmp_path / "b").mkdir()
    samples = []
    for n, path in enumerate(sorted(folder_of(tmp_path / "b", 2).glob("*.png"))):
        region = Region("cow", box=(1.0, 2.0, 9.0, 20.0), label="cow", label_space="things")
        samples.append(Sample(f"s{n}", ImageRef(path.name, str(path)), regions=(region,)))
    jsonl.write(samples, tmp_path / "in")
    return tmp_path / "in"


COMMANDS = {
    "filter": lambda store, _: florence2.filter(store, [Floor(0.35)], workers=0),
    "merge": lambda store, _: florence2.filter(store, [Floor(0.35)], merging=MergeConfig(), workers=0),
    "import": lambda store, tmp: import_labels(more_labels(tmp), store.root, workers=0),
    "annotate": lambda store, tmp: florence2.annotate(
        tmp / "a" / "pictures", store.root, [Boxes(name="b2")], workers=0
    ),
    "relocate": lambda store, tmp: relocate(store, tmp / "a", tmp / "elsewhere"),
    "compact": lambda store, _: store.compact(),
    "undo": lambda store, _: store.undo(to=1),
    "refine": lambda store, _: refine(
        store, 1, folds=1, rules=[Floor(0.35)], workers=0, train=FakeTraining(), open_student=Learned
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_overtaken_every_time_ends_and_nothing_is_lost(name, store, corrector, tmp_path):
    COMMANDS[name](store, tmp_path)
    assert sum(corrector.overtaken) >= COMMIT_TRIES  # and of refine the filter before the round
    corrector.stop()
    phases = [store.snapshot(number).phase.get("phase", name) for number in store.snapshots()]
    assert phases.count("correct") >= COMMIT_TRIES and store.verify() == []
    if name != "undo":
        kept = {region.label for sample in store.samples() for region in sample.regions}
        assert {f"hen {n}" for n in range(corrector.done)} <= kept
    rows = store.table("decisions", columns=["ann_id", "round", "seq"]).to_pylist()
    assert len({tuple(row.values()) for row in rows}) == len(rows)


def test_the_right_to_commit_ends_with_its_process_and_is_not_asked_for_twice(store):
    """Whoever holds it may commit; others wait, until it is given back."""
    corrector = Corrector(store.root)
    with store.turn_after(COMMIT_TRIES), store.turn_after(COMMIT_TRIES):
        corrector.start()
        before = store.snapshots()
        time.sleep(0.5)
        assert store.snapshots() == before
        store.compact()
        assert len(store.snapshots()) == len(before) + 1
    end = time.monotonic() + 10
    while corrector.done < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    corrector.stop()
    with pytest.raises(StaleBase):
        store.save(store.snapshot(1), [], [])

"""Specialists read what stands: what is kept, and what is kept anew is asked about; verdicts make nobody run again."""

import dataclasses
import shutil

import pytest

import florence2
from florence2.engine import specialists
from florence2.engine.operator import Spec
from florence2.engine.planning.repair import repair
from florence2.records import Decision, Parsed, Region, Text
from florence2.store import Store
from tests.engine.doubles import Boxes, folder_of, fragments


class Masks:
    """Refines each box that it is shown, and remembers which."""

    def __init__(self, reads_all=False):
        self.spec = Spec(
            "masks", "1", frozenset({"region_text/mask"}), frozenset({"region_text/object"}), reads_all=reads_all
        )
        self.config, self.weights_sha256, self.seen = {"all": reads_all}, "", []

    def setup(self, device):
        pass

    def annotate(self, samples, images):
        out = []
        for sample in samples:
            boxes = [r for r in sample.regions if not r.refines]
            self.seen += [r.id for r in boxes]
            out.append(Parsed(regions=tuple(Region(f"m{n}", box=r.box, refines=r.id) for n, r in enumerate(boxes))))
        return out

    def close(self):
        pass


class Floor:
    """Rejects boxes below a score."""

    def __init__(self, floor):
        self.spec = Spec("floor", "1")
        self.config, self.weights_sha256 = {"floor": floor}, ""

    def judge(self, sample):
        low = [r for r in sample.regions if not r.refines and r.score < self.config["floor"]]
        return [Decision(r.id, "rejected", "floor", "low") for r in low]


@pytest.fixture
def store(tmp_path):
    return florence2.annotate(folder_of(tmp_path, 6), tmp_path / "s", [Boxes()], workers=0, unit=3)


def boxes(store, status="kept"):
    found = {}
    for sample in store.samples(view="all"):
        last = {d.item_id: d.status for d in sample.decisions}
        found |= {r.id: last.get(r.id, "kept") for r in sample.regions if not r.refines}
    return {name for name, its in found.items() if its == status}


def masked(store):
    """The boxes that a mask stands for."""
    return [r.refines for sample in store.samples() for r in sample.regions if r.refines]


def annotate(store, *with_):
    return florence2.annotate(store.root, with_=list(with_), workers=0)


def scores(store):
    return sorted(r.score for sample in store.samples(view="all") for r in sample.regions if not r.refines)


def test_only_what_is_kept_is_read(store):
    florence2.filter(store, [Floor(scores(store)[3])])
    masks = Masks()
    annotate(store, masks)
    assert boxes(store, "rejected") and sorted(masks.seen) == sorted(boxes(store)) == sorted(masked(store))
    before = store.snapshot()
    annotate(store, Masks())
    assert store.snapshot() == before


def test_a_card_may_have_all_read(store, tmp_path):
    florence2.filter(store, [Floor(scores(store)[3])])
    masks = Masks(reads_all=True)
    annotate(store, masks)
    assert len(masks.seen) == 6
    (tmp_path / "card.yaml").write_text("specialist: grounder\nread: all\n")
    plain, card = specialists.open("grounder"), specialists.open(str(tmp_path / "card.yaml"))
    assert card.spec.reads_all and not plain.spec.reads_all and card.config != plain.config
    for text, message in (("grounder\nread: some", "expected all"), ("opencv\nread: all", "reads no annotations")):
        (tmp_path / "card.yaml").write_text(f"specialist: {text}\n")
        with pytest.raises(ValueError, match=message):
            specialists.open(str(tmp_path / "card.yaml"))


def test_what_is_kept_anew_is_asked_about_and_nothing_else(store):
    order = scores(store)
    florence2.filter(store, [Floor(order[4])])
    annotate(store, Masks())
    before = fragments(store)
    florence2.filter(store, [Floor(order[2])])
    masks = Masks()
    annotate(store, masks)
    assert len(masks.seen) == 2 and sorted(masked(store)) == sorted(boxes(store))
    ids = store.table("annotations")["ann_id"].to_pylist()
    assert len(ids) == len(set(ids)) and before.items() <= fragments(store).items()
    again = Masks()
    annotate(store, again)
    assert not again.seen
    masks = [o for o in store.snapshot().operators if o.name == "masks"]
    assert len(masks) == 1 and not masks[0].replaced  # verdicts are no part of the fingerprint


class Texts:
    """Counts the boxes that stand."""

    def __init__(self):
        self.spec = Spec("texts", "1", frozenset({"text/brief"}), frozenset({"region_text/object"}))
        self.config, self.weights_sha256, self.asked = {}, "", 0

    def setup(self, device):
        pass

    def annotate(self, samples, images):
        self.asked += len(samples)
        return [Parsed(texts=(Text("t", f"{len(s.regions)} boxes"),)) for s in samples]

    def close(self):
        pass


def test_a_text_of_what_stood_gives_way_to_one_of_what_stands(store):
    def texts():
        return sorted(t.text for s in store.samples() for t in s.texts if t.source.name == "texts")

    order = scores(store)
    florence2.filter(store, [Floor(order[4])])
    annotate(store, Texts())
    assert texts() == ["0 boxes"] * 4 + ["1 boxes"] * 2
    florence2.filter(store, [Floor(order[2])])
    again = Texts()
    annotate(store, again)
    assert again.asked == 2 and texts() == ["0 boxes"] * 2 + ["1 boxes"] * 4
    assert store.reasons()["annotations"]["asked_again"] == 2
    before = store.snapshot()
    annotate(store, Texts())
    assert store.snapshot() == before
    florence2.filter(store, [Floor(order[2])])  # the new texts were not judged yet
    assert store.snapshot().number == before.number + 1
    decided = [(d["ann_id"], d["round"], d["seq"]) for d in store.table("decisions").to_pylist()]
    assert len(decided) == len(set(decided)) and texts() == ["0 boxes"] * 2 + ["1 boxes"] * 4


def test_what_leans_on_a_box_rejected_later_is_an_orphan(store):
    order = scores(store)
    florence2.filter(store, [Floor(0.0)])
    annotate(store, Masks())
    florence2.filter(store, [Floor(order[3])])
    assert sorted(masked(store)) == sorted(boxes(store)) and len(boxes(store, "rejected")) == 3
    assert store.reasons()["annotations"]["orphan"] >= 3


def test_work_over_what_stood_is_made_again_to_the_byte(store):
    order = scores(store)
    florence2.filter(store, [Floor(order[4])])
    annotate(store, Masks())
    florence2.filter(store, [Floor(order[2])])
    annotate(store, Masks())
    found = sorted((store.root / "annotations/round-0/masks@1").glob("*.parquet"))
    assert len(found) > 2
    for path in found:
        whole = path.read_bytes()
        path.write_bytes(whole[:-9])
        assert repair(store, store.verify(), [Masks()], workers=0) == []
        assert path.read_bytes() == whole


class Stops(Texts):
    """Is interrupted before the n-th picture; one picture is a batch."""

    def __init__(self, after):
        super().__init__()
        self.spec = dataclasses.replace(self.spec, batch_size=1)
        self.after = after

    def annotate(self, samples, images):
        if self.asked == self.after:
            raise KeyboardInterrupt
        return super().annotate(samples, images)


@pytest.mark.parametrize("after", [3, 4])  # one unit of three is whole; and a piece of the next
def test_what_an_interrupted_reader_left_is_not_taken_for_what_it_says_after_other_verdicts(
    store, tmp_path, monkeypatch, after
):
    monkeypatch.setattr("florence2.engine.execution.handout.Pace.piece", lambda self, size, left: 1)
    order = scores(store)
    florence2.filter(store, [Floor(order[4])])
    clean = shutil.copytree(store.root, tmp_path / "clean")
    before = fragments(store)
    with pytest.raises(KeyboardInterrupt):
        annotate(store, Stops(after))
    assert fragments(store) != before
    assert len(list((store.root / "tmp" / "pieces").glob("*/*"))) == after - 3
    for out in (store.root, clean):
        florence2.filter(out, [Floor(order[2])])
        florence2.annotate(out, with_=[Stops(99)], workers=0)
    assert list(store.samples(view="all")) == list(Store(clean).samples(view="all"))
    assert fragments(store) == fragments(Store(clean))
    assert not [path for path in (store.root / "tmp").rglob("*") if "pieces" in path.parts and path.is_file()]


def test_an_answer_that_was_undone_is_an_earlier_answer_after_other_verdicts(store):
    order = scores(store)
    florence2.filter(store, [Floor(order[4])])
    annotate(store, Masks())
    before = fragments(store)
    store.undo()
    florence2.filter(store, [Floor(order[2])])
    masks = Masks()
    annotate(store, masks)
    assert len(masks.seen) == 2 and sorted(masked(store)) == sorted(boxes(store))
    assert before.items() <= fragments(store).items() and store.verify() == []

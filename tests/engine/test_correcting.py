"""A person's corrections: they stand in the store in every later round, whoever else works on it; and can be undone."""

import dataclasses
import json
import threading

import pytest

import florence2
from florence2.engine.commands import import_labels
from florence2.engine.curation.correcting import (
    AnnotationChange,
    Corrected,
    Correction,
    CorrectionRefused,
    NotInStore,
    Overtaken,
    correct,
)
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.curation.review_order import review_order
from florence2.engine.export import export_labels
from florence2.formats import coco, jsonl
from florence2.geometry import encode_rle
from florence2.records import Coverage, ImageRef, Region, Sample, Source, Text
from florence2.store import Store
from tests.engine.doubles import Floor, folder_of

MODEL = Source("specialist", "yolox", "2")


def thing(name, x, label, score=0.9, **more):
    return Region(
        name, box=(x, 2.0, x + 8.0, 20.0), label=label, label_space="things", score=score, source=MODEL, **more
    )


@pytest.fixture
def store(tmp_path):
    """Four pictures with a cat, a dog with a mask of its own, a weak cat, a word and a caption each; judged."""
    import numpy as np

    folder, samples = folder_of(tmp_path, 4), []
    mask = np.zeros((30, 40), bool)
    mask[3:19, 12:18] = True
    for n, path in enumerate(sorted(folder.glob("*.png"))):
        regions = (
            thing("cat", 1.0, "cat"),
            thing("dog", 11.0, "dog"),
            thing("weak", 31.0, "cat", score=0.1),
            Region("word", kind="text", quad=(1.0, 22.0, 9.0, 22.0, 9.0, 28.0, 1.0, 28.0), label="STOP", source=MODEL),
            Region("mask", mask=encode_rle(mask), label="dog", refines="dog", source=MODEL),
        )
        texts = (Text("t", "a cat", source=MODEL),)
        samples.append(Sample(f"s{n}", ImageRef(path.name, str(path)), texts, regions))
    jsonl.write(samples, tmp_path / "in")
    return florence2.filter(import_labels(tmp_path / "in", tmp_path / "s", workers=0), workers=0)


@pytest.fixture
def index(store):
    return store.picture_index()


def of(index, place=0):
    """(image id, label -> its region or text) of a picture."""
    sample = index.state(index.ids[place]).sample
    return sample.image.id, {getattr(i, "label", "") or i.text: i for i in sample.items()[::-1]}


def one(store, index, person="Ada", place=0, **more):
    """A correction of one picture that is entered, and the index after it."""
    if "changes" in more:
        more["changes"] = tuple(more["changes"])
    (outcome,), index = correct(store, [Correction(person, index.ids[place], **more)], index)
    if isinstance(outcome, CorrectionRefused):
        raise outcome
    return outcome, index


def current(store, place=0):
    return list(store.samples())[place]


def objects(sample):
    return [region for region in sample.regions if region.kind == "object" and not region.refines]


def test_each_verdict_is_a_persons_in_the_store(store, index):
    image, items = of(index)
    changes = [
        AnnotationChange("kept", items["cat"].id),
        AnnotationChange("changed", items["dog"].id, label="wolf"),
        AnnotationChange("rejected", items["STOP"].id),
        AnnotationChange("changed", items["a cat"].id, text="a cat and a wolf"),
        AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 5.0)),
        AnnotationChange("added", kind="text", label="GO", quad=(1.0, 1.0, 9.0, 1.0, 9.0, 5.0, 1.0, 5.0)),
        AnnotationChange("added", label="hill", polygons=((0.0, 20.0, 40.0, 20.0, 40.0, 30.0),)),
        AnnotationChange("added", kind="detailed", text="A cat, a wolf and a hen on a hill."),
    ]
    outcome, _ = one(store, index, changes=changes)
    sample = current(store)
    found = {
        getattr(item, "label", "") or item.text: item for item in sample.items() if not getattr(item, "refines", "")
    }
    assert set(found) == {"cat", "wolf", "a cat and a wolf", "hen", "GO", "hill", "A cat, a wolf and a hen on a hill."}
    assert found["cat"].source == items["cat"].source and found["cat"].score == 0.9
    for name in set(found) - {"cat"}:
        assert (found[name].source.kind, found[name].source.name, found[name].score) == ("human", "Ada", None)
    assert found["wolf"].box == items["dog"].box and found["hen"].label_space == "things"
    assert found["hill"].box == (0.0, 20.0, 40.0, 30.0)
    named = [
        found[n].id if n in found else items[n].id for n in ("cat", "wolf", "STOP", "a cat and a wolf", "hen", "GO")
    ]
    assert list(outcome.ann_ids[:6]) == named
    history = store.history(items["dog"].id)
    assert history["decisions"][-1]["by_ann_id"] == found["wolf"].id
    assert store.run(history["decisions"][-1]["run_id"])["person"] == "Ada"
    assert f"{history['decisions'][-1]['round']}.{history['decisions'][-1]['seq']}" == outcome.name
    assert store.verify() == []
    assert image == sample.image.id and [current(store, n) for n in (1, 2, 3)] == list(store.samples(2))[1:]


def test_what_is_sent_again_is_entered_once(store, index):
    """A connection may drop between the store's commit and the answer; the page then sends the correction again."""
    hen = AnnotationChange("added", label="hen", box=(1.1, 1.0, 5.3, 5.0))
    changes = [hen, hen, AnnotationChange("added", kind="detailed", text="A hen.")]
    first, index = one(store, index, changes=changes)
    again, index = one(store, index, changes=changes)
    assert again.ann_ids == first.ann_ids and len(set(first.ann_ids)) == 3
    assert [region.label for region in objects(current(store))].count("hen") == 2
    other, index = one(store, index, person="Bob", changes=[hen])
    assert other.ann_ids[0] not in first.ann_ids
    moved, _ = one(store, index, changes=[dataclasses.replace(hen, box=(1.2, 1.0, 5.3, 5.0))])
    assert moved.ann_ids[0] not in first.ann_ids and store.verify() == []


def test_what_was_sent_again_is_undone_as_what_was_sent_once(store, index):
    hen = [AnnotationChange("added", label="hen", box=(1.1, 1.0, 5.3, 5.0))]
    first, index = one(store, index, changes=hen)
    again, index = one(store, index, changes=hen)
    assert again == first and store.snapshots()[-1] == first.snapshot  # nothing is written
    undone, index = one(store, index, undoes=again.name)
    assert "hen" not in [region.label for region in objects(current(store))]
    anew, index = one(store, index, changes=hen)
    assert anew.ann_ids != first.ann_ids
    kept, index = one(store, index, person="Bob", changes=[AnnotationChange("kept", anew.ann_ids[0])])
    later, _ = one(store, index, changes=hen)  # another has judged it since: a verdict of its own
    assert later.ann_ids == anew.ann_ids and later.name not in (anew.name, kept.name)
    twice, _ = correct(store, [Correction("Ada", index.ids[1], tuple(hen))] * 2)
    assert twice[0] == twice[1]


def test_what_is_only_relabelled_keeps_its_mask_and_what_is_moved_loses_it(store, index):
    _, items = of(index)
    masked = index.state(index.ids[0]).sample.regions[4].id
    outcome, index = one(store, index, changes=[AnnotationChange("changed", items["dog"].id, label="wolf")])
    assert {r.id: r.refines for r in current(store).regions}[masked] == outcome.ann_ids[0]
    assert {r.label for r in current(store).regions if outcome.ann_ids[0] in (r.id, r.refines)} == {"wolf"}
    moved, index = one(
        store, index, changes=[AnnotationChange("changed", outcome.ann_ids[0], box=(12.0, 2.0, 20.0, 20.0))]
    )
    regions = {r.id: r for r in current(store).regions}
    assert masked not in regions and regions[moved.ann_ids[0]].label == "wolf"


def test_a_box_in_place_of_an_outline_drops_it(store, index):
    hill, index = one(
        store, index, changes=[AnnotationChange("added", label="hill", polygons=((0.0, 20.0, 40.0, 20.0, 40.0, 30.0),))]
    )
    one(store, index, changes=[AnnotationChange("changed", hill.ann_ids[0], box=(1.0, 20.0, 30.0, 30.0))])
    (region,) = [r for r in current(store).regions if r.label == "hill"]
    assert region.box == (1.0, 20.0, 30.0, 30.0) and not region.polygons


def test_a_correction_is_kept_in_every_later_round(store, index):
    _, items = of(index)
    weak = next(r for r in index.state(index.ids[0]).sample.regions if r.score == 0.1)
    changes = [
        AnnotationChange("kept", weak.id),  # which the rules reject
        AnnotationChange("rejected", items["cat"].id),  # which they keep
        AnnotationChange("changed", items["dog"].id, label="wolf"),
        AnnotationChange("added", label="hen", box=(21.0, 2.0, 29.0, 20.0)),
    ]
    one(store, index, changes=changes, complete=("cat", "wolf", "hen"))
    expected = current(store)
    assert {r.label for r in objects(expected)} == {"cat", "wolf", "hen"} and weak.id in {
        r.id for r in expected.regions
    }
    for least in (0.2, 0.5):
        florence2.filter(store, [Floor(least)], merging=MergeConfig(), workers=0)
        after = current(store)
        assert {r.id for r in objects(after)} == {r.id for r in objects(expected)}
        assert after.coverage == expected.coverage
    assert current(store, 1) != list(store.samples(2))[1]  # where nobody looked the rules did their work


def test_corrected_after_a_later_round_too(store, index):
    _, items = of(index)
    florence2.filter(store, [Floor(0.2)], workers=0)
    outcome, index = one(store, index, changes=[AnnotationChange("rejected", items["cat"].id)])
    assert outcome.name.startswith("1.")
    again, _ = one(store, index, "Bob", changes=[AnnotationChange("kept", items["cat"].id)])
    assert items["cat"].id in {r.id for r in current(store).regions}
    assert [int(part) for part in again.name.split(".")] > [int(part) for part in outcome.name.split(".")]


def test_what_a_person_says_comes_out_in_an_export(store, index, tmp_path):
    _, items = of(index)
    changes = [
        AnnotationChange("changed", items["dog"].id, label="wolf"),
        AnnotationChange("rejected", items["cat"].id),
    ]
    one(store, index, changes=changes)
    export_labels(store, "coco", tmp_path / "out")
    sample = next(iter(coco.read(tmp_path / "out" / "instances.json")))
    assert [r.label for r in sample.regions if r.box == items["dog"].box and r.label != "dog"] == ["wolf"]
    assert "cat" not in [r.label for r in sample.regions]


def test_a_complete_picture_leaves_the_queue(store, index):
    assert {one.image_id for one in review_order(store)} == set(index.ids)
    one(store, index, place=1, complete=("cat", "dog"))
    assert {one.image_id for one in review_order(store)} == set(index.ids) - {index.ids[1]}
    assert current(store, 1).coverage == {"things": (Coverage("exhaustive", ("cat", "dog")),)}


def test_completeness_is_added_to_taken_back_and_undone(store, index):
    first, index = one(store, index, complete=("cat",))
    second, index = one(store, index, "Bob", complete=("dog",), incomplete=("cat",))
    assert current(store).coverage == {"things": (Coverage("exhaustive", ("dog",)),)}
    with pytest.raises(Overtaken, match="stated again since"):
        one(store, index, undoes=first.name)
    _, index = one(store, index, undoes=second.name)
    assert current(store).coverage == {"things": (Coverage("exhaustive", ("cat",)),)}
    _, index = one(store, index, incomplete=("cat",))
    assert not current(store).coverage["things"]
    assert index.state(index.ids[0]).sample.coverage == current(store).coverage
    store.compact()
    _, index = one(store, index, complete=("hen",))
    assert current(store).coverage["things"] == (Coverage("exhaustive", ("hen",)),)


def test_undo_leaves_all_as_it_was_and_redo_brings_it_back(store, index):
    _, items = of(index)
    before = current(store)
    weak = next(r for r in index.state(index.ids[0]).sample.regions if r.score == 0.1)
    changes = [
        AnnotationChange("kept", weak.id),
        AnnotationChange("rejected", items["cat"].id),
        AnnotationChange("changed", items["dog"].id, box=(12.0, 2.0, 20.0, 20.0)),
        AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 5.0)),
    ]
    done, index = one(store, index, changes=changes, complete=("cat",))
    after = current(store)
    undone, index = one(store, index, "Bob", undoes=done.name)
    back = current(store)
    assert (back.regions, back.texts) == (before.regions, before.texts) and not any(back.coverage.values())
    _, index = one(store, index, undoes=undone.name)
    assert {r.id for r in current(store).regions} == {r.id for r in after.regions}
    assert current(store).coverage == after.coverage
    florence2.filter(store, [Floor(0.95)], workers=0)
    assert {r.id for r in objects(current(store))} == {r.id for r in objects(after)}


def test_one_correction_after_another_is_undone_and_done_again(store, index):
    _, items = of(index)
    states, names = [], []
    added, index = one(store, index, changes=[AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 5.0))])
    last = added.ann_ids[0]
    names.append(added.name)
    for change in (dict(label="cock"), dict(box=(2.0, 2.0, 9.0, 9.0)), dict(label="duck")):
        states.append(current(store).regions)
        done, index = one(store, index, changes=[AnnotationChange("changed", last, **change)])
        last = done.ann_ids[0]
        names.append(done.name)
    undone = []
    for name, expected in zip(names[:0:-1], states[::-1]):
        back, index = one(store, index, undoes=name)
        undone.append(back.name)
        assert current(store).regions == expected
    for name, expected in zip(undone[:0:-1], states[1:]):
        back, index = one(store, index, undoes=name)
        assert current(store).regions == expected


def test_what_was_undone_holds_nothing_up_or_down_any_longer(store, index):
    _, items = of(index)
    weak = next(r for r in index.state(index.ids[0]).sample.regions if r.score == 0.1)
    changes = [AnnotationChange("rejected", items["dog"].id), AnnotationChange("rejected", weak.id)]
    changes.append(AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 5.0)))
    done, index = one(store, index, changes=changes)
    undone, index = one(store, index, undoes=done.name)
    florence2.filter(store, [Floor(0.05)], workers=0)
    assert {r.label for r in objects(current(store))} == {"cat", "dog"} and weak.id in {
        r.id for r in current(store).regions
    }
    with pytest.raises(Overtaken, match="judged again since"):
        one(store, index, undoes=undone.name)


def test_what_was_judged_since_is_not_undone(store, index):
    _, items = of(index)
    first, index = one(store, index, changes=[AnnotationChange("rejected", items["cat"].id)])
    second, index = one(store, index, "Bob", changes=[AnnotationChange("kept", items["cat"].id)])
    with pytest.raises(Overtaken, match="judged again since"):
        one(store, index, undoes=first.name)
    _, index = one(store, index, undoes=second.name)
    assert items["cat"].id not in {r.id for r in current(store).regions}


def test_only_corrections_are_undone(store, index):
    by_rule = next(d for d in index.state(index.ids[0]).sample.decisions)
    with pytest.raises(CorrectionRefused, match="work of a command"):
        one(store, index, undoes=f"{by_rule.round}.{by_rule.seq}")
    with pytest.raises(NotInStore, match="no correction"):
        one(store, index, undoes="7.7")


def test_who_saw_another_state_is_told(store, index):
    _, items = of(index)
    stale = index
    first, index = one(store, index, changes=[AnnotationChange("rejected", items["cat"].id, seen="")])
    with pytest.raises(Overtaken, match="rejected now"):
        one(store, stale, "Bob", changes=[AnnotationChange("kept", items["cat"].id, seen="")])
    one(store, stale, "Bob", changes=[AnnotationChange("kept", items["cat"].id, seen=first.name)])
    wolf, index = one(store, index, changes=[AnnotationChange("changed", items["dog"].id, label="wolf")])
    with pytest.raises(Overtaken, match=f"replaced by {wolf.ann_ids[0]}"):
        one(store, stale, "Bob", changes=[AnnotationChange("kept", items["dog"].id)])


REFUSED = [
    (dict(person=" "), "person"),
    (dict(person="x" * 101), "person"),
    (dict(person="a\x00b"), "person"),
    (dict(changes=()), "changes"),
    (dict(changes=[AnnotationChange("praised", "cat")]), "changes.0.verdict"),
    (dict(changes=[AnnotationChange("kept", "nothing")]), "changes.0.ann_id"),
    (dict(changes=[AnnotationChange("kept", "cat"), AnnotationChange("rejected", "cat")]), "changes.1.ann_id"),
    (dict(changes=[AnnotationChange("changed", "cat")]), "changes.0"),
    (dict(changes=[AnnotationChange("changed", "cat", label=" ")]), "changes.0.label"),
    (dict(changes=[AnnotationChange("changed", "cat", label="\ud800")]), "changes.0.label"),
    (dict(changes=[AnnotationChange("changed", "cat", text="x")]), "changes.0.text"),
    (dict(changes=[AnnotationChange("changed", "a cat", label="x")]), "changes.0.text"),
    (dict(changes=[AnnotationChange("changed", "cat", box=(5.0, 5.0, 5.0, 9.0))]), "changes.0.box"),
    (dict(changes=[AnnotationChange("changed", "cat", box=(9.0, 5.0, 1.0, 9.0))]), "changes.0.box"),
    (dict(changes=[AnnotationChange("added", label="x", box=(1.0, 2.0, float("nan"), 4.0))]), "changes.0.box"),
    (dict(changes=[AnnotationChange("added", label="x", box=(1.0, 2.0, 3.0))]), "changes.0.box"),
    (dict(changes=[AnnotationChange("added", label="x", polygons=((1.0, 2.0, 3.0, 4.0),))]), "changes.0"),
    (dict(changes=[AnnotationChange("added", label="x")]), "changes.0"),
    (dict(changes=[AnnotationChange("added", label="x", box=(-9.0, -9.0, -1.0, -1.0))]), "changes.0.box"),
    (dict(changes=[AnnotationChange("added", label="x", box=(1e300, 1.0, 2e300, 5.0))]), "changes.0.box"),
    (dict(changes=[AnnotationChange("added", label="x", polygons=((5.0, 5.0) * 3,))]), "changes.0"),
    (
        dict(changes=[AnnotationChange("added", label="x", quad=(90.0, 1.0, 99.0, 1.0, 99.0, 9.0, 90.0, 9.0))]),
        "changes.0",
    ),
    (dict(changes=[AnnotationChange("added", label="x\0y", box=(1.0, 2.0, 3.0, 4.0))]), "changes.0.label"),
    (dict(changes=[AnnotationChange("rejected", "cat", label="dog")]), "changes.0.label"),
    (dict(changes=[AnnotationChange("kept", "cat", box=(1.0, 2.0, 3.0, 4.0))]), "changes.0.box"),
    (dict(changes=[AnnotationChange("added", "cat", label="x", box=(1.0, 2.0, 3.0, 4.0))]), "changes.0.ann_id"),
    (dict(changes=[AnnotationChange("added", kind="poem", text="x")]), "changes.0.kind"),
    (dict(complete=("cat",), incomplete=("cat",)), "complete"),
    (dict(complete=(" ",)), "complete.0"),
    (dict(complete=("cat",), undoes="0.1"), "undoes"),
]


@pytest.mark.parametrize(("wrong", "field"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_wrong_is_named_and_nothing_is_entered(store, index, wrong, field):
    _, items = of(index)
    ids = {name: item.id for name, item in items.items()}
    wrong = {**wrong}
    if "changes" in wrong:
        wrong["changes"] = [dataclasses.replace(c, ann_id=ids.get(c.ann_id, c.ann_id)) for c in wrong["changes"]]
    with pytest.raises(CorrectionRefused) as refused:
        one(store, index, **wrong)
    assert refused.value.field == field
    assert store.snapshots() == [1, 2]


def test_what_lies_outside_is_cut_at_the_pictures_edge(store, index):
    one(store, index, changes=[AnnotationChange("added", label="hen", box=(-5.0, -5.0, 400.0, 10.0))])
    (region,) = [r for r in current(store).regions if r.label == "hen"]
    width, _ = current(store).image.size_wh
    assert region.box == (0.0, 0.0, float(width), 10.0)


def test_a_new_label_is_folded_and_a_known_one_is_as_the_store_has_it(store, index):
    shape = {"box": (1.0, 1.0, 5.0, 5.0)}
    more = [AnnotationChange("added", label=label, **shape) for label in (" cat ", "red\n hen", "hen")]
    outcome, index = one(store, index, changes=more, complete=(" red  hen",))
    made = {region.id: region.label for region in current(store).regions}
    assert [made[name] for name in outcome.ann_ids] == ["cat", "red hen", "hen"]
    assert [state.labels for state in current(store).coverage["things"]] == [("red hen",)]


def test_an_outline_that_refines_a_box_is_moved_and_refines_it_still(store, index):
    mask = next(region for region in current(store).regions if region.refines)
    moved = (12.0, 4.0, 18.0, 4.0, 18.0, 18.0)
    outcome, _ = one(store, index, changes=[AnnotationChange("changed", mask.id, polygons=(moved,))])
    (found,) = [region for region in current(store).regions if region.id == outcome.ann_ids[0]]
    assert (found.refines, found.polygons, found.mask) == (mask.refines, (moved,), None)


def test_a_picture_that_is_not_good_is_named_so(tmp_path):
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "blank.png")
    coco_file = {"images": [{"id": 1, "file_name": "blank.png", "width": 40, "height": 30}], "annotations": []}
    (tmp_path / "in" / "labels.json").write_text(json.dumps({**coco_file, "categories": [{"id": 1, "name": "cat"}]}))
    store = import_labels(tmp_path / "in" / "labels.json", tmp_path / "s", images=tmp_path / "in", workers=0)
    with pytest.raises(CorrectionRefused, match="expected a good picture; this one is rejected blank"):
        one(store, store.picture_index(), complete=("cat",))
    with pytest.raises(NotInStore, match="no picture 'elsewhere'"):
        raise correct(store, [Correction("Ada", "elsewhere", complete=("cat",))])[0][0]


def test_a_refused_one_holds_up_no_other(store, index):
    ids = index.ids
    asked = [
        Correction("Ada", ids[0], complete=("cat",)),
        Correction("Ada", "nowhere", complete=("cat",)),
        Correction("Bob", ids[1], (AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 5.0)),)),
        Correction("Bob", ids[1], (AnnotationChange("added", label="hen", box=(6.0, 1.0, 9.0, 5.0)),)),
    ]
    outcomes, _ = correct(store, asked, index)
    assert [type(outcome) for outcome in outcomes] == [Corrected, NotInStore, Corrected, Corrected]
    assert len({outcome.name for outcome in outcomes if isinstance(outcome, Corrected)}) == 3
    assert {o.snapshot for o in outcomes if isinstance(o, Corrected)} == {3} and store.snapshots() == [1, 2, 3]
    assert sum(r.label == "hen" for r in current(store, 1).regions) == 2
    assert len({r.id for r in current(store, 1).regions}) == len(current(store, 1).regions)


def test_people_and_commands_at_once_lose_nothing(store, index):
    """Three people, each by a Store of their own, and a filter between them."""
    people, each, faults = ("Ada", "Bob", "Cem"), 8, []

    def work(person):
        own, known = Store(store.root), index
        try:
            for n in range(each):
                change = AnnotationChange("added", label=f"{person} {n}", box=(1.0, 1.0, 5.0 + n, 5.0))
                (outcome,), known = correct(own, [Correction(person, index.ids[n % 4], (change,))], known)
                assert isinstance(outcome, Corrected)
        except Exception as error:
            faults.append(error)

    def judge():
        try:
            florence2.filter(Store(store.root), [Floor(0.3)], workers=0)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(person,)) for person in people] + [threading.Thread(target=judge)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    found = [r.label for sample in store.samples() for r in sample.regions if r.source.kind == "human"]
    assert sorted(found) == sorted(f"{person} {n}" for person in people for n in range(each))
    rows = store.table("decisions", columns=["ann_id", "round", "seq"]).to_pylist()
    assert len({tuple(row.values()) for row in rows}) == len(rows)
    assert store.verify() == []


def test_a_correction_can_be_stepped_back_like_any_command(store, index):
    before = current(store)
    one(store, index, changes=[AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 5.0))])
    store.undo()
    assert current(store) == before


def test_a_lost_correction_is_named_with_whose_it_was(store, index):
    """It cannot be made again: what can be is, and the rest is said."""
    from florence2.engine.planning.repair import repair

    one(store, index, changes=[AnnotationChange("added", label="hen", box=(1.0, 1.0, 5.0, 5.0))])
    path = next(p for p in store.paths("annotations") if "corrected@" in p)
    with open(path, "r+b") as file:
        file.truncate(100)
    (damage,) = store.verify()
    assert "corrected@1" in damage.path
    messages = []
    repair(store, store.verify(), on_message=messages.append)
    assert any("what Ada corrected on the page" in line for line in messages)

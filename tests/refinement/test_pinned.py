"""What a person took away or changed stays so, whatever students of later rounds say."""

import json

import pytest

import florence2
from florence2.cli import main
from florence2.engine.curation.correcting import AnnotationChange, Correction, correct
from florence2.engine.curation.merging import MergeConfig, merge_sample, side_by_side
from florence2.engine.curation.taken_away import Refusal
from florence2.engine.planning.repair import repair
from florence2.records import Coverage, ImageRef, Sample, Source, Text
from florence2.refinement.rounds import MERGING
from tests.engine.doubles import Floor
from tests.engine.test_merge import AWAY, MAKER, NEAR, region
from tests.refinement.test_refine import loop  # noqa: F401 (a fixture)


def boxes(sample):
    return [r for r in sample.regions if r.kind == "object"]


@pytest.mark.parametrize("merging", [MERGING, None], ids=["merged", "side by side"])
def test_a_box_rejected_on_the_page_does_not_come_back_with_a_student(loop, merging):  # noqa: F811
    """The picture is not said to be complete: only what was rejected is known to be wrong."""
    store, _, run = loop
    run(rounds=1, merging=merging)
    first, second, *_ = (s for s in store.samples() if boxes(s))
    for sample in (first, second):
        shown = [AnnotationChange("rejected", r.id) for r in boxes(sample)] + [
            AnnotationChange("rejected", t.id) for t in sample.texts
        ]
        correct(store, [Correction("Ada", sample.image.id, tuple(shown))])
    run(rounds=2, merging=merging)
    now = {s.image.id: s for s in store.samples()}
    assert not boxes(now[first.image.id]) and not boxes(now[second.image.id])
    assert not now[first.image.id].texts and sum(bool(boxes(s)) for s in now.values()) > 2
    verdicts = [d.reason for s in store.samples(view="all") if s.image.id == first.image.id for d in s.decisions]
    assert "deleted_before" in verdicts
    judged = florence2.filter(store, [Floor(0.3)], workers=0)  # judged again by other rules, nothing merged
    now = {s.image.id: s for s in judged.samples()}
    assert not boxes(now[first.image.id]) and not boxes(now[second.image.id]) and not now[first.image.id].texts
    before = len(store.snapshots())
    florence2.filter(store, [Floor(0.3)], workers=0)
    assert len(store.snapshots()) == before and store.verify() == []
    (
        store.root / [f.path for f in store.snapshot().fragments if "decisions" in f.path and "merge" in f.path][-1]
    ).unlink()
    assert len(store.verify()) == 1 and repair(store, store.verify(), workers=0) == [] and store.verify() == []


def test_pictures_gone_over_in_label_studio_stay_as_they_were_left(loop, tmp_path):  # noqa: F811
    """Labels without a label space, as specialists give them; a picture may be left without a box."""
    store, _, run = loop
    run(rounds=1)
    assert main(["review", str(store.root), "--out", str(tmp_path / "tasks.json")]) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    for n, task in enumerate(tasks):
        rows = [row for p in task["predictions"] for row in p["result"]]
        moved = [
            {**row, "value": {**row["value"], "x": 0.0, "width": 10.0}}
            for row in rows
            if "rectanglelabels" in row["value"]
        ]
        task["annotations"] = [{"completed_by": 1, "lead_time": 1.0, "result": [[], moved, rows][n % 3]}]
    (tmp_path / "done.json").write_text(json.dumps(tasks))
    assert main(["import", str(tmp_path / "done.json"), "--out", str(store.root), "--reviewed"]) == 0
    left = {s.image.id: [(r.label, r.box) for r in boxes(s)] for s in store.samples()}
    assert min(map(len, left.values())) == 0 < max(map(len, left.values()))
    run(rounds=2)
    reviewed = {task["data"]["florence2"]["id"] for task in tasks}
    now = {s.image.id: [(r.label, r.box) for r in boxes(s)] for s in store.samples()}
    assert {name: now[name] for name in reviewed} == {name: left[name] for name in reviewed}


def test_side_by_side_a_complete_picture_gets_no_more_boxes():
    whole = {"reviewed": (Coverage("exhaustive", ("cat",)),), "set": (Coverage("exhaustive", ("dog",)),)}
    regions = region("x", "a"), region("d", "a", "dog"), region("y", "student", box=AWAY), region("z", "human", "bird")
    sample = Sample("s", ImageRef("i", width=100, height=100), regions=regions, coverage=whole)
    verdicts = {d.item_id: d.reason for d in side_by_side(sample, [], {}).decisions}
    assert verdicts == {"x": "not_listed", "y": "not_listed"}


@pytest.mark.parametrize("space", ["reviewed", "corrected"])
def test_what_people_say_to_be_complete_needs_no_label_space(space):
    whole = {space: (Coverage("exhaustive", ("cat",)),)}
    regions = region("x", "a"), region("y", "student", box=AWAY), region("z", "human", "dog", AWAY)
    sample = Sample("s", ImageRef("i", width=100, height=100), regions=regions, coverage=whole)
    verdicts = {d.item_id: d.reason for d in merge_sample(sample, MergeConfig(), MAKER).decisions}
    assert verdicts == {"x": "not_listed", "y": "not_listed"}


GONE = region("g", "a")


@pytest.mark.parametrize(
    "regions, refused, fallen",
    [
        ([region("x", "student", box=NEAR)], [Refusal(GONE, 1)], {"x"}),
        ([region("x", "student", box=NEAR)], [Refusal(GONE, 2)], set()),  # the person saw it and left it
        ([region("x", "student", box=AWAY)], [Refusal(GONE, 1)], set()),
        ([region("x", "student", "dog", NEAR)], [Refusal(GONE, 1)], set()),
        ([region("x", "a", box=NEAR)], [Refusal(GONE, 1)], set()),  # the other of two that there were
        ([region("x", "student", box=NEAR), region("h", "human")], [Refusal(GONE, 1)], set()),  # a duplicate deleted
    ],
)
def test_only_what_came_after_the_verdict_is_meant(regions, refused, fallen):
    sample = Sample("s", ImageRef("i", width=100, height=100), regions=tuple(regions))
    found = merge_sample(sample, MergeConfig(), MAKER, (), refused, {"s": 2})
    assert {d.item_id for d in found.decisions if d.reason == "deleted_before"} == fallen


def test_a_refused_text_is_not_the_best_of_a_models_rounds():
    student = [Source("model", "student", round=n, run_id=f"s{n}") for n in (1, 2)]
    texts = Text("t", "a cat", score=0.5, source=student[0]), Text("u", "a dog", score=0.9, source=student[1])
    refused = [Refusal(Text("g", "a  dog", source=student[0]), 1)]
    sample = Sample("s", ImageRef("i", width=100, height=100), texts)
    found = merge_sample(sample, MergeConfig(), MAKER, (), refused, {"s1": 1, "s2": 2})
    assert {d.item_id: d.reason for d in found.decisions} == {"u": "deleted_before"}

"""Rules for regions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2.engine.curation.filters.rules import open_chain
from florence2.geometry import iou
from florence2.records import ImageRef, Region, Sample, Source

MACHINE = Source("specialist", "a")


def region(id, box, score=0.9, label="cat", source=MACHINE, **fields):
    return Region(id=id, box=box, score=score, label=label, source=source, **fields)


def rejected(rule, *regions, **changes):
    sample = Sample("s", ImageRef("s", width=100, height=100), regions=regions)
    (found,) = [f for f in open_chain({rule: changes}) if f.spec.name == rule]
    return {d.item_id: d for d in found.judge(sample)}


BOX = (10, 10, 50, 50)


@pytest.mark.parametrize(
    "changes, score, source, keep",
    [
        ({}, 0.5, "a", True),
        ({}, 0.3, "a", False),
        ({}, None, "a", True),  # without a score there is nothing to judge
        ({"min": 0.2}, 0.3, "a", True),
        ({"sources": {"a": 0.6}}, 0.5, "a", False),
        ({"sources": {"a": 0.6}}, 0.5, "b", True),
        ({"sources": {"a": 0.6}, "labels": {"cat": 0.1}}, 0.3, "a", True),  # the label's floor goes before the source's
    ],
)
def test_score_floor_of_label_source_or_all(changes, score, source, keep):
    found = rejected("region_score", region("r", BOX, score, source=Source("specialist", source)), **changes)
    assert (not found) == keep


@pytest.mark.parametrize(
    "rule, box, kind, keep",
    [
        ("region_size", (10, 10, 12, 50), "object", False),
        ("region_size", (10, 10, 13, 50), "object", True),
        ("region_aspect", (0, 0, 100, 4), "object", False),
        ("region_aspect", (0, 0, 100, 4), "text", True),  # a line of text is long
        ("region_aspect", (0, 0, 4, 100), "object", False),
        ("region_aspect", (5, 5, 5, 5), "object", True),  # an empty box is the business of size
        ("whole_image", (0, 0, 100, 100), "object", False),
        ("whole_image", (0, 0, 100, 90), "object", True),
        ("whole_image", (0, 0, 100, 100), "text", True),
    ],
)
def test_shape(rule, box, kind, keep):
    assert (not rejected(rule, region("r", box, 0.5, kind=kind))) == keep


def test_size_and_number_are_no_evidence_against_what_a_source_is_sure_of():
    whole = (0, 0, 100, 100)
    assert not rejected("whole_image", region("r", whole, 0.7)) and rejected("whole_image", region("r", whole, None))
    faces = [region(f"r{i}", (i, 0, i + 5, 5), score=0.41 if i < 70 else 0.35) for i in range(72)]
    assert set(rejected("crowd", *faces)) == {"r70", "r71"}


def test_nms_keeps_the_best_of_a_label_and_names_the_winner():
    same = [region("low", BOX, 0.5), region("best", (11, 11, 51, 51), 0.9), region("far", (60, 60, 90, 90), 0.4)]
    other = region("dog", BOX, 0.3, label="dog")
    found = rejected("nms", *same, other)
    assert set(found) == {"low"} and found["low"].by_id == "best"
    assert found["low"].value == pytest.approx(float(iou([BOX], [(11, 11, 51, 51)])[0, 0]))
    assert set(rejected("nms", *same, other, per_label=False)) == {"low", "dog"}


def test_nms_leaves_other_sources_to_merging():
    assert not rejected("nms", region("a", BOX), region("b", BOX, source=Source("model", "student")))


def test_nms_leaves_a_mask_on_its_box():
    assert not rejected("nms", region("a", BOX), region("mask", BOX, refines="a"))


def test_soft_nms_lowers_scores_instead():
    near = [region("best", BOX, 0.9), region("near", (12, 12, 52, 52), 0.8), region("weak", (14, 14, 54, 54), 0.3)]
    found = rejected("nms", *near, soft=True, floor=0.2, sigma=0.5)
    assert "best" not in found and found["weak"].by_id in ("best", "near") and found["weak"].value < 0.2


def test_crowd_keeps_the_best_of_a_label():
    many = [region(f"r{i}", (i, 0, i + 5, 5), score=i / 100) for i in range(10)]
    found = rejected("crowd", *many, max=4)
    assert set(found) == {f"r{i}" for i in range(6)} and found["r0"].value == 10
    assert not rejected("crowd", *(region(f"t{i}", BOX, kind="text") for i in range(10)), max=4)


boxes = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 20)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
found_regions = st.lists(st.tuples(boxes, st.integers(1, 99), st.sampled_from("ab")), max_size=12)


@settings(max_examples=60, deadline=None)
@given(found_regions, st.randoms())
def test_nms_leaves_no_overlap_and_every_loser_lost_to_someone(found, random):
    regions = [region(f"{i}", box, score / 100 + i / 1e4, label) for i, (box, score, label) in enumerate(found)]
    lost = rejected("nms", *regions)
    kept = [r for r in regions if r.id not in lost]
    for one in kept:
        for two in kept:
            if one is not two and one.label == two.label:
                assert iou(np.array([one.box]), np.array([two.box]))[0, 0] <= 0.6
    assert {d.by_id for d in lost.values()} <= {r.id for r in kept}
    assert not rejected("nms", *kept)  # idempotent
    shuffled = list(regions)
    random.shuffle(shuffled)
    assert set(rejected("nms", *shuffled)) == set(lost)  # whatever the order

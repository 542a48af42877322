"""Named filters: each rejects what it says, says why, and leaves alone the kinds whose meaning it would change."""

import json

import pytest

import florence2
from florence2.codec.tasks import TASKS
from florence2.predictor import post_filters
from florence2.predictor.post_filters import FILTERS, apply, checked
from florence2.records import Grounding, Parsed, Region

SIZE = (100, 100)


def found(*rows, groundings=()):
    regions = [Region(f"r{n}", box=box, label=label, score=score) for n, (box, label, score) in enumerate(rows)]
    return Parsed(regions=tuple(regions), groundings=groundings)


CROWDED = found(
    ((10, 10, 50, 50), "cat", 0.5),
    ((11, 11, 51, 51), "cat", 0.9),  # the first one again
    ((10, 10, 50, 51), "dog", 0.7),  # in the same place
    ((0, 0, 100, 99), "sofa", 0.4),
    ((60, 60, 60, 80), "cat", 0.8),  # a line
    ((60, 0, 95, 40), "cup", 0.6),  # holds the next two
    ((62, 2, 72, 12), "cup", 0.6),
    ((80, 20, 90, 30), "cup", 0.6),
)


@pytest.mark.parametrize(
    "name, gone",
    [
        ("invalid", {"r4": ("invalid", "")}),
        ("whole_image", {"r3": ("whole_image", "")}),
        ("nms", {"r0": ("overlap", "r1")}),
        ("nms_all", {"r0": ("overlap", "r1"), "r2": ("overlap", "r1")}),
        ("containers", {"r5": ("container", "")}),
    ],
)
def test_each_filter_rejects_what_it_says(name, gone):
    kept, decisions = apply(CROWDED, [name], "labelled_boxes", SIZE)
    assert {d.item_id: (d.reason, d.by_id) for d in decisions} == gone
    assert all(d.rule == name and d.status == "rejected" for d in decisions)
    assert [r.id for r in kept.regions] == [f"r{n}" for n in range(8) if f"r{n}" not in gone]


def test_without_names_nothing_is_rejected():
    assert apply(CROWDED, [], "labelled_boxes", SIZE) == (CROWDED, ())


def test_filters_judge_in_their_own_order_and_only_what_is_left():
    assert checked(["containers", "nms", "invalid"]) == ("invalid", "nms", "containers")
    pair = found(((0, 0, 40, 40), "a", 0.5), ((1, 1, 9, 9), "a", 0.4), ((1, 1, 9, 9.5), "a", 0.3))
    kept, decisions = apply(pair, checked(["nms", "containers"]), "labelled_boxes", SIZE)
    assert [d.item_id for d in decisions] == ["r2"] and len(kept.regions) == 2  # one box within is no crowd


def test_where_a_region_goes_its_phrase_goes_unless_it_has_others():
    phrases = (
        Grounding("g0", phrase="a cat", region_ids=("r0", "r1")),
        Grounding("g1", phrase="it", region_ids=("r2",)),
    )
    rows = [((1, 1, 9, 9), "", 0.5), ((5, 5, 5, 9), "", 0.9), ((7, 7, 9, 7), "", 0.9)]
    kept, _ = apply(found(*rows, groundings=phrases), ["invalid"], "phrases", SIZE)
    assert [(g.phrase, g.region_ids) for g in kept.groundings] == [("a cat", ("r0",))]


def test_phrases_may_share_a_place_and_name_the_whole_picture():
    for name in ("whole_image", "nms_all", "containers"):
        assert "phrases" not in FILTERS[name].kinds and "quads" not in FILTERS[name].kinds
    phrases = (
        Grounding("g0", phrase="a man", region_ids=("r0",)),
        Grounding("g1", phrase="a man in red", region_ids=("r1",)),
    )
    rows = [((0, 0, 99, 99), "", 0.5), ((0, 0, 99, 99), "", 0.9)]
    shared = found(*rows, groundings=phrases)
    assert apply(shared, tuple(FILTERS), "phrases", SIZE) == (shared, ())


def test_a_polygon_without_an_area_is_invalid():
    flat = Parsed(regions=(Region("r0", box=(1, 1, 9, 9), polygons=((1, 1, 5, 5, 9, 9),)),))
    assert [d.item_id for d in apply(flat, ["invalid"], "polygons", SIZE)[1]] == ["r0"]


@pytest.mark.parametrize(
    "names, kinds, wanted",
    [
        ("nms", ["labelled_boxes"], "expected a list of names, got 'nms'"),
        (["nsm"], ["labelled_boxes"], "filters: 'nsm': expected some of invalid, whole_image, nms"),
        (["containers"], ["phrases", "text"], "filters: containers: judges labelled_boxes, boxes, open_boxes"),
        (5, [], "expected a list of names"),
    ],
)
def test_wrong_names_are_refused_in_a_line(names, kinds, wanted):
    with pytest.raises(ValueError, match=wanted):
        checked(names, kinds)


def test_every_filter_can_be_used_and_says_what_it_does():
    kinds = {task.output_kind for task in TASKS.values()}
    assert all(set(row.kinds) <= kinds and row.says for row in FILTERS.values())


def test_an_answer_lacks_what_was_rejected_and_says_why(tiny, pictures):
    plain = tiny.predict(pictures[0], "<OD>", max_new_tokens=120)
    answer = tiny.predict(pictures[0], ["<OD>", "<CAPTION>"], max_new_tokens=120, filters=["nms_all", "invalid"])[0]
    gone = {d.item_id for d in answer.decisions}
    assert gone and answer.text == plain.text and answer.token_ids == plain.token_ids
    assert [(r.id, r.box) for r in answer.regions] == [(r.id, r.box) for r in plain.regions if r.id not in gone]
    assert {d["item_id"] for d in json.loads(json.dumps(answer.to_json()))["decisions"]} == gone
    assert "decisions" not in plain.to_json()
    (many,) = tiny.predict_many([pictures[0]], "<OD>", max_new_tokens=120, filters=["nms_all", "invalid"])
    assert [d.item_id for d in many.decisions] == [d.item_id for d in answer.decisions]
    parsed = florence2.parse("<OD>", answer.text, answer.size_wh)
    assert post_filters.apply(parsed, ["invalid"], "labelled_boxes", parsed.size_wh)[0].regions

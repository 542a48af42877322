"""Assisted drawing: what is made of a model's answers; and the route, with a model."""

import httpx
import pytest

import florence2
from florence2.engine.commands import import_labels
from florence2.formats import jsonl
from florence2.geometry import as_boxes, iou
from florence2.pixels import encode
from florence2.records import ImageRef, Sample
from florence2.serving.assisted_drawing import (
    Suggestion,
    asks_about,
    detect,
    known_label,
    outlined,
    thing_at,
    tightened,
)
from tests.serving.running import RunningServer

BOX = (10.0, 10.0, 50.0, 50.0)
DETECTED = {
    "task": "<OD>",
    "regions": [
        {"label": "cat", "box": [12.0, 12.0, 48.0, 52.0], "score": 0.9},
        {"label": "mat", "box": [0.0, 0.0, 90.0, 90.0], "score": 0.8},
    ],
}
NAMED = {"task": "<REGION_TO_CATEGORY>", "regions": [], "texts": [{"text": "dog"}]}
OUTLINE = {"task": "<REGION_TO_SEGMENTATION>", "regions": [{"polygons": [[14.0, 14.0, 46.0, 14.0, 30.0, 48.0]]}]}
FAR = {"task": "<REGION_TO_SEGMENTATION>", "regions": [{"polygons": [[80.0, 80.0, 90.0, 80.0, 90.0, 90.0]]}]}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([DETECTED, NAMED, OUTLINE], ("cat", (12.0, 12.0, 48.0, 52.0))),  # what is detected there
        ([{"task": "<OD>", "regions": []}, NAMED, OUTLINE], ("dog", (14.0, 14.0, 46.0, 48.0))),  # else its outline's
        ([NAMED, FAR], ("dog", BOX)),  # an outline elsewhere is not it
        ([], ("", BOX)),
    ],
)
def test_a_rough_box_is_named_and_tightened(answers, expected):
    found = tightened(BOX, answers)
    assert (found.label, found.box) == expected


def test_the_smallest_thing_around_a_point_is_outlined():
    thing = thing_at((30, 30), (100, 100), [DETECTED])
    assert (thing.label, thing.box) == ("cat", (12.0, 12.0, 48.0, 52.0))
    found = outlined(thing, [NAMED, OUTLINE])
    assert found == Suggestion("cat", (14.0, 14.0, 46.0, 48.0), ((14.0, 14.0, 46.0, 14.0, 30.0, 48.0),), 0.9)
    assert outlined(thing, [FAR]) == thing
    nothing = thing_at((98, 50), (100, 100), [DETECTED])
    assert nothing.label == "" and nothing.box[2] == 100
    assert outlined(nothing, [NAMED]).label == "dog"


def test_only_what_the_model_can_is_asked():
    tasks = ("<OD>", "<REGION_TO_CATEGORY>", "<REGION_TO_SEGMENTATION>", "<CAPTION>")
    assert [(ask.task, ask.region) for ask in asks_about(BOX, tasks)] == [
        (t, BOX if n else ()) for n, t in enumerate(tasks[:3])
    ]
    assert [ask.task for ask in asks_about(BOX, ("<OD>",))] == ["<OD>"] and detect(("<CAPTION>",)) == []


def test_a_name_is_the_stores_own_where_it_is_the_same_word():
    assert known_label("  CAT ", ["dog", "Cat"]) == "Cat" and known_label("cow", ["cat"]) == "cow"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(server with nano over a store of one drawn scene without labels, the scene's truth, the picture's id)."""
    tmp = tmp_path_factory.mktemp("assist")
    image, truth = florence2.scenes.draw(2**31 + 8, objects=(3, 3), signs=0.0, size=384)
    (tmp / "scene.png").write_bytes(encode(image))
    jsonl.write([Sample("s", ImageRef("scene.png", str(tmp / "scene.png")), regions=truth.regions[:0])], tmp / "in")
    store = import_labels(tmp / "in", tmp / "store", workers=0)
    with RunningServer("nano", "--store", str(store.root)) as running:
        running.wait_ready()
        yield running, truth, store.picture_index().ids[0]


def ask(drawn, **body):
    running, _, image_id = drawn
    return httpx.post(f"{running.url}/v1/store/pictures/{image_id}/assist", json=body, timeout=120)


def test_the_model_helps_to_draw_and_encodes_a_picture_once(drawn):
    running, truth, _ = drawn
    region = next(r for r in truth.regions if r.kind == "object" and r.box)
    x1, y1, x2, y2 = region.box
    rough = [x1 - 12, y1 + 8, x2 + 10, y2 + 12]
    found = ask(drawn, box=rough).json()

    def overlap(box):
        return float(iou(as_boxes([tuple(box)]), as_boxes([region.box]))[0, 0])

    assert overlap(found["box"]) > overlap(rough) and found["label"] == region.label
    clicked = ask(drawn, point=[(x1 + x2) / 2, (y1 + y2) / 2]).json()
    assert clicked["label"] == region.label and overlap(clicked["box"]) > 0.6
    metrics = httpx.get(running.url + "/metrics").text
    hits = [float(line.split()[-1]) for line in metrics.splitlines() if "cache" in line and "hit" in line]
    assert sum(hits) >= 2, metrics


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "box"),
        ({"box": [1, 2, 3, 4], "point": [1, 2]}, "box"),
        ({"box": [5, 5, 5, 5]}, "box"),
        ({"box": [1, 2, 3]}, "box"),
        ({"point": [-1, 5]}, "point"),
        ({"point": [500, 5]}, "point"),
    ],
)
def test_a_wrong_question_is_refused_and_named(drawn, body, field):
    answer = ask(drawn, **body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_nothing_is_written_by_asking(drawn):
    running, _, image_id = drawn
    picture = httpx.get(f"{running.url}/v1/store/pictures/{image_id}").json()
    assert picture["annotations"] == [] and picture["snapshot"] == 1

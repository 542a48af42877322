"""Answers in other tools' forms, held against those tools: supervision's own parser, and forms by hand."""

import json
import pickle

import numpy as np
import pytest

import florence2
from florence2.codec.tasks import TASKS
from florence2.records import Ask

SIZE = (640, 480)
BOX = "<loc_53><loc_333><loc_933><loc_774>"
OUTLINE = "<loc_100><loc_100><loc_500><loc_100><loc_500><loc_500><loc_100><loc_500>"
SAID = {
    "quads": f"EXIT{OUTLINE}TOTAL 1.00{OUTLINE.replace('_100', '_200')}",
    "labelled_boxes": f"car{BOX}{BOX.replace('_53', '_60')}wheel<loc_704><loc_576><loc_866><loc_772>",
    "boxes": f"{BOX}<loc_704><loc_576><loc_866><loc_772>",
    "phrases": f"A car{BOX}a wall<loc_0><loc_8><loc_998><loc_635>",
    "polygons": f"{OUTLINE}<sep><loc_600><loc_600><loc_700><loc_600><loc_700><loc_700>",
    "open_boxes": f"car{BOX}",
    "region_text": f"car{BOX}",
}
PLACED = [task for task in TASKS.values() if task.output_kind in SAID]


def answer_of(task):
    given = {"text": {"text": "A car by a wall."}, "region": {"region": (33.9, 159.8, 597.4, 371.8)}, "": {}}
    ask = Ask(task.token, **given[task.input_kind])
    return florence2.parse(task.token, f"</s><s>{SAID[task.output_kind]}</s>", SIZE, ask)


@pytest.mark.parametrize("task", PLACED, ids=lambda t: t.name)
def test_boxes_are_those_of_supervisions_parser_of_our_official_dictionary(task):
    import supervision

    answer = answer_of(task)
    ours = answer.to_supervision()
    if task.name == "REGION_TO_OCR":  # it knows no such task
        return
    theirs = supervision.Detections.from_vlm(supervision.VLM.FLORENCE_2, answer.official(), resolution_wh=SIZE)
    whole_pixels = task.output_kind == "polygons"  # their outlines are cut to integers
    if task.output_kind != "region_text":  # their boxes of a region's text are its locations unscaled, or none
        np.testing.assert_allclose(ours.xyxy, theirs.xyxy, atol=1 if whole_pixels else 1e-4)
    assert len(ours) == len(answer.boxed)
    if "class_name" in theirs.data and task.output_kind != "region_text":
        names = [name.removeprefix("</s>") for name in theirs.data["class_name"].tolist()]  # a fault of the remote code
        assert ours.data["class_name"].tolist() == names
    if task.output_kind == "quads":
        np.testing.assert_allclose(ours.data["xyxyxyxy"], theirs.data["xyxyxyxy"], atol=1e-4)
    if task.output_kind == "polygons":
        assert (ours.mask ^ theirs.mask).mean() < 0.01


def test_class_ids_are_places_in_the_set_that_was_asked_for():
    text = f"</s><s>wheel{BOX}car{BOX}</s>"
    closed = florence2.parse("<OD>", text, SIZE, Ask("<OD>", labels=("door", "car", "wheel ")))
    assert closed.to_supervision().class_id.tolist() == closed.class_ids.tolist() == [2, 1]
    assert closed.classes == ["door", "car", "wheel"] and [len(r) for r in closed.by_label().values()] == [0, 1, 1]
    assert [c["name"] for c in closed.to_coco()["categories"]] == ["door", "car", "wheel"]


def test_fiftyone_gets_shares_of_the_picture_in_its_own_form():
    sample = answer_of(TASKS["<OD>"]).to_fiftyone()
    assert json.loads(json.dumps(sample)) == sample and sample["filepath"] == ""
    assert sample["metadata"] == {"_cls": "ImageMetadata", "width": 640, "height": 480}
    first = sample["detections"]["detections"][0]
    assert first["_cls"] == "Detection" and first["label"] == "car" and "confidence" not in first
    assert first["bounding_box"] == pytest.approx([0.0535, 0.3335, 0.88, 0.441])
    lines = answer_of(TASKS["<OCR_WITH_REGION>"]).to_fiftyone()
    assert "detections" not in lines and lines["polylines"]["polylines"][0]["filled"] is False
    assert lines["polylines"]["polylines"][0]["points"][0][2] == pytest.approx([0.5005, 0.5005])
    (outlined,) = answer_of(TASKS["<REGION_TO_SEGMENTATION>"]).to_fiftyone()["polylines"]["polylines"]
    assert [len(part) for part in outlined["points"]] == [4, 3] and outlined["filled"]
    assert florence2.parse("<CAPTION>", "<s>a car</s>", SIZE).to_fiftyone()["text"]["label"] == "a car"
    assert florence2.parse("<OD>", "<s></s>", SIZE).to_fiftyone()["detections"]["detections"] == []


@pytest.mark.parametrize("form", ["to_coco", "to_label_studio", "to_fiftyone", "to_json"])
@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_every_task_s_answer_is_plain_json_in_every_form(task, form):
    if task.output_kind == "text":
        answer = florence2.parse(task.token, "</s><s>two cars\nby a wall</s>", SIZE)
    else:
        answer = answer_of(task)
    made = getattr(answer, form)()
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert answer.masks().shape == (len(answer.boxed), 480, 640)


def test_answers_and_encoded_pictures_can_be_pickled(tiny, pictures):
    encoded = pickle.loads(pickle.dumps(tiny.encode_image(pictures[0])))
    answers = tiny.predict(pictures[0], ["<OD>", "<CAPTION>"], max_new_tokens=30)
    for answer, again in zip(answers, tiny.predict(encoded, ["<OD>", "<CAPTION>"], max_new_tokens=30)):
        back = pickle.loads(pickle.dumps(answer))
        assert back.token_ids == answer.token_ids == again.token_ids
        assert back.to_json() == answer.to_json() and back.token_spans == answer.token_spans
        assert np.asarray(back.draw()).shape == np.asarray(answer.draw()).shape and back.official() == answer.official()
    tiled = tiny.predict(pictures[0], "<OD>", tiles=(2, 1), max_new_tokens=30)
    assert pickle.loads(pickle.dumps(tiled)).to_json() == tiled.to_json()


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.name)
def test_without_its_picture_an_answer_shows_as_text_in_a_notebook(task):
    said = "two <cars>" if task.output_kind == "text" else SAID[task.output_kind]
    page = florence2.parse(task.token, f"</s><s>{said}</s>", SIZE)._repr_html_()
    assert page.startswith("<pre>") and page.endswith("</pre>") and page.count("<") == 2


def test_two_labels_of_one_category_id_are_refused():
    said = "".join(f"{name}<loc_1><loc_2><loc_30><loc_40>" for name in ("cat", "dog"))
    answer = florence2.parse("<OD>", f"<s>{said}</s>", SIZE)
    assert {c["id"] for c in answer.to_coco(categories={"cat": 4, "dog": 1})["categories"]} == {1, 4}
    with pytest.raises(ValueError, match="'cat' and 'dog' have one id, 1; give each its own"):
        answer.to_coco(categories={"cat": 1, "dog": 1})


def test_ids_are_whole_numbers_that_json_can_hold():
    answer = florence2.parse("<OD>", "<s>cat<loc_1><loc_2><loc_30><loc_40></s>", SIZE)
    data = answer.to_coco(image_id=np.int64(7), categories={"cat": np.int32(3)})
    assert json.loads(json.dumps(data))["annotations"][0]["category_id"] == 3
    for image_id in (True, 1.5, "7", None):
        with pytest.raises(ValueError, match="image_id: expected a whole number"):
            answer.to_coco(image_id=image_id)
    for categories in (["cat"], "cat", 5, {"cat": "1"}, {"cat": None}):
        with pytest.raises(ValueError, match="categories: .*expected"):
            answer.to_coco(categories=categories)

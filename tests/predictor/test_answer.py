"""An answer in the forms people take it further; every number checked by hand."""

import json
import sys
import types

import numpy as np
import pytest

import florence2
from florence2.codec.tasks import TASKS
from florence2.records import Ask, Region, from_json

CARS = "</s><s>car<loc_53><loc_333><loc_933><loc_774>wheel<loc_704><loc_576><loc_866><loc_772></s>"
SIZE = (640, 480)


def with_scores(answer, *scores):
    """The answer as if the model had given these scores."""
    from dataclasses import replace

    return replace(answer, regions=tuple(replace(r, score=s) for r, s in zip(answer.regions, scores)))


def test_boxes_labels_and_ids_as_arrays():
    answer = florence2.parse("<OD>", CARS + "<pad>", SIZE)
    assert answer.xyxy.dtype == np.float32
    np.testing.assert_allclose(
        answer.xyxy, [[34.24, 160.08, 597.44, 371.76], [450.88, 276.72, 554.56, 370.8]], rtol=1e-5
    )
    assert answer.labels.tolist() == ["car", "wheel"] and answer.class_ids.tolist() == [0, 1]
    assert np.isnan(answer.scores).all()
    assert with_scores(answer, 0.5, 0.25).scores.tolist() == [0.5, 0.25]
    assert len(answer) == 2 and [region.label for region in answer] == ["car", "wheel"]
    assert str(with_scores(answer, 0.5, 0.25)) == "car  (34, 160, 597, 372)  0.50\nwheel  (451, 277, 555, 371)  0.25"


def test_an_empty_answer_is_empty_arrays():
    answer = florence2.parse("OD", "</s><s></s>", SIZE)
    assert answer.xyxy.shape == (0, 4) and answer.scores.shape == answer.class_ids.shape == answer.labels.shape == (0,)
    assert answer.masks().shape == (0, 480, 640) and len(answer) == 0 and list(answer) == []
    assert str(answer) == "(nothing found)"
    assert answer.to_coco()["annotations"] == answer.to_label_studio()["predictions"][0]["result"] == []


def test_a_text_is_iterated_and_printed_as_text():
    answer = florence2.parse("<CAPTION>", "</s><s>a green car</s>", SIZE)
    assert str(answer) == "a green car" and len(answer) == 1 and next(iter(answer)).text == "a green car"


def test_phrases_name_their_regions():
    ask = Ask("<CAPTION_TO_PHRASE_GROUNDING>", text="A car by a wall.")
    text = "</s><s>A car<loc_1><loc_2><loc_500><loc_600>a wall<loc_0><loc_8><loc_998><loc_635></s>"
    answer = florence2.parse(ask.task, text, SIZE, ask)
    assert answer.labels.tolist() == ["A car", "a wall"] and answer.groundings[1].spans == ((9, 15),)


@pytest.mark.parametrize("style", ["microsoft", "transformers"])
def test_official_dictionaries(style):
    boxes = florence2.parse("<OD>", CARS, SIZE).official(style)["<OD>"]["bboxes"]
    wanted = {"microsoft": [34.24, 160.08, 597.44, 371.76], "transformers": [34, 160, 597, 371]}[style]
    assert boxes[0] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("token", TASKS)
def test_render_gives_back_what_was_parsed(token):
    given = {"text": {"text": "a red car"}, "region": {"region": (10, 20, 300, 400)}, "": {}}
    ask = Ask(token, **given[TASKS[token].input_kind])
    targets = {
        "text": "a red car",
        "quads": "EXIT" + "".join(f"<loc_{i}>" for i in (1, 2, 50, 2, 50, 20, 1, 20)),
        "boxes": "<loc_1><loc_2><loc_50><loc_60>",
        "polygons": "<loc_1><loc_2><loc_50><loc_60><loc_7><loc_90>",
    }
    target = targets.get(TASKS[token].output_kind, "a red car<loc_1><loc_2><loc_50><loc_60>")
    assert florence2.render(florence2.parse(token, f"</s><s>{target}</s>", SIZE, ask)) == target


def test_masks_are_the_inside_of_polygons_quads_and_boxes():
    square = "<loc_100><loc_100><loc_500><loc_100><loc_500><loc_500><loc_100><loc_500>"
    answer = florence2.parse("<REGION_TO_SEGMENTATION>", f"<s>{square}</s>", (100, 100))
    mask = answer.masks()
    assert mask.shape == (1, 100, 100) and mask.dtype == bool
    assert mask[0, 30, 30] and not mask[0, 5, 30] and abs(int(mask.sum()) - 1600) < 100
    quad = florence2.parse("<OCR_WITH_REGION>", f"<s>EXIT{square}</s>", (100, 100)).masks()
    box = florence2.parse("<OD>", "<s>x<loc_100><loc_100><loc_500><loc_500></s>", (100, 100)).masks()
    assert abs(int(quad.sum()) - 1600) < 100 and abs(int(box.sum()) - 1600) < 100


def test_json_comes_back_as_records():
    answer = with_scores(florence2.parse("<OD>", CARS, SIZE), 0.5, 0.25)
    data = json.loads(json.dumps(answer.to_json()))
    assert data["task"] == "<OD>" and data["size_wh"] == [640, 480] and data["text"] == CARS
    assert tuple(from_json(Region, row) for row in data["regions"]) == answer.regions


def test_coco_is_a_data_set_and_results_at_once():
    answer = with_scores(florence2.parse("<OD>", CARS, SIZE), 0.5, 0.25)
    coco = answer.to_coco(image_id=7)
    assert coco["images"][0] == {"id": 7, "file_name": "", "width": 640, "height": 480}
    assert coco["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "wheel"}]
    first = coco["annotations"][0]
    assert first["bbox"] == pytest.approx([34.24, 160.08, 563.2, 211.68], rel=1e-5)
    assert first["score"] == 0.5 and first["image_id"] == 7 and first["category_id"] == 1
    assert first["area"] == pytest.approx(563.2 * 211.68, rel=1e-5)
    assert answer.to_coco(categories={"wheel": 3, "car": 90})["annotations"][0]["category_id"] == 90
    with pytest.raises(ValueError, match="categories: 'wheel' has no id"):
        answer.to_coco(categories={"car": 1})
    from pycocotools.coco import COCO

    reader = COCO()
    reader.dataset = coco
    reader.createIndex()
    assert len(reader.loadRes(coco["annotations"]).getAnnIds()) == 2


def test_label_studio_is_in_percent():
    task = with_scores(florence2.parse("<OD>", CARS, SIZE), 0.5, 0.25).to_label_studio()
    prediction = task["predictions"][0]
    assert prediction["score"] == pytest.approx(0.375)
    first = prediction["result"][0]
    assert first["type"] == "rectanglelabels" and first["value"]["rectanglelabels"] == ["car"]
    assert [first["value"][k] for k in ("x", "y", "width", "height")] == pytest.approx(
        [5.35, 33.35, 88.0, 44.1], abs=0.01
    )
    assert (first["original_width"], first["original_height"], first["score"]) == (640, 480, 0.5)
    quad = "<s>EXIT<loc_0><loc_0><loc_499><loc_0><loc_499><loc_499><loc_0><loc_499></s>"
    shape = florence2.parse("<OCR_WITH_REGION>", quad, SIZE).to_label_studio()["predictions"][0]["result"][0]
    assert shape["type"] == "polygonlabels"
    assert shape["value"]["points"][2] == pytest.approx([49.95, 49.95], abs=0.01)
    words = florence2.parse("<CAPTION>", "<s>hi</s>", SIZE).to_label_studio()["predictions"][0]["result"][0]
    assert words["type"] == "textarea" and words["value"] == {"text": ["hi"]}


def test_supervision_gets_what_its_detections_take(monkeypatch):
    fake = types.SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", fake)
    answer = florence2.parse("<OD>", CARS, SIZE)
    assert answer.to_supervision()["confidence"] is None and answer.to_supervision()["mask"] is None
    fields = with_scores(answer, 0.5, 0.25).to_supervision()
    assert fields["confidence"].tolist() == [0.5, 0.25] and len(set(fields["class_id"].tolist())) == 2
    assert fields["data"]["class_name"].tolist() == ["car", "wheel"] and fields["xyxy"].shape == (2, 4)
    polygon = "<s><loc_100><loc_100><loc_500><loc_100><loc_500><loc_500></s>"
    outlined = florence2.parse("<REGION_TO_SEGMENTATION>", polygon, SIZE).to_supervision()
    assert outlined["mask"].shape == (1, 480, 640)


def test_a_label_has_one_class_id_in_every_answer(monkeypatch):
    fake = types.SimpleNamespace(
        Detections=lambda **fields: dict(zip(fields["data"]["class_name"], fields["class_id"]))
    )
    monkeypatch.setitem(sys.modules, "supervision", fake)
    place = "<loc_100><loc_100><loc_300><loc_300>"
    texts = [f"<s>{''.join(label + place for label in labels)}</s>" for labels in (["car", "dog"], ["cat", "dog"])]
    first, second = (florence2.parse("<OD>", text, SIZE).to_supervision() for text in texts)
    assert first["dog"] == second["dog"] and len({first["car"], first["dog"], second["cat"]}) == 3
    closed = florence2.parse("<OD>", texts[1], SIZE, florence2.Ask("<OD>", labels=("cat", "dog"))).to_supervision()
    assert closed == {"cat": 0, "dog": 1}


def test_drawn_it_shows_the_boxes_and_keeps_the_size(pictures):
    picture = np.full((480, 640, 3), 255, np.uint8)
    answer = florence2.parse("<OD>", CARS, SIZE)
    drawn = np.asarray(answer.draw(picture))
    assert drawn.shape == picture.shape
    assert (drawn[200, 30:40] != 255).any() and (drawn[5:20, 5:20] == 255).all()
    with pytest.raises(ValueError, match=r"draw\(image\)"):
        answer.draw()
    with pytest.raises(ValueError, match="draw: expected the picture of 640 x 480 pixels .* got one of 320 x 240"):
        answer.draw(picture[::2, ::2])  # its boxes would lie elsewhere


def test_in_a_notebook_the_answer_is_a_picture_and_text_is_escaped(tiny, pictures):
    page = tiny.predict(pictures[0], "<OD>", max_new_tokens=20)._repr_html_()
    assert "<svg" in page and "data:image" in page
    nasty = florence2.parse("<OCR>", "<s><script>alert(1)</script></s>", SIZE)._repr_html_()
    assert "<script>" not in nasty and "&lt;script&gt;" in nasty

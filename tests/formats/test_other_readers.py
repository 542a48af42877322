"""What is exported is read by the libraries it is for, and holds what their documentation asks for."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from florence2 import geometry, pixels
from florence2.formats import coco_writer, cvat_writer, labelstudio_writer, yolo_writer
from florence2.formats.export_files import ExportOptions
from florence2.records import Coverage, ImageRef, Region, Sample, Source, Text

WIDTH, HEIGHT = 64, 48
MODEL = Source("specialist", "yolox", "2")
LABELS = ("cat", "no", "12:30", "stra\u00dfe & <b>", 'a "b"')
TRIANGLE = (2.0, 2.0, 20.0, 2.0, 20.0, 20.0)
OTHER = (40.0, 40.0, 60.0, 40.0, 60.0, 46.0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    out = []
    for n in range(6):
        path = folder / f"p {n}.png"
        path.write_bytes(pixels.encode(np.full((HEIGHT, WIDTH, 3), 40 * n, np.uint8)))
        mask = geometry.encode_rle(geometry.rasterize([geometry.box_quad((5, 5, 30, 20))], (WIDTH, HEIGHT)))
        box = (-3.0, 4.0, 30.0 + n, 40.0)  # sticks out
        regions = (
            Region("b", box=box, label=LABELS[n % 5], score=0.25, source=MODEL),
            Region("p", box=(2.0, 2.0, 60.0, 46.0), label="cat", polygons=(TRIANGLE, OTHER), source=MODEL),
            Region("m", box=(5.0, 5.0, 30.0, 20.0), label="dog", mask=mask, source=Source("human", "ann")),
            Region("c", box=(5.0, 5.0, 30.0, 20.0), label="dog", mask=mask, ignore=True, source=MODEL),
            Region("w", "text", (3.0, 3.0, 20.0, 9.0), "SALE", quad=(3.0, 3.0, 20.0, 3.0, 20.0, 9.0, 3.0, 9.0),
                   source=Source("specialist", "reader")),
        )  # fmt: skip
        texts = (Text("t", "a cat", source=MODEL), Text("u", "a cat and a dog", "detailed", source=MODEL))
        split = ("train", "train", "train", "val", "val", "test")[n]
        coverage = {"things": (Coverage("exhaustive", ("cat", "dog")),)}
        ref = ImageRef(path.name, str(path), width=WIDTH, height=HEIGHT)
        out.append(Sample(f"s{n}", ref, texts, regions, split=split, coverage=coverage))
    return out


# ---- COCO


def test_pycocotools_reads_coco(tmp_path, samples, capsys):
    coco_writer.write(samples, tmp_path, ExportOptions(scores=True))
    truth = COCO(str(tmp_path / "instances.json"))
    assert len(truth.imgs) == 6 and len(truth.anns) == 24
    for annotation in truth.anns.values():
        mask = truth.annToMask({**annotation, "segmentation": annotation["segmentation"] or [[0, 0, 1, 0, 1, 1]]})
        assert mask.shape == (HEIGHT, WIDTH)
        assert annotation["area"] > 0 and annotation["iscrowd"] in (0, 1)
    results = [
        {**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.9}
        for a in truth.anns.values()
        if not a["iscrowd"]
    ]
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)
    captions = COCO(str(tmp_path / "captions.json"))
    assert [a["caption"] for a in captions.anns.values()] == ["a cat"] * 6


def test_coco_is_laid_out_as_fiftyone_reads_it(tmp_path, samples):
    """FiftyOne's COCODetectionDataset with data_path="images", labels_path="instances.json", as its guide has it."""
    coco_writer.write(samples, tmp_path)
    data = json.loads((tmp_path / "instances.json").read_text(encoding="utf-8"))
    assert set(data) == {"info", "licenses", "images", "annotations", "categories"}
    for image in data["images"]:
        assert {"id", "file_name", "width", "height"} <= set(image) and (
            tmp_path / "images" / image["file_name"]
        ).exists()
    classes = {category["id"]: category["name"] for category in data["categories"]}
    assert len(classes) == len(data["categories"]) == len(set(classes.values()))
    ids = {image["id"] for image in data["images"]}
    for row in data["annotations"]:
        assert row["image_id"] in ids and row["category_id"] in classes and len(row["bbox"]) == 4
        assert "score" not in row and isinstance(row["segmentation"], (list, dict))
        assert isinstance(row["segmentation"], dict) or all(len(part) >= 6 for part in row["segmentation"])


# ---- YOLO


def check_labels_as_trainers_do(file: Path, classes: int) -> np.ndarray:
    """The rules by which YOLOv5, YOLOv8 and those after them take a label file, or drop picture and all."""
    rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines() if line]
    segments = any(len(row) > 6 for row in rows)
    if segments:
        assert all(len(row) > 6 and len(row) % 2 for row in rows), "a file with outlines holds outlines alone"
    else:
        assert all(len(row) == 5 for row in rows), "labels require 5 columns"
    values = [np.array(row[1:], np.float32) for row in rows]
    for row, found in zip(rows, values):
        assert (found >= 0).all(), "negative label values"
        assert (found <= 1).all(), "non-normalized or out of bounds coordinates"
        assert row[0].isdigit() and int(row[0]) < classes, "label class exceeds dataset class count"
    assert len({tuple(row) for row in rows}) == len(rows), "duplicate labels"
    return values


@pytest.mark.parametrize("form", ["boxes", "outlines"])
def test_trainers_of_yolo_take_every_label_file(tmp_path, samples, form):
    lost = yolo_writer.write(samples, tmp_path, ExportOptions(yolo=form))
    data = yaml.safe_load((tmp_path / "data.yaml").read_text(encoding="utf-8"))
    assert set(data["names"]) == set(range(len(data["names"]))) and "cat" in data["names"].values()
    assert all(isinstance(name, str) for name in data["names"].values()) and "path" not in data
    parts = {key: sorted((tmp_path / data[key]).glob("*.*")) for key in ("train", "val", "test")}
    assert {key: len(files) for key, files in parts.items()} == {"train": 3, "val": 2, "test": 1}
    for picture in (picture for files in parts.values() for picture in files):
        labels = Path("/labels/".join(str(picture).rsplit("/images/", 1))).with_suffix(".txt")
        rows = check_labels_as_trainers_do(labels, len(data["names"]))
        assert len(rows) == (3 if form == "boxes" else 2)  # one an object; the crowd and the words are left out
        if form == "outlines":
            area = geometry.polygon_area(rows[0] * np.tile([WIDTH, HEIGHT], len(rows[0]) // 2))
            assert area == pytest.approx(geometry.polygon_area(TRIANGLE) + geometry.polygon_area(OTHER), rel=1e-4)
    assert lost["region_without_outline"] == (6 if form == "outlines" else 0) and lost["region_ignored"] == 6


def test_without_a_wish_rows_are_boxes_unless_every_object_has_an_outline(tmp_path, samples):
    yolo_writer.write(samples, tmp_path / "mixed")
    assert {len(line.split()) for p in (tmp_path / "mixed").rglob("*.txt") for line in p.open()} == {5}
    outlined = [Sample(s.id, s.image, regions=s.regions[1:3]) for s in samples]
    yolo_writer.write(iter(outlined), tmp_path / "outlined")
    assert all(len(line.split()) > 6 for p in (tmp_path / "outlined").rglob("*.txt") for line in p.open())


def test_supervision_reads_yolo_and_coco(tmp_path, samples):
    yolo_writer.write(samples, tmp_path / "yolo", ExportOptions(yolo="boxes"))
    data = supervision.DetectionDataset.from_yolo(
        str(tmp_path / "yolo/images/train"), str(tmp_path / "yolo/labels/train"), str(tmp_path / "yolo/data.yaml")
    )
    assert len(data) == 3 and "cat" in data.classes
    for _, _, found in data:
        assert len(found) == 3 and (found.xyxy >= 0).all()
    coco_writer.write(samples, tmp_path / "coco")
    data = supervision.DetectionDataset.from_coco(
        str(tmp_path / "coco/images"), str(tmp_path / "coco/instances.json"), force_masks=False
    )
    assert len(data) == 6 and {"cat", "dog"} <= set(data.classes)
    assert all(len(found) == 4 for _, _, found in data)


# ---- Label Studio


def test_tasks_are_as_label_studio_documents_them(tmp_path, samples):
    """The JSON format of pre-annotations and annotations, and that each result belongs to a control of the config."""
    labelstudio_writer.write(samples, tmp_path, ExportOptions(image_prefix="http://h/data/local-files/?d=set"))
    controls = {node.get("name"): node for node in ElementTree.parse(tmp_path / "config.xml").getroot()}
    image = controls.pop("image")
    assert image.tag == "Image" and image.get("value") == "$image"
    tags = {"rectanglelabels": "RectangleLabels", "polygonlabels": "PolygonLabels", "textarea": "TextArea"}
    tags |= {"rectangle": "Rectangle", "polygon": "Polygon"}
    tasks = json.loads((tmp_path / "tasks.json").read_text(encoding="utf-8"))
    assert len(tasks) == 6
    for n, task in enumerate(tasks):
        assert task["data"]["image"] == f"http://h/data/local-files/?d=set/images/p%20{n}.png"
        assert len(task["annotations"]) == 1  # the person's mask
        assert sorted(p["model_version"] for p in task["predictions"]) == ["florence2"]  # it shows one alone
        for group in (*task["annotations"], *task["predictions"]):
            ids = [row["id"] for row in group["result"] if row["type"] != "textarea"]
            assert len(set(ids)) == len(ids)
            for row in group["result"]:
                control = controls[row["from_name"]]
                assert control.tag == tags[row["type"]] and control.get("toName") == row["to_name"] == "image"
                check_result(row, control)


def check_result(row, control):
    value = row["value"]
    if row["type"] != "textarea" or len(value) > 1:
        assert (row["original_width"], row["original_height"], row["image_rotation"]) == (WIDTH, HEIGHT, 0)
    if "rectangle" in row["type"]:
        assert all(isinstance(value[key], (int, float)) for key in ("x", "y", "width", "height", "rotation"))
    if "polygon" in row["type"]:
        assert len(value["points"]) >= 3 and all(len(p) == 2 and all(map(math.isfinite, p)) for p in value["points"])
    if row["type"].endswith("labels"):
        known = {label.get("value") for label in control}
        assert set(value[row["type"]]) <= known and len(value[row["type"]]) == 1
    if row["type"] == "textarea":
        assert all(isinstance(text, str) for text in value["text"])


# ---- CVAT


def test_cvat_reads_its_xml(tmp_path, samples):
    """CVAT for images 1.1: every label is declared; points, boxes and masks are as its documentation writes them."""
    cvat_writer.write(samples, tmp_path)
    root = ElementTree.parse(tmp_path / "annotations.xml").getroot()
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    labels = {node.findtext("name") for node in root.iterfind("meta/task/labels/label")}
    images = root.findall("image")
    assert [image.get("id") for image in images] == list("012345")
    for image in images:
        assert (tmp_path / "images" / image.get("name")).is_file() and image.get("subset") in ("train", "val", "test")
        assert (image.get("width"), image.get("height")) == (str(WIDTH), str(HEIGHT))
        assert [shape.tag for shape in image] == ["box", "polygon", "polygon", "mask", "mask"]
        assert {shape.get("label") for shape in image} <= labels
        first, second = image.findall("polygon")
        assert first.get("group_id") == second.get("group_id") is not None
        assert [tuple(map(float, p.split(","))) for p in first.get("points").split(";")] == [(2, 2), (20, 2), (20, 20)]
        mask = image.find("mask")
        left, top, width, height = (int(mask.get(key)) for key in ("left", "top", "width", "height"))
        assert (left, top, width, height) == (5, 5, 25, 15) and mask.get("rle") == "0, 375"
        assert mask.get("source") == "manual" and image.find("box").get("source") == "auto"

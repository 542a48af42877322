"""Sets that say what the absence of a label means: LVIS, Objects365, Open Images."""

import json

import numpy as np
import pytest

from florence2 import pixels, sources
from florence2.codec.tasks import TASKS
from florence2.formats import coco, jsonl, labelstudio, openimages
from florence2.formats.problems import ReadProblems
from florence2.records import Coverage, ImageRef, Region, Sample


def lvis(root, **changes):
    image = {
        "id": 7, "width": 64, "height": 48, "coco_url": "http://images.cocodataset.org/val2017/000000000007.jpg",
        "neg_category_ids": [3], "not_exhaustive_category_ids": [2], **changes,
    }  # fmt: skip
    things = [
        {
            "id": n,
            "image_id": 7,
            "category_id": n,
            "bbox": [n, 2, 9, 9],
            "area": 81,
            "segmentation": [[1, 2, 9, 2, 9, 9]],
        }
        for n in (1, 2)
    ]
    names = [
        {"id": n, "name": name, "synset": "x", "frequency": "r"}
        for n, name in enumerate(("cat", "dog", "cow", "hen"), 1)
    ]
    file = root / "lvis_v1_val.json"
    file.write_text(json.dumps({"images": [image], "annotations": things, "categories": names}))
    return file


def test_lvis_negatives_and_partial_labels_survive(tmp_path):
    (sample,) = sources.open(lvis(tmp_path))
    assert sample.image.id == "val2017/000000000007.jpg"
    assert sample.coverage == {
        "lvis_v1": (
            Coverage("exhaustive", ("cat",)),
            Coverage("partial", ("dog",)),
            Coverage("negatives", ("cow",)),
        )
    }
    jsonl.write([sample], tmp_path / "ours")
    (again,) = jsonl.read(tmp_path / "ours")
    assert again.coverage == sample.coverage
    asked = {
        ask.text: len(truth.regions) for ask, truth in TASKS["<OPEN_VOCABULARY_DETECTION>"].truths(sample) if ask.text
    }
    assert asked == {"cat": 1, "dog": 1, "cow": 0}  # a negative is asked for, an unknown label is not


def test_a_negative_of_no_category_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"images\[0\]: neg_category_ids: 99 is not among"):
        list(coco.read(lvis(tmp_path, neg_category_ids=[99])))


def test_what_absence_means_survives_coco(tmp_path):
    (tmp_path / "in").mkdir()
    (sample,) = sources.open(lvis(tmp_path / "in"))
    lost = coco.write([sample], tmp_path / "out")
    assert +lost == {"picture_not_placed": 1}
    (again,) = sources.open(tmp_path / "out")
    assert again.coverage == sample.coverage and again.regions[0].label_space == "lvis_v1"


def test_objects365_is_read_as_coco(tmp_path):
    thing = {"id": 1, "image_id": 9, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1, "isfake": 0}
    image = {"id": 9, "file_name": "images/v1/patch8/objects365_v1_00420917.jpg", "width": 64, "height": 48}
    data = {"images": [image], "annotations": [thing], "categories": [{"id": 1, "name": "Person"}]}
    (tmp_path / "zhiyuan_objv2_val.json").write_text(json.dumps(data))
    (tmp_path / "val" / "patch8").mkdir(parents=True)
    (tmp_path / "val" / "patch8" / "objects365_v1_00420917.jpg").write_bytes(b"x")
    (sample,) = sources.open(tmp_path)
    assert sample.regions[0].ignore and sample.regions[0].label_space == "zhiyuan_objv2"
    assert sample.image.uri.endswith("val/patch8/objects365_v1_00420917.jpg")
    (elsewhere,) = sources.open(tmp_path, images=tmp_path / "val" / "patch8")
    assert elsewhere.image.uri == sample.image.uri


def open_images(root, box="a,xclick,/m/1,1,0.25,0.5,0.5,1.0,0,0,0,0,0"):
    (root / "class-descriptions-boxable.csv").write_text("/m/1,Cat\n/m/2,Dog\n/m/3,Hen\n/m/4,Cow\n")
    head = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    (root / "validation-annotations-bbox.csv").write_text(
        f"{head}\n{box}\na,xclick,/m/2,1,0,1,0,1,0,0,1,0,0\n"
    )  # fmt: skip
    labels = (
        "ImageID,Source,LabelName,Confidence\na,verification,/m/1,1\na,verification,/m/3,0\nb,verification,/m/4,1\n"
    )
    (root / "validation-annotations-human-imagelabels-boxable.csv").write_text(labels)
    (root / "validation").mkdir(exist_ok=True)
    for name in "ab":
        (root / "validation" / f"{name}.jpg").write_bytes(pixels.encode(np.zeros((40, 80, 3), np.uint8), "JPEG"))
    return root


def test_open_images(tmp_path):
    assert sources.format_of(open_images(tmp_path)) == "openimages"
    first, second = sources.open(tmp_path)
    assert [(r.label, r.box, r.ignore) for r in first.regions] == [
        ("Cat", (20, 20, 40, 40), False), ("Dog", (0, 0, 80, 40), True),
    ]  # fmt: skip
    assert first.coverage == {"openimages": (Coverage("exhaustive", ("Cat", "Dog")), Coverage("negatives", ("Hen",)))}
    assert second.coverage == {"openimages": (Coverage("partial", ("Cow",)),)} and first.split == "test"


def test_open_images_of_version_7(tmp_path):
    root = open_images(tmp_path)
    old = root / "validation-annotations-human-imagelabels-boxable.csv"
    old.rename(root / "oidv7-val-annotations-human-imagelabels.csv")
    first, _ = sources.open(root)
    assert Coverage("negatives", ("Hen",)) in first.coverage["openimages"]


@pytest.mark.parametrize(
    "box, message",
    [
        ("a,x,/m/9,1,0,1,0,1,0,0,0,0,0", "bbox.csv:2: label '/m/9' is not among"),
        ("a,x,/m/1,1,0.9,0.1,0,1,0,0,0,0,0", "bbox.csv:2: expected XMin <= XMax"),
        ("a,x,/m/1,1,nan,1,0,1,0,0,0,0,0", "bbox.csv:2: expected a finite number"),
        ("a,x,/m/1", "bbox.csv:2: expected 13 cells, got fewer"),
        ("none,x,/m/1,1,0,1,0,1,0,0,0,0,0", "bbox.csv:2: the size of .*none.jpg is needed"),
    ],
)
def test_a_bad_row_is_named(tmp_path, box, message):
    with pytest.raises(ValueError, match=message):
        list(openimages.read(open_images(tmp_path, box)))


@pytest.mark.parametrize("damaged", ["annotation", "words", "label"])
def test_labelstudio_claims_no_coverage_where_a_region_lost_its_words_or_all_were_lost(tmp_path, damaged):
    cat = Region("r", box=(1.0, 2.0, 9.0, 8.0), label="cat", label_space="things")
    whole = {"things": (Coverage("exhaustive", ("cat",)),)}
    labelstudio.write([Sample("s", ImageRef("a.png", width=64, height=48), regions=(cat,), coverage=whole)], tmp_path)
    file = tmp_path / "tasks.json"
    tasks = json.loads(file.read_text())
    (annotation,) = tasks[0]["annotations"]
    (row,) = annotation["result"]
    assert next(labelstudio.read(file)).coverage == whole
    if damaged == "annotation":
        annotation["result"] = "none"
    elif damaged == "words":
        annotation["result"].append({**row, "type": "textarea", "value": {**row["value"], "text": [None]}})
    else:
        annotation["result"].append({**row, "type": "labels", "value": {"labels": "cat"}})
    file.write_text(json.dumps(tasks))
    problems = ReadProblems(skip=True)
    (sample,) = labelstudio.read(file, problems=problems)
    assert len(problems.refused) == 1 and sample.coverage == {"things": (Coverage("partial"),)}

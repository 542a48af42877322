"""A reader that is asked to go on names every bad record and gives all the good ones."""

import json
import re
import shutil

import numpy as np
import pytest

from florence2 import pixels, sources
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.formats.problems import ReadProblems
from tests.engine.doubles import folder_of

PNG = pixels.encode(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))


def pictures(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(PNG)


def coco(root):
    pictures(root, "a.png", "b.png")
    images = [
        {"id": 1, "file_name": "a.png"},
        {"file_name": "x.png"},
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "b.png"},
    ]
    boxes = [
        ([1, 2, 3, 4], 1, 7),
        ([1, 2, None, 4], 1, 7),
        ([1, 2, 3, 4], 9, 7),
        ([1, 2, 3, 4, 5], 1, 7),
        ([1, 2, 3, 4], 1, 99),
        ([5, 6, 7, 8], 2, 7),
    ]
    rows = [{"id": n, "image_id": i, "category_id": c, "bbox": b} for n, (b, i, c) in enumerate(boxes)]
    (root / "labels.json").write_text(
        json.dumps({"images": images, "annotations": rows, "categories": [{"id": 7, "name": "cat"}]})
    )
    return 2, 2, ["images[1]", "images[2]", "annotation 2", "annotation 1", "annotation 3", "annotation 4"]


def jsonl(root):
    pictures(root, "a.png")
    good = {"id": "a", "image": "a.png", "regions": [{"id": "r", "box": [1, 2, 3, 4], "label": "cat"}]}
    rows = [good, {**good, "id": "b", "regions": [{"box": [1, 2]}]}, {**good, "id": "a"}, {**good, "id": "c"}]
    (root / "x.jsonl").write_text("\n".join([*map(json.dumps, rows[:2]), "{", *map(json.dumps, rows[2:])]))
    return 3, 2, ["x.jsonl:2", "x.jsonl:3", "x.jsonl:4"]


def voc(root):
    pictures(root / "JPEGImages", "a.png", "b.png")
    (root / "Annotations").mkdir()
    thing = (
        "<object><name>cat</name><bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    )
    (root / "Annotations/a.xml").write_text(
        "<annotation>" + thing.format(1) + thing.format("x") + "<object/></annotation>"
    )
    (root / "Annotations/b.xml").write_text("<annotation>")
    return 1, 1, ["a.xml: object 1", "a.xml: object 2", "b.xml:1"]


def yolo(root):
    pictures(root / "images/train", "a.png", "b.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("0 .5 .5 .2 .2\n9 .5 .5 .2 .2\n0 .5 .5 .2\n0 .1 .1 .1 .1\n")
    (root / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    return 2, 2, ["a.txt:2", "a.txt:3"]


def labelstudio(root):
    pictures(root, "a.png")
    value = {"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": ["cat"]}
    result = {"id": "r", "type": "rectanglelabels", "original_width": 64, "original_height": 48, "value": value}
    tasks = [{"id": n, "data": {"image": "a.png"}, "annotations": [{"result": [result]}]} for n in range(4)]
    tasks[1]["data"], tasks[2]["annotations"] = {}, [{"result": [{**result, "value": None}]}]
    (root / "tasks.json").write_text(json.dumps(tasks))
    return 3, 2, ["task 1", "task 2"]


def openimages(root):
    pictures(root / "validation", "a.jpg")
    (root / "class-descriptions-boxable.csv").write_text("/m/1,Cat\n")
    rows = ["a,/m/1,0,1,0,1", "a,/m/2,0,1,0,1", "a,/m/1,1,0,0,1", "a", "none,/m/1,0,1,0,1", "a,/m/1,0,.5,0,.5"]
    (root / "validation-annotations-bbox.csv").write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\n" + "\n".join(rows))
    return 1, 2, ["bbox.csv:3", "bbox.csv:4", "bbox.csv:5", "bbox.csv:6"]


def icdar(root):
    pictures(root / "img", "img_1.png")
    (root / "gt").mkdir()
    (root / "gt/gt_img_1.txt").write_text("1,2,9,2,9,9,1,9,A\n1,2,3\n1,2,x,2,9,9,1,9,B\n1,2,9,2,9,9,1,9,C\n")
    return 1, 2, ["gt_img_1.txt:2", "gt_img_1.txt:3"]


@pytest.mark.parametrize("make", [coco, jsonl, voc, yolo, labelstudio, openimages, icdar])
def test_every_bad_record_is_named_and_the_good_ones_come(tmp_path, make, capsys):
    root = tmp_path / "set"
    root.mkdir()
    samples, regions, places = make(root)
    with pytest.raises(ValueError, match=re.escape(places[0])):
        list(sources.open(root))
    problems = ReadProblems(skip=True)
    found = list(sources.open(root, problems=problems))
    refused = problems.refused
    assert (len(found), sum(len(s.regions) for s in found)) == (samples, regions)
    assert len(refused) == len(places) and all(place in line for place, line in zip(places, refused))
    assert main(["data", "check", str(root), "--task", "OD", "--json"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["detail"] for row in told if row["reason"] == "unreadable"] == refused
    said = []
    store = import_labels(root, tmp_path / "s", workers=0, skip_bad=True, on_message=said.append)
    assert store.counts()["annotations"]["total"] == regions and f"{len(places)} records cannot be read" in said[0]
    assert said[1 : 1 + len(places)] == [f"left out: {line}" for line in refused]
    with pytest.raises(ValueError, match=re.escape(places[0])):
        import_labels(root, tmp_path / "t", workers=0)


@pytest.mark.parametrize("count", ["0", "-1"])
def test_stats_of_no_labels_are_refused(tmp_path, capsys, count):
    assert main(["data", "stats", str(tmp_path), f"--labels={count}"]) == 1
    assert f"--labels: expected a whole number of at least 1, got {count}" in capsys.readouterr().err


def test_the_help_of_stats_promises_no_folder_of_pictures(tmp_path, capsys):
    folder_of(tmp_path, 2)
    assert main(["data", "stats", str(tmp_path / "pictures")]) == 1  # labels are what it counts
    with pytest.raises(SystemExit):
        main(["data", "stats", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "a store or a folder in a known format; for duplicates a folder of pictures, too" in shown


def test_duplicates_and_stats_of_any_source(tmp_path, capsys):
    train, test = tmp_path / "train", tmp_path / "test"
    coco(train)
    shutil.copytree(train, test)
    (test / "b.png").write_bytes(b"torn")
    (train / "labels.json").unlink()  # a plain folder of pictures
    assert main(["data", "duplicates", str(train), "--quiet"]) == 1  # by its name a.png is test, b.png train
    assert "LEAK\n1 exact, 0 near; 1 shared by two parts" in capsys.readouterr().out
    assert main(["data", "duplicates", str(train), str(tmp_path / "test"), "--json", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert "images[1]" in err  # the data set's own refusal
    (test / "labels.json").unlink()
    assert main(["data", "duplicates", str(train), str(test), "--json", "--quiet"]) == 1
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(r["kind"], r["first"]["part"], r["second"]["part"], r["leaks"]) for r in rows] == [
        ("exact", str(train), str(train), False), ("exact", str(train), str(test), True),
    ]  # fmt: skip
    assert "1 pictures cannot be read, such as" in err
    yolo(tmp_path / "y")
    store = import_labels(tmp_path / "y", tmp_path / "s", workers=0, skip_bad=True)
    assert main(["data", "stats", str(store.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["labels"] == {"cat": 2} and told["images"]["rejected"] == 1 and told["leaks"] == 0
    assert main(["data", "stats", str(store.root)]) == 0
    assert "region_text" in (said := capsys.readouterr().out) and "1 labels: cat 2" in said
    assert main(["data", "stats", str(train), str(test)]) == 1

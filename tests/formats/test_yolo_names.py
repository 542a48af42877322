"""YOLO sets of LabelImg, Label Studio, CVAT and darknet, which have a list of names and no data.yaml."""

import json

import pytest
from PIL import Image

from florence2 import sources

ROW = "1 0.5 0.5 0.2 0.2\n"  # of 160 x 120: (64, 48, 96, 72)


def put(root, pictures, files):
    for name in pictures:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 120), (len(name), 90, 30)).save(root / name)
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(path):
    return {
        (sample.id, sample.split): [
            (region.label, tuple(round(v, 3) for v in region.box), region.label_space) for region in sample.regions
        ]
        for sample in sources.open(path)
    }


DOG = [("dog", (64.0, 48.0, 96.0, 72.0), "farm")]


@pytest.mark.parametrize(
    ("pictures", "files", "right"),
    [
        pytest.param(
            ["images/a.jpg"],
            {
                "classes.txt": "cat\ndog\n",
                "labels/a.txt": ROW,
                "notes.json": json.dumps({"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]}),
            },
            {("images/a.jpg", ""): DOG},
            id="Label Studio",
        ),
        pytest.param(
            ["a.jpg"], {"classes.txt": "cat\ndog\n", "a.txt": ROW}, {("a.jpg", ""): DOG}, id="LabelImg, beside"
        ),
        pytest.param(
            ["images/a.jpg"], {"labels/classes.txt": "cat\ndog", "labels/a.txt": ROW}, {("images/a.jpg", ""): DOG},
            id="LabelImg, in labels",
        ),
        pytest.param(
            ["images/train/a.jpg", "images/val/b.jpg"],
            {"classes.txt": "cat\ndog\n\n", "labels/train/a.txt": ROW, "labels/val/b.txt": ROW},
            {("images/train/a.jpg", "train"): DOG, ("images/val/b.jpg", "test"): DOG},
            id="parts as folders",
        ),
        pytest.param(
            ["obj_train_data/a.jpg"],
            {
                "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n",
                "obj.names": "cat\ndog\n",
                "train.txt": "data/obj_train_data/a.jpg\n",
                "obj_train_data/a.txt": ROW,
            },
            {("obj_train_data/a.jpg", "train"): DOG},
            id="CVAT and darknet",
        ),
    ],
)  # fmt: skip
def test_a_list_of_names_opens_the_set(tmp_path, pictures, files, right):
    put(tmp_path / "farm", pictures, files)
    assert sources.format_of(tmp_path / "farm") == "yolo"
    assert found(tmp_path / "farm") == right
    card = next(name for name in ("obj.data", "classes.txt", "labels/classes.txt") if name in files)
    assert found(tmp_path / "farm" / card) == right


def test_a_list_of_names_without_label_files_is_no_set(tmp_path):
    put(tmp_path, ["a.jpg"], {"classes.txt": "cat\ndog\n", "readme.txt": "20 pictures of 2026\n"})
    with pytest.raises(ValueError, match="no known data set; .*classes.txt"):
        sources.format_of(tmp_path)


def test_a_class_beyond_the_list_and_a_missing_list_are_refused_in_one_line(tmp_path):
    put(tmp_path / "a", ["a.jpg"], {"classes.txt": "cat\n", "a.txt": ROW})
    with pytest.raises(ValueError, match=r"a.txt:1: class 1 is not among the 1 names of classes.txt"):
        found(tmp_path / "a")
    put(tmp_path / "b", ["a.jpg"], {"obj.data": "train = train.txt\nnames = data/obj.names\n", "train.txt": "a.jpg\n"})
    with pytest.raises(ValueError, match=r"obj.data: names: 'data/obj.names' is no file; expected a list"):
        found(tmp_path / "b")

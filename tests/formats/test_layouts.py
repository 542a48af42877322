"""The folders in which other programs leave a set: which files belong to it, and which part each picture is in."""

import json

import pytest
from PIL import Image

from florence2 import sources

CAT = [("cat", (10.0, 20.0, 40.0, 60.0))]
VOC = (
    "<annotation><filename>{0}</filename><size><width>160</width><height>120</height></size><object><name>cat</name>"
    "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>60</ymax></bndbox></object></annotation>"
)


def coco(*names):
    """One cat on each picture, numbered from 0."""
    rows = [{"id": n, "file_name": name, "width": 160, "height": 120} for n, name in enumerate(names)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 20, 30, 40]} for n in range(len(names))]
    return json.dumps({"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]})


def put(root, files):
    """Pictures, each of a colour of its own, and files of text."""
    for n, (name, text) in enumerate(files.items()):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (160, 120), (20 * n, 90, 30)).save(root / name)
        else:
            (root / name).write_text(text)
    return root


def found(path, **options):
    """Where each picture lies, its part and its boxes."""
    return {
        sample.image.uri[len(str(path)) + 1 :]: (sample.split, [(r.label, r.box) for r in sample.regions])
        for sample in sources.open(path, **options)
    }


LAYOUTS = {
    "COCO's own": (
        {
            "annotations/instances_train2017.json": coco("a.jpg"),
            "annotations/instances_val2017.json": coco("b.jpg"),
            "train2017/a.jpg": None,
            "val2017/b.jpg": None,
        },
        {"train2017/a.jpg": "", "val2017/b.jpg": ""},
    ),
    "CVAT's COCO": (
        {"annotations/instances_default.json": coco("a.jpg"), "images/default/a.jpg": None},
        {"images/default/a.jpg": ""},
    ),
    "Roboflow's COCO": (
        {
            "train/_annotations.coco.json": coco("a.jpg"),
            "valid/_annotations.coco.json": coco("a.jpg"),
            "test/_annotations.coco.json": coco("a.jpg"),
            "train/a.jpg": None,
            "valid/a.jpg": None,
            "test/a.jpg": None,
            "README.roboflow.txt": "exported",
        },
        {"train/a.jpg": "train", "valid/a.jpg": "val", "test/a.jpg": "test"},
    ),
    "COCO, parts by the files' names": (
        {"train.json": coco("t/1.jpg"), "val.json": coco("v/1.jpg"), "t/1.jpg": None, "v/1.jpg": None},
        {"t/1.jpg": "", "v/1.jpg": ""},
    ),
    "Roboflow's VOC": (
        {
            "train/a.xml": VOC.format("a.jpg"),
            "valid/a.xml": VOC.format("a.jpg"),
            "train/a.jpg": None,
            "valid/a.jpg": None,
        },
        {"train/a.jpg": "train", "valid/a.jpg": "test"},
    ),
    "VOC with a test part": (
        {
            **{f"Annotations/{part}/a.xml": VOC.format("a.jpg") for part in ("train", "val", "test")},
            **{f"JPEGImages/{part}/a.jpg": None for part in ("train", "val", "test")},
        },
        {"JPEGImages/train/a.jpg": "train", "JPEGImages/val/a.jpg": "val", "JPEGImages/test/a.jpg": "test"},
    ),
}


@pytest.mark.parametrize(("files", "parts"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_set_opens_by_its_folder_and_its_names_tell_the_parts(tmp_path, files, parts):
    root = put(tmp_path / "set", files)
    assert found(root) == {name: (part, CAT) for name, part in parts.items()}
    samples = list(sources.open(root))
    assert len({sample.id for sample in samples}) == len({sample.image.id for sample in samples}) == len(parts)
    assert len({region.label_space for sample in samples for region in sample.regions}) == 1
    for part in {part for part in parts.values() if part}:
        assert set(found(root, split=part)) == {name for name, of in parts.items() if of == part}


def test_one_folder_called_after_a_part_is_no_part(tmp_path):
    root = put(tmp_path / "set", {"train/a.xml": VOC.format("a.jpg"), "train/a.jpg": None})
    assert found(root) == {"train/a.jpg": ("", CAT)}


def test_a_part_without_pictures_is_refused(tmp_path):
    root = put(
        tmp_path / "set",
        {
            "train/a.xml": VOC.format("a.jpg"),
            "train/a.jpg": None,
            "test/b.jpg": None,
            "test/b.xml": VOC.format("b.jpg"),
        },
    )
    with pytest.raises(ValueError, match="set: has no val part of its own"):
        list(sources.open(root, split="val"))
    one = put(tmp_path / "one", {"instances.json": coco("a.jpg"), "a.jpg": None})
    other = "test" if sources.split_of("a.jpg") == "train" else "train"
    with pytest.raises(ValueError, match=f"one: has no {other} part: none of its pictures belongs to it"):
        list(sources.open(one, split=other))


def test_metadata_of_an_image_folder(tmp_path):
    rows = [
        {"file_name": "a.jpg", "text": "a cat"},
        {"file_name": "sub/b.jpg", "objects": {"bbox": [[10, 20, 30, 40]], "categories": ["cat"]}},
    ]
    root = put(
        tmp_path,
        {
            "train/metadata.jsonl": "\n".join(map(json.dumps, rows)),
            "train/a.jpg": None,
            "train/sub/b.jpg": None,
            "test/metadata.jsonl": '{"file_name": "c.jpg", "text": "x"}',
            "test/c.jpg": None,
        },
    )
    assert sources.format_of(root) == "imagefolder"
    captioned, boxed = sources.open(root, split="train")
    assert [text.text for text in captioned.texts] == ["a cat"] and captioned.split == boxed.split == "train"
    assert [(r.label, r.box) for r in boxed.regions] == CAT and boxed.image.size_wh == (160, 120)


def test_metadata_refuses_by_line(tmp_path):
    root = put(tmp_path, {"metadata.jsonl": '{"file_name": "a.jpg", "text": "x"}\n' * 2, "a.jpg": None})
    with pytest.raises(ValueError, match=r"metadata.jsonl:2: file_name: 'a.jpg' has a row already"):
        list(sources.open(root))
    put(tmp_path, {"metadata.jsonl": '{"file_name": "a.jpg", "text": " "}\n'})
    with pytest.raises(ValueError, match=r"metadata.jsonl:1: text: expected text, got white space"):
        list(sources.open(root))


def test_a_text_beside_each_picture_is_its_caption(tmp_path, caplog):
    root = put(
        tmp_path,
        {
            "a.jpg": None,
            "a.txt": "a cat\non a mat\n",
            "b.jpg": None,
            "test/c.png": None,
            "test/c.txt": "a dog",
            "train/e.png": None,
            "train/e.txt": "an owl",
            "d.txt": "x",
        },
    )
    assert sources.format_of(root) == "captions"
    with caplog.at_level("INFO"):
        samples = list(sources.open(root))
    assert {s.id: (s.split, [t.text for t in s.texts]) for s in samples} == {
        "a.jpg": ("", ["a cat on a mat"]),
        "test/c.png": ("test", ["a dog"]),
        "train/e.png": ("train", ["an owl"]),
    }
    assert "b.jpg: has no .txt beside it" in caplog.text and "d.txt: is a text without a picture" in caplog.text

"""What people's label files do to a reader, in every format: sizes, spellings, copies, rows that mean else."""

import json
import re
import shutil
import unicodedata

import pytest

from florence2 import geometry, sources
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import settings
from florence2.engine.specialists.cards import read_yaml
from florence2.formats import cvat
from florence2.formats.lookup import Lookup
from florence2.formats.problems import ReadProblems
from florence2.records import ImageRef, Region, Sample
from tests.formats import label_sets
from tests.formats.label_sets import MAKERS, TELL_SIZE, picture, voc_object, write

CAT, DOG = ("cat", (10, 20, 50, 90)), ("dog", (110, 20, 150, 50))


def read(root, **options):
    """(samples, what was refused, notes) of a set that is read to its end."""
    problems = ReadProblems(skip=True)
    found = list(sources.open(root, problems=problems, **options))
    return found, problems.refused, problems.notes()


def boxes(sample):
    return {region.label: pytest.approx(region.box, abs=0.01) for region in sample.regions}


def made(root, format, things=(CAT, DOG), told=label_sets.SIZE, name="a.jpg", **options):
    """A set of one picture, drawn."""
    folder = MAKERS[format](root, name, things, told)
    picture(folder / name, **options)
    return root


# ---- sizes


@pytest.mark.parametrize("format", [f for f in TELL_SIZE if f != "labelstudio"])
def test_boxes_drawn_before_exif_turned_the_picture_are_turned(tmp_path, format):
    (sample,), refused, _ = read(made(tmp_path, format, orientation=6))
    assert sample.image.size_wh == (120, 160) and not refused
    assert boxes(sample) == {"cat": (30, 10, 100, 50), "dog": (70, 110, 100, 150)}


@pytest.mark.parametrize("told", [label_sets.SIZE, None], ids=["size told", "no size"])
@pytest.mark.parametrize("orientation, cat", [(5, (20, 10, 90, 50)), (7, (30, 110, 100, 150)), (8, (20, 110, 90, 150))])
def test_every_turn_is_the_loaders(tmp_path, orientation, cat, told):
    (sample,), _, _ = read(made(tmp_path, "coco", told=told, orientation=orientation))
    assert boxes(sample)["cat"] == cat


@pytest.mark.parametrize("format", [f for f in TELL_SIZE if f != "labelstudio"])
def test_an_upright_box_beside_the_unturned_size_stays(tmp_path, format):
    (sample,), refused, _ = read(made(tmp_path, format, [CAT, ("dog", (20, 110, 50, 150))], orientation=6))
    assert boxes(sample) == {"cat": CAT[1], "dog": (20, 110, 50, 150)} and not refused


@pytest.mark.parametrize("format", TELL_SIZE)
@pytest.mark.parametrize(
    "told, orientation", [((160, 120), 6), ((200, 120), 1), ((120, 160), 1)], ids=["either way", "other form", "turned"]
)
def test_boxes_that_cannot_be_placed_are_refused_with_both_sizes(tmp_path, format, told, orientation):
    root = made(tmp_path, format, [CAT], told, orientation=orientation)
    with pytest.raises(ValueError, match=rf"states {told[0]} x {told[1]} for a.jpg, which is"):
        list(sources.open(root))
    (sample,), refused, _ = read(root)
    assert not sample.regions and len(refused) == 1
    assert not any(state.state == "exhaustive" for states in sample.coverage.values() for state in states)


@pytest.mark.parametrize("format", TELL_SIZE)
def test_boxes_of_a_picture_that_was_made_smaller_are_scaled(tmp_path, format):
    twice = [(label, tuple(2 * v for v in box)) for label, box in (CAT, DOG)]
    (sample,), refused, _ = read(made(tmp_path, format, twice, (320, 240)))
    assert boxes(sample) == {"cat": CAT[1], "dog": DOG[1]} and sample.image.size_wh == (160, 120) and not refused


def test_outlines_and_quads_move_with_their_boxes(tmp_path):
    outline = [20, 40, 100, 40, 100, 180]
    picture(tmp_path / "a.jpg")
    image = {"id": "a", "uri": "a.jpg", "width": 320, "height": 240}
    region = {"id": "r", "box": [20, 40, 100, 180], "polygons": [outline], "quad": [20, 40, 100, 40, 100, 180, 20, 180]}
    write(tmp_path / "s.jsonl", json.dumps({"id": "a", "image": image, "regions": [region]}))
    (sample,), _, _ = read(tmp_path)
    assert sample.regions[0].polygons == ((10, 20, 50, 20, 50, 90),) and sample.regions[0].quad[:4] == (10, 20, 50, 20)


# ---- names


VARIANTS = {
    "accents": ("café.jpg", unicodedata.normalize("NFD", "café.jpg")),
    "case": ("Photo.JPG", "photo.jpg"),
    "percent": ("my photo.jpg", "my%20photo.jpg"),
    "upload": ("photo.jpg", "1a2b3c4d-photo.jpg"),
    "upload on disk": ("1a2b3c4d-photo.jpg", "photo.jpg"),
}


@pytest.mark.parametrize("disk, written", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("format", MAKERS)
def test_a_name_that_differs_in_its_spelling_alone_is_found(tmp_path, format, disk, written):
    folder = MAKERS[format](tmp_path, written, [CAT])
    picture(folder / disk)
    (sample,), refused, _ = read(tmp_path)
    assert sample.image.uri.endswith(disk) and boxes(sample) == {"cat": CAT[1]} and not refused


def test_an_upload_is_found_below_the_folders_of_its_address(tmp_path):
    picture(tmp_path / "pictures" / "photo.jpg")
    picture(tmp_path / "pictures" / "0a1b2c3d-other.jpg")
    found = Lookup(tmp_path)
    assert found.existing("data/upload/1/ab12cd34-photo.jpg", "x").name == "photo.jpg"
    assert found.existing("data/upload/1/other.jpg", "x").name == "0a1b2c3d-other.jpg"
    assert found.existing("data/upload/1/ab12cd34-other.jpg", "x") is None


@pytest.mark.parametrize("format", ["coco", "jsonl", "labelstudio", "voc", "cvat"])
def test_slashes_lean_either_way(tmp_path, format):
    folder = MAKERS[format](tmp_path, "sub\\a.jpg", [CAT])
    picture(folder / "sub" / "a.jpg")
    (sample,), _, _ = read(tmp_path)
    assert sample.image.uri.endswith("sub/a.jpg") and boxes(sample) == {"cat": CAT[1]}


def test_where_two_files_would_fit_none_is_taken(tmp_path):
    for name in ("PHOTO.jpg", "Photo.jpg", "1a2b3c4d-cat.jpg", "5e6f7a8b-cat.jpg", "deadbeef-dog.jpg"):
        picture(tmp_path / name)
    found = Lookup(tmp_path)
    assert found.existing("photo.jpg", "x") is None and found.existing("Photo.jpg", "x").name == "Photo.jpg"
    assert found.existing("cat.jpg", "x") is None and found.existing("cafebabe-dog.jpg", "x") is None
    assert found.existing("dog.jpg", "x").name == "deadbeef-dog.jpg"


def test_a_path_of_another_machine_is_found_by_its_end(tmp_path):
    for name in ("cam1/x.jpg", "cam2/x.jpg"):
        picture(tmp_path / "images" / name)
    found = Lookup(tmp_path, [tmp_path, tmp_path / "images"])
    assert found.existing("/home/me/set/cam2/x.jpg", "x").parts[-2:] == ("cam2", "x.jpg")
    assert found.existing("C:\\set\\cam1\\x.jpg", "x").parts[-2:] == ("cam1", "x.jpg")
    assert found.existing("/home/me/x.jpg", "x") is None  # two would fit


@pytest.mark.parametrize("format", ["coco", "voc", "labelstudio", "cvat"])
def test_a_picture_outside_the_set_is_taken_only_from_the_folder_that_the_user_names(tmp_path, format):
    root, outside = tmp_path / "a" / "set", picture(tmp_path / "secret" / "x.jpg")
    MAKERS[format](root, str(outside), [CAT])
    (root / "more").mkdir()
    with pytest.raises(ValueError, match="outside the set.*--images"):
        list(sources.open(root))
    assert [s.image.uri for s in read(root)[0]] == []
    (sample,), _, _ = read(root, images=outside.parent)
    assert sample.image.uri == str(outside)
    MAKERS[format](root, "../../../secret/x.jpg", [CAT])
    assert not [s for s in read(root)[0] if "secret" in s.image.uri]


def test_json_lines_may_name_any_picture(tmp_path):
    outside = picture(tmp_path / "secret" / "x.jpg")
    write(tmp_path / "a/b/s.jsonl", json.dumps({"id": "x", "image": "../../secret/x.jpg"}))
    (sample,), _, _ = read(tmp_path / "a/b")
    assert sample.image.size_wh == (160, 120) and outside.samefile(sample.image.uri)


# ---- folders


@pytest.mark.parametrize("format", MAKERS)
def test_copies_of_a_mac_and_hidden_folders_are_passed_over(tmp_path, format):
    root = made(tmp_path, format)
    for path in [p for p in root.rglob("*") if p.is_file()]:
        write(path.with_name(f"._{path.name}"), b"\0\5\x16\7Mac OS X" + b"\xff" * 64)
        write(path.parent / "__MACOSX" / path.name, b"\xff")
    (sample,), refused, _ = read(root)
    assert boxes(sample) == {"cat": CAT[1], "dog": DOG[1]} and not refused


def test_yolo_in_subfolders(tmp_path):
    rows = {"top": "0 .5 .5 .2 .2", "cam1/x": "1 .3 .3 .2 .2", "cam2/x": "1 .6 .6 .2 .2"}
    for name, row in rows.items():
        picture(tmp_path / f"images/train/{name}.jpg")
        write(tmp_path / f"labels/train/{name}.txt", row)
    write(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]\n")
    found, refused, _ = read(tmp_path)
    assert {s.image.id: list(boxes(s)) for s in found} == {
        "images/train/top.jpg": ["cat"], "images/train/cam1/x.jpg": ["dog"], "images/train/cam2/x.jpg": ["dog"],
    }  # fmt: skip
    assert not refused and len({region.box for s in found for region in s.regions}) == 3


@pytest.mark.parametrize("folders", [("Annotations", "JPEGImages"), ("annotations", "images")])
def test_voc_in_subfolders(tmp_path, folders):
    labels, images = (tmp_path / name for name in folders)
    for name, told in (("f1/x", "f1/x.jpg"), ("f2/x", "x.jpg"), ("y", "y.jpg")):
        picture(images / f"{name}.jpg")
        write(labels / f"{name}.xml", f"<annotation><filename>{told}</filename>{voc_object(*DOG)}</annotation>")
    write(tmp_path / "ImageSets/Main/train.txt", "f1/x\ny\n")
    write(tmp_path / "ImageSets/Main/test.txt", "f2\\x\n")
    found, _, _ = read(tmp_path)
    assert {s.id: (s.split, s.image.uri.partition(folders[1] + "/")[2]) for s in found} == {
        "f1/x": ("train", "f1/x.jpg"), "f2/x": ("test", "f2/x.jpg"), "y": ("train", "y.jpg"),
    }  # fmt: skip


def test_a_voc_file_means_its_own_picture_where_it_names_anothers(tmp_path):
    for stem in "01":
        picture(tmp_path / f"JPEGImages/{stem}.jpg")
        thing = voc_object(f"dog{stem}", DOG[1])
        write(tmp_path / f"Annotations/{stem}.xml", f"<annotation><filename>1.jpg</filename>{thing}</annotation>")
    found, _, _ = read(tmp_path)
    assert {s.image.uri[-5:]: list(boxes(s)) for s in found} == {"0.jpg": ["dog0"], "1.jpg": ["dog1"]}
    (tmp_path / "JPEGImages/0.jpg").unlink()
    ((sample,), refused, _) = read(tmp_path)
    assert list(boxes(sample)) == ["dog1"] and "0.xml: filename" in refused[0]


def test_three_voc_files_that_tell_the_same_absent_name_are_three_pictures(tmp_path):
    for stem in "012":
        picture(tmp_path / f"JPEGImages/{stem}.jpg")
        write(tmp_path / f"Annotations/{stem}.xml", "<annotation><filename>photo.jpg</filename></annotation>")
    assert [s.image.id for s in read(tmp_path)[0]] == ["0.jpg", "1.jpg", "2.jpg"]


def test_yolo_labels_beside_their_pictures(tmp_path):
    root = tmp_path / "images" / "farm"  # a folder further up is called images
    picture(root / "train/x.jpg")
    write(root / "train/x.txt", "0 .5 .5 .2 .2\n")
    write(root / "data.yaml", "train: train\nval: train\nnames: [cat]\n")
    (sample,), _, _ = read(root)
    assert boxes(sample) == {"cat": (64, 48, 96, 72)}
    (root / "train/x.txt").unlink()
    with pytest.raises(ValueError, match="none of its 1 pictures has a label file"):
        list(sources.open(root))
    (sample,), _, _ = read(root)
    assert not sample.coverage  # no labels are not the label "nothing"
    picture(root / "train/y.jpg")
    write(root / "train/y.txt", "")
    found, refused, notes = read(root)
    assert len(found) == 2 and not refused and "x.jpg: has no label file" in notes[0]


@pytest.mark.parametrize("there", ["/content/datasets/farm/", "C:\\sets\\farm\\", "farm/", "../", ""])
def test_a_yolo_card_of_another_machine(tmp_path, there):
    root = tmp_path / "farm"
    for split in ("train", "valid"):
        picture(root / f"{split}/images/{split}.jpg")
        write(root / f"{split}/labels/{split}.txt", "0 .5 .5 .2 .2\n")
    write(root / "data.yaml", f"train: '{there}train/images'\nval: '{there}valid/images'\nnames: [cow]\n")
    found, refused, _ = read(root)
    assert [(s.split, *boxes(s)) for s in found] == [("train", "cow"), ("test", "cow")] and not refused
    write(root / "images/z.jpg", b"")  # no part of a split that is missing
    card = f"train: '{there}train/images'\nval: '{there}valid/images'\ntest: '{there}test/images'\nnames: [cow]\n"
    write(root / "data.yaml", card)
    found, refused, _ = read(root)
    assert len(found) == 2 and len(refused) == 1 and "data.yaml: test: " in refused[0]


def test_a_yolo_label_file_of_two_pictures_is_refused(tmp_path):
    root = made(tmp_path, "yolo")
    picture(root / "images/a.png")
    found, refused, _ = read(root)
    assert len(found) == 1 and "belongs to a.jpg and to a.png" in refused[0]


# ---- rows that mean something else


def test_yolo_key_points_are_left_out(tmp_path):
    root = made(tmp_path, "yolo")
    write(root / "labels/a.txt", "0 .5 .5 .4 .6 .45 .55 .5 .6 .55 .4 .6 .7\n")
    write(root / "data.yaml", "train: images\nkpt_shape: [4, 2]\nnames: [person, dog]\n")
    (sample,), _, notes = read(root)
    assert boxes(sample) == {"person": (48, 24, 112, 96)} and not sample.regions[0].polygons
    assert "key points (pose, kpt_shape) are left out (1 in all)" in notes[0]
    write(root / "data.yaml", "train: images\nnames: [person, dog]\n")
    write(root / "labels/a.txt", "0 .1 .1 .5 .1 .5 .5 .1 .5\n")  # without kpt_shape: four corners
    (sample,), _, notes = read(root)
    assert len(sample.regions[0].polygons[0]) == 8 and not notes


def test_yolo_pixels_in_place_of_fractions_are_named(tmp_path):
    root = made(tmp_path, "yolo")
    write(root / "labels/a.txt", "0 80 60 40 30\n1 .5 .5 .25 .25\n")
    (sample,), refused, _ = read(root)
    assert list(boxes(sample)) == ["dog"] and "a.txt:1" in refused[0] and "pixels" in refused[0]


def test_yaml_labels_are_words(tmp_path):
    words = ["no", "yes", "on", "off", "007", "12:30", "null", "1e3", "~", "2020-01-01"]
    root = made(tmp_path, "yolo")
    write(root / "labels/a.txt", "".join(f"{n} .5 .5 .0{n + 1} .2\n" for n in range(len(words))))
    for names in (f"[{', '.join(words)}]", "{" + ", ".join(f"{n}: {word}" for n, word in enumerate(words)) + "}"):
        write(root / "data.yaml", f"train: images\nnames: {names}\n")
        (sample,), _, _ = read(root)
        assert [region.label for region in sample.regions] == words


@pytest.mark.parametrize("format", [f for f in MAKERS if f not in ("icdar", "sroie")])
def test_a_box_inside_out_is_left_out_by_name(tmp_path, format):
    root = made(tmp_path, format, [CAT, ("dog", (150, 20, 110, 50))])
    (sample,), refused, _ = read(root)
    assert list(boxes(sample)) == ["cat"] and len(refused) == 1
    with pytest.raises(ValueError, match=re.escape(refused[0])):
        list(sources.open(root))


@pytest.mark.parametrize("format", MAKERS)
def test_a_box_outside_its_picture_is_left_out_by_name_and_coverage_follows(tmp_path, format):
    root = made(tmp_path, format, [CAT, ("dog", (200, 20, 240, 50))])
    (sample,), refused, _ = read(root)
    assert list(boxes(sample)) == ["cat"] and len(refused) == 1 and "outside" in refused[0]
    listed = [c for states in sample.coverage.values() for c in states if c.state == "exhaustive"]
    assert all(c.labels and "dog" not in c.labels for c in listed)
    assert bool(listed) == (format not in ("labelstudio", "cvat", "icdar", "sroie"))  # of cats all are still there


@pytest.mark.parametrize("format", MAKERS)
def test_a_box_that_sticks_out_stays(tmp_path, format):
    (sample,), refused, _ = read(made(tmp_path, format, [("cat", (-0.5, 20, 50, 90))]))
    assert len(sample.regions) == 1 and not refused


@pytest.mark.parametrize("head", ['<annotation xmlns="http://example.org/voc">', "<annotation>"])
@pytest.mark.parametrize("encoding", ["utf-8", "gb2312", "utf-16"])
def test_voc_in_any_encoding_and_namespace(tmp_path, head, encoding):
    root = made(tmp_path, "voc")
    said = f'<?xml version="1.0" encoding="{encoding}"?>{head}{voc_object("猫", DOG[1])}</annotation>'
    write(root / "Annotations/a.xml", said.encode(encoding))
    (sample,), _, _ = read(root)
    assert boxes(sample) == {"猫": DOG[1]}


@pytest.mark.parametrize(
    "said, message",
    [
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "not text in klingon"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "entities of its own"),
    ],
)
def test_voc_that_cannot_be_decoded_is_named(tmp_path, said, message):
    root = made(tmp_path, "voc")
    write(root / "Annotations/a.xml", said)
    assert message in read(root)[1][0]


def coco_with(root, **changes):
    made(root, "coco")
    data = json.loads((root / "instances.json").read_text())
    for row in data["annotations"][:1]:
        row.update(changes)
    write(root / "instances.json", json.dumps(data))
    return root


@pytest.mark.parametrize(
    "outline, refusals",
    [
        ([[]], 0),
        ([[10, 20, 40, 70]], 0),  # the box again
        ([[1, 2, 3, 4]], 1),
        ([[1, 2, "x", 4, 5, 6]], 1),
        ({"size": [160, 120], "counts": [0, 100, 19100]}, 1),
        ({"size": [120, 160], "counts": [0, 100]}, 1),
        ({"size": [100000, 100000], "counts": [0, 10**10]}, 1),
        ({"size": [120, 160], "counts": "o" * 10_000}, 1),
        ({"size": [120, 160], "counts": [0, 10**400]}, 1),
        ("abc", 1),
    ],
)
def test_of_an_object_with_a_bad_outline_the_box_stays(tmp_path, outline, refusals):
    root = coco_with(tmp_path, segmentation=outline)
    (sample,), refused, _ = read(root)
    assert boxes(sample) == {"cat": CAT[1], "dog": DOG[1]} and len(refused) == refusals
    assert all("annotation 1: " in line for line in refused)
    assert not sample.regions[0].mask and not sample.regions[0].polygons


def test_a_bad_box_with_a_good_outline_stays_as_its_outline(tmp_path):
    root = coco_with(tmp_path, bbox=[1, 2, "x"], segmentation=[[10, 20, 50, 20, 50, 90]])
    (sample,), refused, _ = read(root)
    assert boxes(sample)["cat"] == CAT[1] and "annotation 1: bbox" in refused[0]


@pytest.mark.parametrize("bad", [None, 5, "x", [1], True])
def test_what_is_no_object_is_left_out(tmp_path, bad):
    root = made(tmp_path, "coco")
    data = json.loads((root / "instances.json").read_text())
    for key in ("images", "annotations", "categories"):
        data[key].insert(0, bad)
    write(root / "instances.json", json.dumps(data))
    (sample,), refused, _ = read(root)
    assert boxes(sample) == {"cat": CAT[1], "dog": DOG[1]} and len(refused) == 3
    assert all("instances.json" in line and "[0]: expected an object" in line for line in refused)


@pytest.mark.parametrize("bad", [[1], {}, None, True, float("nan")])
def test_an_id_that_is_none_is_left_out(tmp_path, bad):
    root = made(tmp_path, "coco")
    data = json.loads((root / "instances.json").read_text())
    data["images"].append({"id": bad, "file_name": "b.jpg"})
    data["annotations"][1]["category_id"] = bad
    write(root / "instances.json", json.dumps(data))
    (sample,), refused, _ = read(root)
    assert list(boxes(sample)) == ["cat"] and len(refused) == 2
    assert [c.state for c in sample.coverage["instances"]] == ["partial"]


def test_the_label_of_a_lost_object_is_no_longer_listed(tmp_path):
    root = coco_with(tmp_path, bbox=[10, 20, "wide", 70])
    store = import_labels(root, tmp_path / "s", workers=0, skip_bad=True)
    (sample,) = store.samples()
    states = {c.state: c.labels for c in sample.coverage["instances"]}
    assert states == {"exhaustive": ("dog",), "partial": ("cat",)} and list(boxes(sample)) == ["dog"]


# ---- null


def test_null_is_no_caption(tmp_path):
    picture(tmp_path / "a.jpg")
    said = [None, "", float("nan"), "a red box on a wall"]
    rows = [{"id": n, "image_id": 1, "caption": text} for n, text in enumerate(said)]
    data = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": rows}
    write(tmp_path / "captions.json", json.dumps(data))
    (sample,), refused, _ = read(tmp_path)
    assert [text.text for text in sample.texts] == said[3:] and len(refused) == 3


def test_null_is_no_label_no_name_and_no_word(tmp_path):
    root = made(tmp_path, "coco")
    data = json.loads((root / "instances.json").read_text())
    data["categories"][0]["name"] = None
    data["images"].append({"id": 2, "file_name": None})
    write(root / "instances.json", json.dumps(data))
    (sample,), refused, _ = read(root)
    assert list(boxes(sample)) == ["dog"] and len(refused) == 3 and "categories[0]: name" in refused[0]
    made(tmp_path / "sroie", "sroie")
    write(tmp_path / "sroie/key/a.json", '{"total": null, "date": "today"}')
    (receipt,), refused, _ = read(tmp_path / "sroie")
    assert "None" not in [t.text for t in receipt.texts] and "a.json: 'total'" in refused[0]
    row = {"id": "a", "image": "a.jpg", "regions": [{"id": "r", "label": None}, {"id": "s", "label": "cat"}]}
    write(tmp_path / "lines/s.jsonl", json.dumps(row))
    (line,), refused, _ = read(tmp_path / "lines")
    assert [r.label for r in line.regions] == ["cat"] and "s.jsonl:1: regions[0]" in refused[0]


# ---- Label Studio


def tasks(root, *results, **more):
    made(root, "labelstudio", [CAT])
    (task,) = json.loads((root / "export.json").read_text())
    task["annotations"][0]["result"] += results
    write(root / "export.json", json.dumps([{**task, **more}]))
    return root


PLACE = {"x": 10, "y": 20, "width": 30, "height": 40}
SIDES = {"original_width": 160, "original_height": 120}


@pytest.mark.parametrize(
    "result, word",
    [
        ({"id": "c", "type": "choices", "value": {"choices": ["blurry"]}}, "choices"),
        ({"type": "relation", "from_id": "r0", "to_id": "r1"}, "relations"),
        ({"id": "k", "type": "keypointlabels", "value": {"x": 1, "y": 2, "width": 1}}, "keypointlabels"),
        ({"id": "n", "type": "number", "value": {"number": 3}}, "numbers"),
    ],
)
def test_controls_without_a_place_are_counted(tmp_path, result, word):
    (sample,), refused, notes = read(tasks(tmp_path, result))
    assert boxes(sample) == {"cat": CAT[1]} and not refused and f"{word} are left out" in notes[0]


def test_ids_in_place_of_predictions_hold_nothing(tmp_path):
    (sample,), refused, notes = read(tasks(tmp_path, predictions=[17, 18]))
    assert boxes(sample) == {"cat": CAT[1]} and not refused and "predictions are ids alone" in notes[0]


@pytest.mark.parametrize("value", [None, 5, [], {"x": None}])
def test_a_result_without_a_value_is_left_out(tmp_path, value):
    root = tasks(tmp_path, {"id": "bad", "type": "rectanglelabels", "value": value, **SIDES})
    (sample,), refused, _ = read(root)
    assert boxes(sample) == {"cat": CAT[1]} and "export.json: task 1: result 'bad'" in refused[0]


def test_a_remark_on_a_labelled_region_is_its_description(tmp_path):
    said = {"id": "r0", "type": "textarea", "from_name": "remark", "value": {**PLACE, "text": ["a striped cat"]}}
    (sample,), _, _ = read(tasks(tmp_path, {**said, **SIDES}))
    (region,) = sample.regions
    assert (region.label, region.kind, region.description) == ("cat", "object", "a striped cat") and not sample.texts


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_words_that_were_read_in_whatever_order_their_results_come(tmp_path, order):
    rows = ("labels", {"labels": ["Text"]}), ("rectangle", {}), ("textarea", {"text": ["HELLO"]})
    results = [{"id": "t", "type": kind, "value": {**PLACE, **said}, **SIDES} for kind, said in rows]
    (sample,), _, _ = read(tasks(tmp_path, *(results[n] for n in order)))
    (word,) = (r for r in sample.regions if r.kind == "text")
    assert word.label == "HELLO" and word.box == pytest.approx((16, 24, 64, 72))
    (sample,), _, _ = read(tasks(tmp_path / "b", *(results[n] for n in order if n < 2)))
    assert [r.label for r in sample.regions] == ["cat", "Text"]  # nothing was read: the label is its name


def test_percents_are_of_the_picture_as_it_is(tmp_path):
    root = tasks(tmp_path)
    shutil.copy(root / "images/a.jpg", root / "keep.jpg")
    picture(root / "images/a.jpg", (80, 60))
    (sample,), _, _ = read(root)
    assert boxes(sample) == {"cat": (5, 10, 25, 45)} and sample.image.size_wh == (80, 60)


def test_labels_of_cards_and_synonyms_are_words_too(tmp_path):
    words = "[no, yes, 007, 12:30, null, 1e3]"
    card = write(tmp_path / "card.yaml", f"name: x\nscore: 0.5\nclasses: {words}\n")
    data = read_yaml(card)
    assert data["score"] == 0.5 and data["classes"] == ["no", "yes", "007", "12:30", "null", "1e3"]
    synonyms = write(tmp_path / "merge.yaml", f"iou: 0.4\ncontradicted: false\nsynonyms: [{words}]\n")
    config = settings(synonyms)
    assert config.synonyms == (("no", "yes", "007", "12:30", "null", "1e3"),)
    assert config.iou == 0.4 and config.contradicted is False


def test_aliases_that_repeat_a_part_without_end_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    made(tmp_path, "yolo")
    write(tmp_path / "data.yaml", "\n".join([*lines, "train: images", "names: *a11"]))
    with pytest.raises(ValueError, match="data.yaml: not YAML .its aliases repeat more"):
        list(sources.open(tmp_path))


# ---- CVAT


def test_cvat_comes_back_as_it_went_out(tmp_path):
    mask = geometry.encode_rle(geometry.rasterize([(10, 20, 50, 20, 50, 90)], (160, 120)))
    parts = ((1.0, 2.0, 30.0, 2.0, 30.0, 40.0), (50.0, 60.0, 70.0, 60.0, 70.0, 80.0))
    regions = (
        Region("r0", "object", (1.5, 2.5, 30.0, 40.0), "cat"),
        Region("r1", "object", (1.0, 2.0, 70.0, 80.0), "dog", polygons=parts),
        Region("r3", "object", geometry.rle_box(mask), "dog", mask=mask),
    )
    image = ImageRef("a.jpg", str(picture(tmp_path / "a.jpg")), width=160, height=120)
    cvat.write([Sample("0", image, regions=regions, split="test")], tmp_path / "out")
    (sample,), refused, _ = read(tmp_path / "out")
    assert sources.format_of(tmp_path / "out") == "cvat" and sample.split == "test" and not refused
    assert [(r.label, r.box, r.polygons) for r in sample.regions] == [
        (r.label, pytest.approx(r.box), r.polygons) for r in regions
    ]
    assert sample.regions[2].mask == mask and sample.regions[0].source.kind == "human"


def test_cvat_turned_boxes_and_what_has_no_place(tmp_path):
    picture(tmp_path / "images/a.jpg")
    shapes = (
        '<box label="cat" xtl="40" ytl="40" xbr="80" ybr="60" rotation="90"><attribute name="x">1</attribute></box>'
        '<points label="dog" points="1,2"/><tag label="blurry"/><mask label="cat" rle="0, 9" left="0" top="0"/>'
    )
    write(tmp_path / "annotations.xml", f'<annotations><image id="0" name="a.jpg">{shapes}</image></annotations>')
    (sample,), refused, notes = read(tmp_path)
    assert sample.regions[0].box == pytest.approx((50, 30, 70, 70)) and len(sample.regions) == 1
    assert "'mask' 3: width: expected" in refused[0]
    assert {note.partition("are")[0].rpartition(": ")[2] for note in notes} == {"attributes ", "points ", "tags "}


# ---- relatives


def test_a_class_without_a_name_loses_its_boxes_alone(tmp_path):
    root = made(tmp_path, "yolo")
    write(root / "data.yaml", "train: images\nnames: {0: cat, 1: }\n")
    (sample,), refused, _ = read(root)
    assert list(boxes(sample)) == ["cat"] and "names: 1: expected text" in refused[0] and "a.txt:2" in refused[1]


@pytest.mark.parametrize("key", ["texts", "regions", "groundings"])
def test_null_in_place_of_a_list_loses_that_list_alone(tmp_path, key):
    row = {"id": "a", "image": "a.jpg", "texts": [{"id": "t", "text": "x"}], "regions": [{"id": "r", "label": "cat"}]}
    write(tmp_path / "s.jsonl", json.dumps({**row, key: None}))
    (sample,), refused, _ = read(tmp_path)
    assert len(sample.texts) + len(sample.regions) == (2 if key == "groundings" else 1)
    assert f"s.jsonl:1: {key}: expected a list, got null" in refused[0]


def test_phrase_boxes_of_a_picture_that_was_made_smaller_are_not_placed(tmp_path):
    made(tmp_path, "coco", [("cat", (20, 40, 100, 180))], (320, 240))
    image = json.loads((tmp_path / "instances.json").read_text())["images"]
    write(tmp_path / "captions.json", json.dumps({"images": image, "annotations": [
        {"id": 7, "image_id": 1, "caption": "a cat"}]}))  # fmt: skip
    pair = {"image_id": 1, "caption_id": 7, "phrase": "a cat", "span": [0, 5], "bbox_xyxy": [1, 2, 3, 4]}
    write(tmp_path / "pairs.json", json.dumps({"info": "x", "pairs": [pair, {**pair, "segment_id": "1"}]}))
    (sample,), refused, _ = read(tmp_path)
    assert len(refused) == 1 and "pairs[0]: bbox_xyxy" in refused[0]
    assert [g.region_ids for g in sample.groundings] == [("1",)] and boxes(sample) == {"cat": (10, 20, 50, 90)}


@pytest.mark.parametrize("format", ["coco", "labelstudio", "voc", "cvat", "yolo"])
def test_label_files_whose_suffix_is_in_capitals(tmp_path, format):
    root = made(tmp_path, format)
    for path in [p for p in root.rglob("*") if p.suffix in (".json", ".xml", ".txt")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    (sample,), _, _ = read(root)
    assert boxes(sample) == {"cat": CAT[1], "dog": DOG[1]}

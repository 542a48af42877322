"""Values that people's files hold in place of what a format says: flags, ids, encodings, halves of records."""

import json

import pytest

from florence2 import sources
from florence2.cli import main
from florence2.formats import validation
from florence2.formats.problems import ReadProblems
from tests.formats.label_sets import MAKERS, picture, write
from tests.formats.test_field_cases import CAT, DOG, boxes, made, read

LABELS = {".json", ".jsonl", ".xml", ".yaml", ".txt", ".csv"}
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 40, 70]}],
}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("format", MAKERS)
def test_label_files_with_a_byte_order_mark(tmp_path, format, encoding):
    made(tmp_path, format)
    for file in tmp_path.rglob("*"):
        if file.suffix in LABELS:
            mark = "\ufeff" if encoding == "utf-16-be" else ""
            file.write_bytes((mark + file.read_text().replace("\n", "\r\n")).encode(encoding))
    assert sources.format_of(tmp_path) == format
    (sample,), refused, _ = read(tmp_path)
    assert boxes(sample) == {"cat": CAT[1], "dog": DOG[1]} and not refused


BOMB = '<?xml version="1.0"{0}?><!DOCTYPE a [<!ENTITY b "c">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-7", "latin-1",
                                      "raw_unicode_escape"])  # fmt: skip
def test_entities_are_refused_in_any_encoding(tmp_path, encoding):
    data = BOMB.format("").encode(encoding)
    if encoding == "utf-7":
        data = BOMB.format(' encoding="utf-7"').replace("<!", "+ADwAIQ-").encode()
    if encoding == "raw_unicode_escape":
        data = BOMB.format(' encoding="raw_unicode_escape"').replace("<!", "\\u003c!").encode()
    write(tmp_path / "Annotations/a.xml", data)
    _, (refused,), _ = read(tmp_path)
    assert "a.xml: defines entities" in refused


@pytest.mark.parametrize("value, flag", [(0, 0), (1, 1), ("0", 0), ("1", 1), ("false", 0), ("True", 1), (None, 0)])
def test_a_crowd_is_what_says_so(tmp_path, value, flag):
    picture(tmp_path / "a.jpg")
    rows = [{**COCO["annotations"][0], "iscrowd": value}]
    write(tmp_path / "instances.json", json.dumps({**COCO, "annotations": rows}))
    (sample,), refused, _ = read(tmp_path)
    assert sample.regions[0].ignore is bool(flag) and not refused


@pytest.mark.parametrize("value", [[1], "maybe", 2, {}])
def test_a_flag_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="x.json: expected 0 or 1"):
        validation.flag(value, "x.json")


def test_voc_and_open_images_spell_their_flags_as_others_do(tmp_path):
    made(tmp_path / "voc", "voc")
    file = tmp_path / "voc/Annotations/a.xml"
    file.write_text(file.read_text().replace("</object>", "<difficult>True</difficult></object>", 1))
    made(tmp_path / "oi", "openimages")
    table = tmp_path / "oi/validation-annotations-bbox.csv"
    head, cat, dog = table.read_text().splitlines()
    table.write_text(f"{head},IsGroupOf\n{cat},true\n{dog},-1\n")
    for root in ("voc", "oi"):
        (sample,), refused, _ = read(tmp_path / root)
        assert {r.label: r.ignore for r in sample.regions} == {"cat": True, "dog": False} and not refused


@pytest.mark.parametrize("image, category", [("1", "1"), (1, "1"), ("1", 1)])
def test_ids_as_text_are_the_numbers_that_they_spell(tmp_path, image, category):
    picture(tmp_path / "a.jpg")
    row = {**COCO["annotations"][0], "image_id": image, "category_id": category}
    write(tmp_path / "instances.json", json.dumps({**COCO, "annotations": [row]}))
    (sample,), refused, _ = read(tmp_path)
    assert boxes(sample) == {"cat": CAT[1]} and not refused
    assert validation.ident("007", "") == "007"


def test_underscores_make_no_number():
    with pytest.raises(ValueError, match="expected a number"):
        validation.number("1_0", "x.txt")


def test_a_yolo_row_whose_fifth_number_is_no_score(tmp_path):
    made(tmp_path, "yolo")
    write(tmp_path / "labels/a.txt", "0 .5 .5 .2 .2 1.57\n1 .5 .5 .2 .2 0.9\n")
    (sample,), (refused,), _ = read(tmp_path)
    assert boxes(sample) == {"dog": (64, 48, 96, 72)} and "a.txt:1: expected a score of 0 to 1" in refused


def test_yolo_labels_of_pictures_that_are_not_there_are_counted(tmp_path):
    made(tmp_path, "yolo")
    write(tmp_path / "labels/ghost.txt", "0 .5 .5 .2 .2\n")
    write(tmp_path / "labels/classes.txt", "cat\ndog\n")
    _, refused, (note,) = read(tmp_path)
    assert "ghost.txt: is a label file without a picture" in note and "(1 in all)" in note and not refused


@pytest.mark.parametrize("format, labels, pictures", [("icdar", "gt", "img"), ("sroie", "box", "img")])
def test_texts_of_pictures_in_subfolders(tmp_path, format, labels, pictures):
    made(tmp_path, format)
    name = "gt_a.txt" if format == "icdar" else "a.csv"
    picture(tmp_path / pictures / "cam/a.jpg")
    write(tmp_path / labels / "cam" / name, "10,10,50,10,50,30,10,30,HELLO\n")
    top, below = sorted(read(tmp_path)[0], key=lambda sample: len(sample.id))
    assert boxes(top) == {"cat": CAT[1], "dog": DOG[1]}
    assert below.id == "cam/a" and boxes(below) == {"HELLO": (10, 10, 50, 30)}


def test_of_a_receipt_the_good_fields_stand(tmp_path):
    made(tmp_path, "sroie")
    write(tmp_path / "key/a.json", '{"company": null, "date": "1.2.", "total": 9.5}')
    write(tmp_path / "key/b.json", "{}")
    (sample,), (refused,), (note,) = read(tmp_path)
    assert [(text.question, text.text) for text in sample.texts] == [("date", "1.2."), ("total", "9.5")]
    assert "a.json: 'company'" in refused and "b.json: has no file of that name in box/" in note


def test_of_a_question_the_good_answers_stand(tmp_path):
    picture(tmp_path / "documents/a.png")
    row = {"questionId": 1, "question": "q?", "image": "documents/a.png", "answers": [None, "b", 7]}
    write(tmp_path / "val_v1.0.json", json.dumps({"data": [row, {**row, "questionId": "1"}]}))
    (sample,), refused, _ = read(tmp_path)
    assert [text.text for text in sample.texts] == ["b", "7"]
    assert "answers[0]: expected text, got null" in refused[0] and "duplicate id 1" in refused[1]


def prefix_suffix(root, *rows):
    picture(root / "train/x.jpg")
    lines = [row if isinstance(row, str) else json.dumps({"image": "x.jpg", "prefix": row[0], "suffix": row[1]})
             for row in rows]  # fmt: skip
    write(root / "train/annotations.jsonl", "\n".join(lines))
    return root


def test_rows_after_a_broken_first_one_are_read(tmp_path):
    prefix_suffix(tmp_path, '{"image": "x.jpg", "prefix": "<CAP', "null", ("<CAPTION>", "a wall"))
    assert sources.format_of(tmp_path) == "prefix_suffix"
    (sample,), refused, _ = read(tmp_path)
    assert [text.text for text in sample.texts] == ["a wall"] and len(refused) == 2


def test_an_empty_answer_to_a_question_of_text_is_named(tmp_path):
    _, (refused,), _ = read(prefix_suffix(tmp_path, ("<CAPTION>", " "), ("<OD>", "")))
    assert "annotations.jsonl:1: answer: expected text, got an empty one" in refused


def test_of_an_answer_that_fits_in_part_the_part_stands_and_claims_nothing(tmp_path):
    prefix_suffix(tmp_path, ("<OD>", "cat<loc_10><loc_20><loc_500><loc_600>dog<loc_10><loc_20><loc_500>"))
    (sample,), (refused,), _ = read(tmp_path)
    assert [region.label for region in sample.regions] == ["cat"] and "7 locations, of which 4 fit OD" in refused
    assert [state.state for state in sample.coverage[""]] == ["partial"]


BOX = {"id": "r1", "box": [10, 20, 50, 90], "label": "cat"}


@pytest.mark.parametrize(
    "outline, refusals",
    [
        ({"polygons": [[]]}, 0),
        ({"polygons": [[1, 2, 3, 4]]}, 1),
        ({"polygons": "wide"}, 1),
        ({"quad": [1, 2, 3]}, 1),
        ({"mask": {"height": 120, "width": 160, "counts": "abc"}}, 1),
        ({"mask": [1, 2]}, 1),
    ],
)
def test_of_a_line_with_a_bad_outline_the_box_stays(tmp_path, outline, refusals):
    picture(tmp_path / "a.jpg")
    write(tmp_path / "samples.jsonl", json.dumps({"id": "a", "image": "a.jpg", "regions": [{**BOX, **outline}]}))
    (sample,), refused, _ = read(tmp_path)
    assert boxes(sample) == {"cat": CAT[1]} and len(refused) == refusals
    assert not sample.regions[0].polygons and not sample.regions[0].quad and sample.regions[0].mask is None


def test_coverage_of_no_known_state_is_refused(tmp_path):
    write(tmp_path / "samples.jsonl", '{"id": "a", "image": "a.jpg", "coverage": {"s": [{"state": "most"}]}}')
    _, (refused,), _ = read(tmp_path)
    assert "samples.jsonl:1: coverage: s: expected one of exhaustive" in refused


# ---- the command


def imported(capsys, root, *options):
    code = main(["import", str(root), "--out", str(root.parent / "store"), "--workers", "0", *options])
    return code, capsys.readouterr().err


def test_what_was_refused_is_named_though_nothing_is_left(tmp_path, capsys):
    write(tmp_path / "set/instances.json", '{"images": [,')
    code, said = imported(capsys, tmp_path / "set", "--skip-bad")
    assert code == 1 and "instances.json:1: not JSON" in said and len(said.splitlines()) == 1
    write(tmp_path / "cvat/annotations.xml", "<annotations><track id='0' label='car'/></annotations>")
    code, said = imported(capsys, tmp_path / "cvat")
    assert code == 1 and "tracks are left out" in said


def test_pictures_of_which_the_labels_say_nothing_are_counted(tmp_path, capsys):
    made(tmp_path / "set", "voc")
    picture(tmp_path / "set/JPEGImages/z.jpg")
    code, said = imported(capsys, tmp_path / "set")
    assert code == 0 and "z.jpg: is a picture of which the labels say nothing" in said


def test_a_file_that_begins_as_no_label_file_is_named(tmp_path, capsys):
    write(tmp_path / "set/instances.json", "")
    assert "instances.json is empty" in imported(capsys, tmp_path / "set")[1]
    write(tmp_path / "set/instances.json", "[1, 2]")
    assert "instances.json begins as none of these" in imported(capsys, tmp_path / "set")[1]


def test_items_that_no_store_can_hold_are_refused_before_it_is_written(tmp_path, capsys):
    picture(tmp_path / "set/a.jpg")
    picture(tmp_path / "set/b.jpg")
    line = {"id": "a", "image": "a.jpg", "regions": [{**BOX, "refines": "nobody"}]}
    rows = [line, {"id": "b", "image": "b.jpg", "regions": [BOX]}]
    write(tmp_path / "set/samples.jsonl", "\n".join(map(json.dumps, rows)))
    code, said = imported(capsys, tmp_path / "set")
    assert code == 1 and "a.jpg: an item refers to 'nobody'" in said and not (tmp_path / "store").exists()
    code, said = imported(capsys, tmp_path / "set", "--skip-bad")
    assert code == 0 and "a.jpg: an item refers to 'nobody'" in said


def test_the_problems_of_a_reading_that_found_nothing():
    problems = ReadProblems(skip=True)
    assert problems.first() == ""
    problems.refuse(ValueError("x.json: bad"))
    problems.note("tracks are left out", "y.xml")
    assert problems.first() == ": x.json: bad (and 1 more)"


# ---- what a set says of its pictures


@pytest.mark.parametrize("format", ["coco", "voc", "jsonl", "cvat", "icdar", "sroie"])
def test_boxes_that_fit_the_unturned_picture_alone_are_turned_though_no_size_is_told(tmp_path, format):
    (sample,), refused, _ = read(made(tmp_path, format, told=None, orientation=6))
    assert sample.image.size_wh == (120, 160) and not refused
    assert boxes(sample) == {"cat": (30, 10, 100, 50), "dog": (70, 110, 100, 150)}


@pytest.mark.parametrize("format", ["coco", "voc", "icdar"])
def test_boxes_that_fit_either_way_stay_as_written_where_no_size_is_told(tmp_path, format):
    (sample,), _, _ = read(made(tmp_path, format, [CAT], told=None, orientation=6))
    assert boxes(sample) == {"cat": CAT[1]}


def test_shares_of_a_turned_picture_are_never_turned(tmp_path):
    made(tmp_path, "yolo", [], orientation=6)
    write(tmp_path / "labels/a.txt", "0 .5 .5 1.3 .2\n")
    (sample,), _, _ = read(tmp_path)
    assert boxes(sample)["cat"] == (-18, 64, 138, 96)


def test_cancelled_annotations_are_counted_and_only_they_are_left_out(tmp_path):
    made(tmp_path, "labelstudio")
    file = tmp_path / "export.json"
    (task,) = json.loads(file.read_text())
    (said,) = task["annotations"]
    task["annotations"] = [{**said, "was_cancelled": "false"}, {**said, "was_cancelled": True}]
    write(file, json.dumps([task]))
    (sample,), refused, (note,) = read(tmp_path)
    assert boxes(sample) == {"cat": CAT[1], "dog": DOG[1]} and not refused
    assert "annotations[1]: cancelled annotations are left out (1 in all)" in note


def test_voc_lists_with_flags_and_names_of_no_file(tmp_path):
    made(tmp_path, "voc")
    write(tmp_path / "ImageSets/Main/train.txt", "a  1\nghost\n")
    (sample,), refused, (note,) = read(tmp_path)
    assert sample.split == "train" and "train.txt: 'ghost': names a picture that has no annotation file" in note
    assert not refused


def test_a_class_number_that_stands_twice_is_refused(tmp_path):
    made(tmp_path, "yolo")
    write(tmp_path / "data.yaml", "train: images\nnames:\n  0: cat\n  0: dog\n")
    with pytest.raises(ValueError, match="data.yaml: .*line 4: the key '0' is there twice"):
        list(sources.open(tmp_path))


def test_a_record_that_lacks_a_field_says_which(tmp_path):
    write(tmp_path / "samples.jsonl", '{"id": "a"}')
    _, (refused,), _ = read(tmp_path)
    assert refused.endswith("samples.jsonl:1: Sample: image: missing")


def test_a_line_without_a_text_is_unreadable_and_told(tmp_path):
    made(tmp_path, "icdar")
    write(tmp_path / "gt/gt_a.txt", "10,10,50,10,50,30,10,30,\n10,40,50,40,50,60,10,60,WORD\n")
    (sample,), refused, (note,) = read(tmp_path)
    assert [(r.label, r.ignore) for r in sample.regions] == [("", True), ("WORD", False)] and not refused
    assert "gt_a.txt:1: a line without a text" in note


@pytest.mark.parametrize("key", ["x" * 5000, "a\nb", "\x1b[2J", "9" * 5000])
def test_an_unknown_key_of_any_length_is_named_in_one_short_line(tmp_path, key):
    row = {"id": "0", "image": {"id": "0", "uri": "a.jpg"}, key: 1}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    _, (refused,), _ = read(tmp_path)
    assert "samples.jsonl:1" in refused and len(refused) < 1000 and len(refused.splitlines()) == 1

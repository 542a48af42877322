"""Fine-tuning sets that people have: rows of prefix and suffix, ms-swift's messages, Hugging Face tables."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from florence2 import pixels, sources
from florence2.cli import main
from florence2.formats.problems import ReadProblems
from florence2.sources import table_datasets, tables
from tests.formats.label_sets import picture, write


def lines(path, *rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def read(root, **options):
    problems = ReadProblems(skip=True)
    return list(sources.open(root, problems=problems, **options)), problems.refused


def shown(root, task, capsys):
    """What `data show` prints of a task, by picture: (prompt, target)."""
    assert main(["data", "show", str(root), "--task", task, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(row["prompt"], row["target"]) for row in rows]


OD = "cat<loc_62><loc_166><loc_312><loc_749>dog<loc_687><loc_166><loc_937><loc_416>"


@pytest.fixture
def roboflow(tmp_path):
    for part in ("train", "valid", "test"):
        picture(tmp_path / part / f"{part}.jpg")
        row = {"image": f"{part}.jpg", "prefix": "<OD>", "suffix": OD}
        lines(tmp_path / part / "annotations.jsonl", row, {**row, "prefix": "<CAPTION>", "suffix": "two pets"})
    return tmp_path


def test_prefix_and_suffix_in_parts(roboflow, capsys):
    assert sources.format_of(roboflow) == "prefix_suffix"
    found, refused = read(roboflow)
    assert [s.split for s in found] == ["test", "train", "val"] and not refused
    assert [r.label for r in found[0].regions] == ["cat", "dog"] and found[0].texts[0].text == "two pets"
    assert found[0].regions[0].box == pytest.approx((10, 20, 50, 90), abs=0.2)
    assert [s.image.uri.rpartition("/")[2] for s in sources.open(roboflow, split="val")] == ["valid.jpg"]
    assert shown(roboflow, "OD", capsys) == [("Locate the objects with category name in the image.", OD)] * 3
    assert main(["data", "check", str(roboflow), "--task", "OD"]) == 0
    (one,) = read(roboflow / "train")[0]
    assert one.split == "" and len(one.regions) == 2


@pytest.mark.parametrize(
    "task, prefix, suffix",
    [
        ("DocVQA", "<DocVQA>What is the total?", "9.00"),
        ("VQA", "<VQA>Is it red?", "no"),
        ("CAPTION", "What does the image describe?", "a receipt"),
        ("OCR", "<OCR>", "TOTAL 9.00"),
        ("OCR_WITH_REGION", "<OCR_WITH_REGION>",
         "TOTAL<loc_62><loc_166><loc_312><loc_166><loc_312><loc_249><loc_62><loc_249>"),
        ("CAPTION_TO_PHRASE_GROUNDING", "<CAPTION_TO_PHRASE_GROUNDING>a red cat",
         "a red cat<loc_1><loc_2><loc_3><loc_4>"),
        ("REFERRING_EXPRESSION_SEGMENTATION", "<REFERRING_EXPRESSION_SEGMENTATION>the cat",
         "<loc_62><loc_166><loc_312><loc_166><loc_312><loc_749>"),
        ("REGION_TO_CATEGORY", "<REGION_TO_CATEGORY><loc_62><loc_166><loc_312><loc_749>",
         "cat<loc_62><loc_166><loc_312><loc_749>"),
        ("OPEN_VOCABULARY_DETECTION", "<OPEN_VOCABULARY_DETECTION>cat", "cat<loc_62><loc_166><loc_312><loc_749>"),
    ],
)  # fmt: skip
def test_the_target_of_each_task_is_its_suffix(tmp_path, capsys, task, prefix, suffix):
    picture(tmp_path / "a.jpg")
    lines(tmp_path / "train.jsonl", {"image": "a.jpg", "prefix": prefix, "suffix": suffix})
    (prompt, target), *more = shown(tmp_path, task, capsys)
    assert target == suffix and not more
    assert prefix == prompt or not prefix.startswith(("<DocVQA>", "<VQA>"))


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prefix": "<OD>"}, "has no 'suffix'"),
        ({"prefix": "<OD>", "suffix": None}, "suffix: expected text, got null"),
        ({"prefix": "<OD>", "suffix": "cat<loc_1><loc_2><loc_3>"}, "3 locations, of which 0 fit OD"),
        ({"prefix": "<OD>", "suffix": "a cat"}, "0 locations, of which 0 fit OD"),
        ({"prefix": "<OD> please", "suffix": OD}, "expected <OD> alone"),
        ({"prefix": "<cAPTION>", "suffix": "cat, dog"}, "unknown task <cAPTION>; write <CAPTION>"),
        (
            {"prefix": "<FIND_TAGS>", "suffix": "cat<loc_1><loc_2>"},
            "places of a task that is not known; name the model",
        ),
        ({"prefix": "<REGION_TO_CATEGORY>here", "suffix": "cat"}, "expected a region as four locations"),
    ],
)
def test_a_row_that_says_nothing_of_its_task_is_named(tmp_path, row, message):
    picture(tmp_path / "a.jpg")
    good = {"image": "a.jpg", "prefix": "<CAPTION>", "suffix": "a cat"}
    file = lines(tmp_path / "train.jsonl", good, {"image": "a.jpg", **row})
    (sample,), refused = read(tmp_path)
    assert [t.text for t in sample.texts] == ["a cat"] and len(refused) == 1
    assert refused[0].startswith(f"{file}:2: ") and message in refused[0]


def test_a_bare_question_is_a_question(tmp_path):
    picture(tmp_path / "a.jpg")
    lines(tmp_path / "a.jsonl", {"image": "a.jpg", "prefix": "How many?", "suffix": "3"})
    (sample,), _ = read(tmp_path)
    assert [(t.question, t.text, t.detail) for t in sample.texts] == [("How many?", "3", "answer")]


# ---- ms-swift


def swift(root, *turns, objects=None, **more):
    picture(root / "a.jpg")
    messages = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * len(turns), turns)]
    row = {"messages": messages, "images": ["a.jpg"], **({"objects": objects} if objects else {}), **more}
    lines(root / "train.jsonl", row)
    assert sources.format_of(root) == "swift"
    (sample,), refused = read(root)
    assert not refused
    return sample


CAT, DOG = [10, 20, 50, 90], [110, 20, 150, 50]


def test_swift_references_with_boxes_are_objects_or_a_grounded_caption(tmp_path):
    objects = {"ref": ["cat", "dog"], "bbox": [CAT, DOG]}
    sample = swift(tmp_path, "<image>Find all", "<ref-object><bbox>, <ref-object><bbox>", objects=objects)
    assert [(r.label, r.box) for r in sample.regions] == [("cat", tuple(CAT)), ("dog", tuple(DOG))]
    said = "<ref-object><bbox> looks at <ref-object><bbox>."
    sample = swift(tmp_path / "b", "<image>Describe it", said, objects=objects)
    assert [t.text for t in sample.texts] == ["cat looks at dog."] and sample.split == "train"
    boxes = {r.id: r.box for r in sample.regions}
    assert [(g.phrase, *map(boxes.get, g.region_ids)) for g in sample.groundings] == [
        ("cat", tuple(CAT)), ("dog", tuple(DOG)),
    ]  # fmt: skip
    for grounding in sample.groundings:
        assert sample.texts[0].text[slice(*grounding.spans[0])] == grounding.phrase


def test_swift_boxes_of_what_was_asked_for_and_texts_about_a_box(tmp_path):
    objects = {"ref": ["the cat"], "bbox": [CAT, DOG]}
    sample = swift(tmp_path, "Find <ref-object>", "<bbox>", "What is <bbox>?", "a dog that sleeps", objects=objects)
    (phrase,) = sample.groundings
    assert phrase.phrase == "the cat" and [r.box for r in sample.regions] == [tuple(CAT), tuple(DOG)]
    assert sample.regions[1].description == "a dog that sleeps"


def test_swift_words_around_boxes_are_stated_to_be_left_out(tmp_path):
    swift(tmp_path, "<image>Find <ref-object>", "<bbox>", objects={"ref": ["cat"], "bbox": [CAT]})
    problems = ReadProblems(skip=True)
    list(sources.open(tmp_path, problems=problems))
    (note,) = problems.notes()
    assert "train.jsonl" in note and "not in its own words" in note
    swift(tmp_path / "b", "<image><ref-object>", "<bbox>", objects={"ref": ["cat"], "bbox": [CAT]})
    problems = ReadProblems(skip=True)
    list(sources.open(tmp_path / "b", problems=problems))
    assert not problems.notes()


def test_swift_version_2_and_plain_turns(tmp_path):
    picture(tmp_path / "a.jpg")
    objects = json.dumps([{"caption": "cat", "bbox": [0.0625, 0.25, 0.5, 0.75], "bbox_type": "norm1", "image": 0}])
    row = {"query": "Find <ref-object>", "response": "<bbox>", "images": ["a.jpg"], "objects": objects}
    lines(tmp_path / "x.jsonl", row, {"query": "<CAPTION>", "response": "a cat", "images": ["a.jpg"]})
    (sample,), refused = read(tmp_path)
    assert sample.regions[0].box == pytest.approx((10, 30, 80, 90)) and sample.texts[0].text == "a cat" and not refused


@pytest.mark.parametrize(
    "change, message",
    [
        ({"objects": {"bbox": []}}, "objects: bbox: expected a list"),
        ({"objects": {"bbox": [[150, 20, 110, 50]]}}, "inside out"),
        ({"objects": {"bbox": [[500, 20, 600, 50]]}}, "outside"),
        ({"images": ["a.jpg", "b.jpg"]}, "expected one picture a row, got 2"),
        ({"messages": [{"role": "user", "content": "x"}]}, "expected one of the role assistant"),
        ({"messages": None}, "messages: expected a list"),
    ],
)
def test_a_bad_row_of_swift_is_named(tmp_path, change, message):
    picture(tmp_path / "a.jpg")
    messages = [{"role": "user", "content": "Find <ref-object>"}, {"role": "assistant", "content": "<bbox>"}]
    row = {"messages": messages, "images": ["a.jpg"], "objects": {"ref": ["cat"], "bbox": [CAT]}}
    row["objects"] = {**row["objects"], **change.pop("objects", {})}
    file = lines(tmp_path / "train.jsonl", {**row, **change})
    found, refused = read(tmp_path)
    assert not any(s.regions for s in found) and refused[0].startswith(f"{file}:1") and message in refused[0]


# ---- tables


def table(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO(pixels.encode(np.zeros((120, 160, 3), np.uint8)))
    rows = len(next(iter(columns.values())))
    cells = [{"bytes": data.getvalue(), "path": f"{n}.png"} for n in range(rows)]
    features = {
        "image": {"_type": "Image"},
        "objects": {"category": [{"_type": "ClassLabel", "names": ["cat", "dog"]}]},
    }
    features["objects"] = {"feature": {"category": features["objects"]["category"][0]}, "_type": "Sequence"}
    made = pa.table({"image": cells, **columns})
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(made.replace_schema_metadata(notes), path)
    return path


def test_docvqa_as_the_blog_takes_it(tmp_path, capsys):
    for part in ("train", "validation", "test"):
        answers = [["9.00", "RM 9.00"], None]
        table(
            tmp_path / f"data/{part}-00000-of-00001.parquet", question=["What is the total?", "Who?"], answers=answers,
            questionId=["1", "2"], docId=[1, 1],
        )  # fmt: skip
    assert sources.format_of(tmp_path) == "parquet"
    found, refused = read(tmp_path)
    assert [s.split for s in found] == ["test"] * 2 + ["train"] * 2 + ["val"] * 2 and not refused
    assert [(t.question, t.text) for t in found[0].texts] == [("What is the total?", t) for t in ("9.00", "RM 9.00")]
    assert sources.pixels(found[0].image).shape == (120, 160, 3) and not found[1].texts
    rows = shown(tmp_path, "DocVQA", capsys)
    assert rows[0] == ("<DocVQA>What is the total?", "9.00") and len(rows) == 6
    assert len(list(sources.open(tmp_path, split="val"))) == 2


def test_objects_captions_and_pairs_in_tables(tmp_path, capsys):
    boxes = [{"bbox": [[10.0, 20.0, 40.0, 70.0], [500.0, 0.0, 9.0, 9.0]], "category": [0, 1]}, None]
    file = table(tmp_path / "train.parquet", objects=boxes, caption=["a cat", None])
    found, refused = read(file)
    assert [(r.label, r.box) for r in found[0].regions] == [("cat", (10, 20, 50, 90))] and len(found) == 2
    assert [t.text for t in found[0].texts] == ["a cat"] and "train.parquet: row 0: objects[1]" in refused[0]
    pairs = table(tmp_path / "b/train.parquet", prefix=["<OD>", "<CAPTION>"], suffix=[OD, "a cat"])
    assert shown(pairs, "OD", capsys)[0][1] == OD


def test_a_table_of_pictures_alone_is_no_labelled_set(tmp_path):
    file = table(tmp_path / "x.parquet", width=[1])
    with pytest.raises(ValueError, match="no known data set"):
        sources.format_of(file)


def test_a_set_without_a_val_part_has_none(roboflow):
    lines(roboflow / "valid/annotations.jsonl")
    with pytest.raises(ValueError, match="has no val part of its own"):
        list(sources.open(roboflow, split="val"))


def test_a_table_whose_columns_are_no_utf8_is_refused_by_name(tmp_path):
    pq.write_table(pa.table({"image": [b"x"], "caption": ["a cat"]}), tmp_path / "train.parquet")
    data = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(data.replace(b"caption", b"capt\xe5on"))
    for call in (tables.listing, tables.column_names, lambda path: tables.column(path, "image"),
                 lambda path: tables.read_cell(path, "image/0/0"), table_datasets.read):  # fmt: skip
        with pytest.raises(ValueError, match="train.parquet: not a whole table") as refusal:
            list(call(tmp_path / "train.parquet"))
        assert len(str(refusal.value).splitlines()) == 1

"""Which pictures a person should go over first, and how they go to Label Studio and come back."""

import json
import math
import pathlib

import pytest

import florence2
from florence2.cli import main
from florence2.engine import review_tasks
from florence2.engine.commands import import_labels
from florence2.engine.curation.review_order import review_order, worth
from florence2.engine.export import export_labels
from florence2.engine.review_tasks import write_review
from florence2.formats import jsonl
from florence2.records import Coverage, Decision, ImageRef, Region, Sample, Source, Text
from tests.engine.doubles import Boxes, folder_of, picture

ONE, OTHER = Source("specialist", "one"), Source("specialist", "other")
KNOWN = {"one": {"cat", "dog"}, "other": {"cat", "dog"}}
SEEN = {"cat": 100, "dog": 100, "yak": 1}


def thing(name, x, label, score=None, source=ONE, **more):
    return Region(name, box=(x, 2.0, x + 8.0, 20.0), label=label, score=score, source=source, **more)


def parts(*regions, decisions=()):
    return worth(Sample("s", ImageRef("s"), regions=regions, decisions=decisions), SEEN, KNOWN)


def test_what_two_sources_name_differently_or_one_lacks_is_disputed():
    assert parts(thing("a", 1, "cat"), thing("b", 1, "Cat", source=OTHER))["disputed"] == 0
    assert parts(thing("a", 1, "cat"), thing("b", 1, "dog", source=OTHER))["disputed"] == 2
    assert parts(thing("a", 1, "cat"))["disputed"] == 1
    assert parts(thing("a", 1, "yak"))["disputed"] == 0  # the other source does not know yaks


def test_what_was_merged_counts_once():
    merged = Region(
        "m", box=(1.0, 2.0, 9.0, 20.0), label="cat", source=Source("merge", "merge"), derived_from=("a", "b")
    )
    verdicts = [Decision(name, "superseded", "merge", by_id="m") for name in "ab"]
    found = parts(thing("a", 1, "cat"), thing("b", 1, "dog", source=OTHER), merged, decisions=verdicts)
    assert found["disputed"] == 1


def test_a_score_near_its_threshold_is_uncertain_whether_kept_or_rejected():
    at, off = (parts(thing("a", 1, "cat", score))["uncertain"] for score in (0.4, 0.55))
    assert (at, off) == (pytest.approx(1), pytest.approx(math.exp(-1)))
    verdict = Decision("a", "rejected", "region_score", "low_score", value=0.6, threshold=0.6)
    assert parts(thing("a", 1, "cat", 0.6), decisions=[verdict])["uncertain"] == pytest.approx(1)


def test_what_is_kept_is_as_doubtful_as_its_score_says():
    assert parts(thing("a", 1, "cat", 0.9), thing("b", 20, "cat"))["doubtful"] == pytest.approx(0.6)
    human = thing("a", 1, "cat", source=Source("human", "anna"))
    assert parts(human)["doubtful"] == 0
    rejected = Decision("a", "rejected", "region_score", "low_score", value=0.1, threshold=0.4)
    assert parts(thing("a", 1, "cat", 0.1), decisions=[rejected])["doubtful"] == 0


def test_rare_labels_and_pictures_without_any_are_new():
    assert parts(thing("a", 1, "yak"), thing("b", 20, "cat"))["new"] == 1
    assert parts(thing("a", 1, "cat"))["new"] == pytest.approx(0.1)
    assert parts()["silent"] == 1 and parts(thing("a", 1, "cat"))["silent"] == 0


@pytest.fixture
def store(tmp_path):
    """Three pictures: sure, doubtful, and one whose set says that it is complete."""
    pictures = sorted(folder_of(tmp_path, 3).glob("*.png"))
    regions = [thing("r", 1.0, "cat", 0.95)], [thing("r", 1.0, "cat", 0.41)], [thing("r", 1.0, "dog", 0.4)]
    samples = [
        Sample(path.stem, ImageRef(path.name, str(path)), regions=tuple(r)) for path, r in zip(pictures, regions)
    ]
    samples[2] = Sample("done", samples[2].image, (), samples[2].regions, coverage={"": (Coverage("exhaustive"),)})
    jsonl.write(samples, tmp_path / "in")
    return import_labels(tmp_path / "in", tmp_path / "s", workers=0), [str(path) for path in pictures]


def test_the_doubtful_comes_first_and_the_complete_not_at_all(store):
    store, pictures = store
    uris = {sample.image.id: sample.image.uri for sample in store.samples()}
    assert [uris[one.image_id] for one in review_order(store)] == [pictures[1], pictures[0]]


def test_a_picture_goes_to_label_studio_and_what_the_person_did_comes_back(tmp_path, store, capsys):
    store, pictures = store
    out = tmp_path / "tasks.json"
    assert main(["review", str(store.root), "--out", str(out), "--limit", "1"]) == 0
    assert "1 pictures" in capsys.readouterr().out
    (task,) = json.loads(out.read_text())
    assert task["data"]["image"] == f"/data/local-files/?d={pictures[1].lstrip('/')}"
    assert "dog" in (tmp_path / "tasks.xml").read_text()  # a label that this picture lacks is offered
    task["annotations"] = [{"completed_by": 7, "result": []}]  # a person deletes the cat
    out.write_text(json.dumps([task]))
    assert main(["import", str(out), "--out", str(store.root), "--reviewed"]) == 0
    assert "1 deleted" in capsys.readouterr().err
    kept = {sample.image.uri: len(sample.regions) for sample in store.samples()}
    assert kept == {pictures[0]: 1, pictures[1]: 0, pictures[2]: 1}
    out = tmp_path / "more.json"
    assert main(["review", str(store.root), "--out", str(out), "--image-prefix", "http://x/"]) == 0
    (task,) = json.loads(out.read_text())  # what was gone over is not asked about again
    assert task["data"]["image"] == f"http://x/{pictures[0].rpartition('/')[2]}"


def test_a_person_begins_from_all_that_is_kept(tmp_path):
    """Label Studio shows one prediction: what another one held would come back as deleted."""
    (path,) = folder_of(tmp_path, 1).glob("*.png")
    human, student = Source("human", "anna"), Source("model", "student", "7", 1)
    regions = thing("a", 1, "cat", 0.5), thing("b", 11, "dog", source=human), thing("c", 21, "cow", source=student)
    jsonl.write([Sample("s", ImageRef(path.name, str(path)), regions=regions)], tmp_path / "in")
    store, out = import_labels(tmp_path / "in", tmp_path / "s", workers=0), tmp_path / "tasks.json"
    said = []
    write_review(store, out, on_message=said.append)
    (task,) = json.loads(out.read_text())
    assert not task["annotations"] and len(task["predictions"]) == 1 and not said
    task["annotations"] = [{"completed_by": 1, "result": task["predictions"][0]["result"]}]
    out.write_text(json.dumps([task]))
    import_labels(out, store.root, reviewed=True)
    assert sorted(r.label for sample in store.samples() for r in sample.regions) == ["cat", "cow", "dog"]


def test_two_pictures_of_one_name_have_two_addresses_under_the_folder_that_is_served(tmp_path, capsys):
    names = ["a/1.png", "b/1.png", "b/deep/x y.png", "b/\udcff.png"]
    for n, name in enumerate(names):
        picture(tmp_path / "sub", name, n)
    store = florence2.annotate(tmp_path / "sub", tmp_path / "s", [Boxes()], workers=0)
    out = tmp_path / "tasks.json"
    assert main(["review", str(store.root), "--out", str(out), "--image-prefix", "http://h:8080"]) == 0
    assert f"under {tmp_path / 'sub'}; serve that folder" in capsys.readouterr().err
    tasks = json.loads(out.read_text())
    expected = {f"http://h:8080/{name}" for name in ("a/1.png", "b/1.png", "b/deep/x%20y.png", "b/%FF.png")}
    assert {task["data"]["image"] for task in tasks} == expected
    assert main(["review", str(store.root), "--out", str(out), "--limit", "1", "--image-prefix", "http://h:8080"]) == 0
    (task,) = json.loads(out.read_text())
    assert task["data"]["image"] in expected  # whichever pictures are written, the same folder is served
    task["annotations"] = [{"completed_by": 7, "result": []}]
    out.write_text(json.dumps([task]))
    assert main(["import", str(out), "--out", str(store.root), "--reviewed"]) == 0
    assert "1 deleted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "uris, served",
    [
        (["/a/b/1.png", "/a/c/1.png"], "/a"),
        (["/a/b/1.png"], "/a/b"),
        (["s3://set/b/1.png", "s3://set/c/d/1.png"], "s3://set"),
    ],
)
def test_the_folder_that_is_served(store, uris, served):
    store, _ = store
    assert review_tasks._served(store, [ImageRef(uri, uri) for uri in uris]) == served


@pytest.mark.parametrize("uris", [["/a/1.png", "s3://set/1.png"], ["s3://set/1.png", "s3://other/1.png"]])
def test_pictures_that_no_one_folder_holds_have_no_prefix(store, uris):
    store, _ = store
    with pytest.raises(ValueError, match="--image-prefix: expected all pictures in one folder, got some on"):
        review_tasks._served(store, [ImageRef(uri, uri) for uri in uris])


def test_a_limit_counts_pictures_that_can_be_written(tmp_path, store):
    store, pictures = store
    pathlib.Path(pictures[1]).unlink()  # the one worth most
    said = []
    found = write_review(store, tmp_path / "tasks.json", limit=1, on_message=said.append)
    assert len(found) == 1 and "are not there: 1 pictures" in said[0]
    pathlib.Path(pictures[0]).unlink()
    with pytest.raises(ValueError, match="no picture to review: none left is a file of its own"):
        write_review(store, tmp_path / "tasks.json")


def emptied(path):
    """A file of tasks as a person left it who deleted all that a picture held."""
    tasks = json.loads(path.read_text())
    tasks[-1]["annotations"] = [{"completed_by": 7, "result": []}]
    return json.dumps(tasks)


@pytest.mark.parametrize(
    "suffix, content, match",
    [
        (".json", lambda path: '[{"id": 7, "mine": true}]', "exists and is not tasks of an earlier review"),
        (
            ".json",
            lambda path: '[{"data": {"image": "x.png"}, "annotations": []}]',
            "is not tasks of an earlier review",
        ),
        (".json", lambda path: path.read_text()[:-1], "is not tasks of an earlier review"),  # torn
        (".json", emptied, "holds what people annotated; name another file"),
        (
            ".json",
            lambda path: path.read_text().replace('"annotations": []', '"drafts": [{}]'),
            "what people annotated",
        ),
        (".xml", lambda path: "<a/>", "exists and is not the labelling config of an earlier review"),
        (".xml", lambda path: '<View>\n  <Image name="image" value="$image"/>\n', "is not the labelling config"),
    ],
)
def test_only_an_earlier_review_that_nobody_worked_on_is_written_over(tmp_path, store, suffix, content, match):
    store, _ = store
    out = tmp_path / "tasks.json"
    write_review(store, out)
    write_review(store, out, limit=1)  # nobody worked on it
    there = out.with_suffix(suffix)
    mine = content(there)
    there.write_text(mine)
    with pytest.raises(FileExistsError, match=match):
        write_review(store, out)
    assert there.read_text() == mine


EDITS = [  # what a person does to the labelling config
    lambda text: text + "<!-- mine -->\n",
    lambda text: text.replace("</RectangleLabels>", '  <Label value="hen" />\n  </RectangleLabels>'),
    lambda text: text.replace('    <Label value="dog" />\n', '    <Label value="dog" />\n    <Label value="hen" />\n'),
    lambda text: text.replace('    <Label value="dog" />\n', ""),
    lambda text: text.replace('value="dog"', 'value="dog" hotkey="d"'),
    lambda text: text.replace("</View>", '  <Choices name="q" toName="image" />\n</View>'),
    lambda text: text[:-9],  # torn
]


@pytest.mark.parametrize("edit", EDITS)
def test_a_labelling_config_that_a_person_edited_is_not_written_over(tmp_path, store, edit):
    store, _ = store
    out, config = tmp_path / "tasks.json", tmp_path / "tasks.xml"
    write_review(store, out)
    before, mine = out.read_bytes(), edit(config.read_text())
    assert mine != config.read_text()
    config.write_text(mine)
    with pytest.raises(FileExistsError, match="tasks.xml: is not the labelling config that florence2 review wrote"):
        write_review(store, out)
    assert config.read_text() == mine and out.read_bytes() == before
    out.unlink()  # whose config it is can no longer be known
    with pytest.raises(FileExistsError, match="may be a person's work; name another file"):
        write_review(store, out)


def test_a_config_that_nobody_edited_is_written_over_whatever_it_holds(tmp_path):
    """Words, texts, outlines, what has no label, and labels that XML must escape or cannot hold."""
    path = next(folder_of(tmp_path, 1).glob("*.png"))
    regions = (
        thing("a", 1, 'a "b" & <c>'),
        thing("b", 11, "x\x01"),
        thing("c", 21, "x\ufffd"),
        thing("d", 21, "strasse \u00df\n2", polygons=((1.0, 2.0, 9.0, 2.0, 9.0, 20.0),)),
        thing("f", 1, "", description="a red car"),
        Region("e", "text", (1.0, 2.0, 9.0, 20.0), "EXIT", source=ONE),
    )
    texts = Text("t0", "a room", source=ONE), Text("t1", "a large room", "detailed", source=ONE)
    jsonl.write([Sample("s", ImageRef(path.name, str(path)), texts, regions)], tmp_path / "in")
    store, out = import_labels(tmp_path / "in", tmp_path / "s", workers=0), tmp_path / "tasks.json"
    write_review(store, out)
    first = out.with_suffix(".xml").read_bytes()
    write_review(store, out)
    assert out.with_suffix(".xml").read_bytes() == first and b"perRegion" in first


def test_the_tasks_of_an_export_are_not_written_over(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 1), tmp_path / "s", [Boxes()], workers=0)
    export_labels(store, "labelstudio", tmp_path / "export")
    with pytest.raises(FileExistsError, match="tasks.json: exists and is not tasks of an earlier review"):
        write_review(store, tmp_path / "export" / "tasks.json")


def test_what_cannot_be_written_is_refused(tmp_path, store):
    store, _ = store
    (tmp_path / "mine.json").write_text('{"a": 1}')
    with pytest.raises(FileExistsError, match="mine.json: exists and is not tasks of an earlier review"):
        write_review(store, tmp_path / "mine.json")
    with pytest.raises(ValueError, match="--limit 0: expected at least 1"):
        write_review(store, tmp_path / "tasks.json", limit=0)
    with pytest.raises(ValueError, match="expected the name of a .json file"):
        write_review(store, tmp_path / "tasks")

"""A reviewer's word: export, edit as Label Studio or a COCO editor would, import, filter, merge, export: it stands."""

import dataclasses
import json

import numpy as np
import pytest

import florence2
from florence2.cli import main
from florence2.engine.commands import import_labels
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.export import export_labels
from florence2.engine.review_tasks import write_review
from florence2.formats import jsonl
from florence2.geometry import encode_rle
from florence2.records import ImageRef, Region, Sample, Source, Text
from florence2.store import Store
from tests.engine.doubles import Floor, folder_of

MODEL = Source("specialist", "yolox", "2")
OTHER = Source("specialist", "owl", "1")


def thing(name, x, label, score=0.9, source=MODEL, **more):
    return Region(
        name, box=(x, 2.0, x + 8.0, 20.0), label=label, label_space="things", score=score, source=source, **more
    )


@pytest.fixture
def store(tmp_path):
    """Three pictures with a cat, a dog, a cow and a weak cat each, a caption, and a leaf of no interest."""
    folder = folder_of(tmp_path, 3)
    samples = []
    for n, path in enumerate(sorted(folder.glob("*.png"))):
        regions = (
            thing("cat", 1.0, "cat"),
            thing("dog", 11.0, "dog"),
            thing("cow", 21.0, "cow", source=OTHER),
            thing("weak", 31.0, "cat", score=0.05),
        )
        texts = (Text("t", "a cat", source=MODEL),)
        samples.append(Sample(f"s{n}", ImageRef(path.name, str(path)), texts, regions))
    jsonl.write(samples, tmp_path / "in")
    return import_labels(tmp_path / "in", tmp_path / "s", workers=0)


def edit_labelstudio(out, completed_by=7, keep_ids=True):
    """What a person does in Label Studio to the first task: takes over a prediction, then edits."""
    tasks = json.loads((out / "tasks.json").read_text())
    rows = [row for p in tasks[0]["predictions"] for row in p["result"]]
    by_label = {
        row["value"]["rectanglelabels"][0] if "rectanglelabels" in row["value"] else "t": row for row in rows[::-1]
    }
    cat, dog, caption = by_label["cat"], by_label["dog"], by_label["t"]
    dog["value"]["x"] += 5  # 2 pixels of 40
    added = {**json.loads(json.dumps(cat)), "id": "new"}
    added.pop("meta")
    added["value"].update(y=70, height=20, rectanglelabels=["hen"])
    result = [cat, dog, added, caption]  # the cow and the weak cat are gone
    for row in result:
        row.pop("score", None)
        if not keep_ids:  # as where Label Studio copies a prediction into an annotation
            row["id"] = f"x{row['id'][::-1]}"
    tasks[0]["annotations"] = [
        {"result": [], "was_cancelled": True, "completed_by": 3},
        {"result": result, "completed_by": completed_by, "was_cancelled": False, "lead_time": 12.5},
    ]
    (out / "tasks.json").write_text(json.dumps(tasks))


def edit_coco(out, keep_ids=True):
    """The same in a COCO file, the other pictures taken out of it."""
    file = out / "instances.json"
    data = json.loads(file.read_text())
    names = {c["id"]: c["name"] for c in data["categories"]}
    data["images"] = data["images"][:1]
    mine = [a for a in data["annotations"] if a["image_id"] == data["images"][0]["id"]]
    cat, dog, _, _ = mine
    assert [names[a["category_id"]] for a in mine] == ["cat", "dog", "cow", "cat"]
    dog["bbox"][0] += 2
    data["categories"].append({"id": 99, "name": "hen"})
    added = {
        "id": 1000,
        "image_id": cat["image_id"],
        "category_id": 99,
        "bbox": [1, 21, 8, 6],
        "area": 48,
        "iscrowd": 0,
    }
    data["annotations"] = [cat, dog, added]
    if not keep_ids:
        data["info"].pop("florence2_export")
        (out / "captions.json").unlink()
        for row in data["annotations"]:
            row.pop("ann_id", None)
        data["images"][0].pop("sha256")
    file.write_text(json.dumps(data))


def labels(sample):
    return sorted((r.label, round(r.box[0]), r.source.kind) for r in sample.regions if r.box)


def first(store, **more):
    return next(iter(store.samples(**more)))


EDITED = [("cat", 1, "specialist"), ("dog", 13, "human"), ("hen", 1, "human")]


@pytest.mark.parametrize("keep_ids", [True, False])
@pytest.mark.parametrize(("to", "edit"), [("labelstudio", edit_labelstudio), ("coco", edit_coco)])
def test_the_whole_round_trip(tmp_path, store, to, edit, keep_ids):
    before = labels(first(store))
    export_labels(store, to, tmp_path / "out")
    edit(tmp_path / "out", keep_ids=keep_ids)
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
    # without the export's name a file is complete for the labels that it uses: nobody said that there is no cow
    known = keep_ids or to == "labelstudio"
    cow = [] if known else [("cow", 21, "specialist")]
    expected = sorted(EDITED + cow)
    assert labels(first(store)) == expected
    assert lines[-1].startswith(f"reviewed: 1 pictures; {2 if known else 1} deleted, 1 changed, 1 added")
    assert [labels(s) for s in store.samples()][1:] == [before] * 2  # nobody went over these
    deleted = [d for d in first(store, view="all").decisions if d.reason == "deleted"]
    assert all((d.rule, d.status) == ("human", "rejected") for d in deleted)
    # neither rules nor merging nor another round undo it
    florence2.filter(store, [Floor(0.01)], merging=MergeConfig())
    assert labels(first(store)) == expected
    florence2.filter(store, [Floor(0.95)])  # a rule that rejects all that nobody confirmed
    assert labels(first(store)) == sorted(EDITED)
    assert labels(list(store.samples())[1]) == []
    florence2.filter(store, [Floor(0.01)])  # and one that would have all back
    assert labels(first(store)) == expected and labels(list(store.samples())[1]) == before
    export_labels(store, to, tmp_path / "again")
    again = import_labels(tmp_path / "again", tmp_path / "s2", workers=0)
    assert sorted((r.label, round(r.box[0])) for r in first(again).regions) == [e[:2] for e in expected]


def test_the_same_file_again_adds_nothing(tmp_path, store):
    export_labels(store, "labelstudio", tmp_path / "out")
    edit_labelstudio(tmp_path / "out")
    lines = []
    for _ in range(2):
        import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
        assert len(store.snapshots()) == 2 and labels(first(store)) == EDITED
    assert lines[0].startswith("reviewed: 1 pictures; 2 deleted") and len(lines) == 2
    assert lines[1] == "reviewed: 1 pictures; entered before: nothing is added, what came since stands"


def test_a_second_review_of_what_was_reviewed(tmp_path, store):
    """The next export holds the person's own items; what is deleted of them is gone as well."""
    export_labels(store, "labelstudio", tmp_path / "out")
    edit_labelstudio(tmp_path / "out")
    import_labels(tmp_path / "out", store.root, reviewed=True)
    export_labels(store, "labelstudio", tmp_path / "two")
    tasks = json.loads((tmp_path / "two/tasks.json").read_text())
    (annotation,) = tasks[0]["annotations"]
    cat = next(row for p in tasks[0]["predictions"] for row in p["result"] if row["type"] == "rectanglelabels")
    annotation["result"] = [row for row in annotation["result"] if row["value"].get("rectanglelabels") != ["hen"]] + [
        cat
    ]
    annotation["completed_by"] = 8
    (tmp_path / "two/tasks.json").write_text(json.dumps(tasks))
    import_labels(tmp_path / "two", store.root, reviewed=True)
    assert labels(first(store)) == EDITED[:2]
    # the first file once more, edited further, replaces what came of it and repeats nothing
    edited = json.loads((tmp_path / "out/tasks.json").read_text())
    dog = next(r for r in edited[0]["annotations"][1]["result"] if r["value"].get("rectanglelabels") == ["dog"])
    dog["value"]["x"] += 5
    (tmp_path / "out/tasks.json").write_text(json.dumps(edited))
    import_labels(tmp_path / "out", store.root, reviewed=True)
    assert [row for row in labels(first(store)) if row[0] == "dog"] == [("dog", 15, "human")]


def test_a_caption_that_was_changed_is_a_persons_and_one_left_out_is_not_deleted(tmp_path, store):
    export_labels(store, "labelstudio", tmp_path / "out")
    edit_labelstudio(tmp_path / "out")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    result = tasks[0]["annotations"][1]["result"]
    result[-1]["value"]["text"] = ["a cat and a hen"]
    tasks[1]["annotations"] = [{"result": result[:0], "completed_by": 1}]
    (tmp_path / "out/tasks.json").write_text(json.dumps(tasks))
    import_labels(tmp_path / "out", store.root, reviewed=True)
    found = list(store.samples())
    assert [(t.text, t.source.kind) for t in found[0].texts] == [("a cat and a hen", "human")]
    assert found[1].regions == () and [t.text for t in found[1].texts] == ["a cat"]  # an empty annotation: all wrong


def test_reviewed_pictures_are_exhaustive_and_later_finds_fall(tmp_path, store):
    """A student that finds the deleted cow again is told that there is none."""
    export_labels(store, "coco", tmp_path / "out")
    edit_coco(tmp_path / "out")
    import_labels(tmp_path / "out", store.root, reviewed=True)
    assert {state.state for states in first(store).coverage.values() for state in states} == {"exhaustive"}
    path = first(store).image.uri
    again = thing("r", 21.0, "cow", source=Source("model", "student", "1"))
    jsonl.write([Sample("x", ImageRef("x", path), regions=(again,))], tmp_path / "student")
    import_labels(tmp_path / "student", store.root, workers=0)
    florence2.filter(store, [Floor(0.01)], merging=MergeConfig())
    assert labels(first(store)) == EDITED


def test_the_command_and_its_refusals(tmp_path, store, capsys):
    root = str(store.root)
    export_labels(store, "labelstudio", tmp_path / "out")
    command = ["import", str(tmp_path / "out"), "--out", root, "--reviewed"]
    assert main(command) == 1 and "a task is to be submitted" in capsys.readouterr().err
    edit_labelstudio(tmp_path / "out")
    assert main(command) == 0
    assert "reviewed: 1 pictures; 2 deleted, 1 changed, 1 added, 2 confirmed" in capsys.readouterr().err
    export_labels(store, "voc", tmp_path / "voc")
    assert main(["import", str(tmp_path / "voc"), "--out", root, "--reviewed"]) == 1
    assert "--reviewed reads labelstudio and coco, got voc" in capsys.readouterr().err
    other = folder_of(tmp_path / "elsewhere", 9, start=8)
    sample = Sample("y", ImageRef("p0008.png", str(other / "p0008.png")), regions=(thing("r", 1.0, "cat"),))
    jsonl.write([sample], tmp_path / "other")
    stranger = import_labels(tmp_path / "other", tmp_path / "s3", workers=0)
    assert main(["import", str(tmp_path / "out"), "--out", str(stranger.root), "--reviewed"]) == 1
    assert "none of the store's pictures" in capsys.readouterr().err
    assert main(["verify", root]) == 0


def test_a_damaged_review_is_made_again_from_its_file(tmp_path, store, capsys):
    export_labels(store, "labelstudio", tmp_path / "out")
    edit_labelstudio(tmp_path / "out")
    import_labels(tmp_path / "out", store.root, reviewed=True)
    for table in ("decisions", "annotations"):
        (path,) = (store.root / table).rglob("reviewed@*/*.parquet")
        good = path.read_bytes()
        path.write_bytes(good[:-7])
        capsys.readouterr()
        assert main(["verify", str(store.root), "--repair"]) == 1
        assert "--reviewed makes it again" in "".join(capsys.readouterr())
        import_labels(tmp_path / "out", store.root, reviewed=True)
        assert path.read_bytes() == good and main(["verify", str(store.root)]) == 0


def test_a_mask_goes_with_its_box(tmp_path):
    folder = folder_of(tmp_path, 1)
    box = thing("b", 1.0, "cat")
    finer = dataclasses.replace(
        thing("m", 1.0, "cat"), polygons=((1.0, 2.0, 9.0, 2.0, 9.0, 20.0),), refines="b", score=None
    )
    jsonl.write([Sample("s", ImageRef("p", str(folder / "p0000.png")), regions=(box, finer))], tmp_path / "in")
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    export_labels(store, "coco", tmp_path / "out")
    data = json.loads((tmp_path / "out/instances.json").read_text())
    data["annotations"] = []
    (tmp_path / "out/instances.json").write_text(json.dumps(data))
    import_labels(tmp_path / "out", store.root, reviewed=True)
    assert first(Store(store.root)).regions == ()


def left_alone(sample):
    return {state.state for states in sample.coverage.values() for state in states} != {"exhaustive"}


def submitted(out, person=7):
    """Tasks whose predictions a person took over as they are, and submitted."""
    tasks = json.loads((out / "tasks.json").read_text())
    for task in tasks:
        rows = [row for p in task["predictions"] for row in p["result"]]
        task["annotations"] = [{"result": rows, "completed_by": person}]
    return tasks


def boxed(task, label):
    rows = task["annotations"][0]["result"]
    return next(row for row in rows if row["value"].get("rectanglelabels") == [label])


def as_ellipse(row):
    row.update(type="ellipselabels", value={"x": 9, "y": 9, "radiusX": 4, "radiusY": 4, "ellipselabels": ["cow"]})


def in_two_parts(row):
    """An outline in two parts, of which one cannot be read."""
    row.update(type="polygonlabels", value={"points": [[1, 1], [9, 1], [9, 9]], "polygonlabels": ["cow"]})
    part = {**row, "id": "p", "meta": {"florence2": {"part_of": row["id"]}}, "value": {"points": [[1, 1]]}}
    return [part]


UNREADABLE = [  # what became of the cow, whether it takes --skip-bad, what the message names
    (as_ellipse, False, "ellipselabels are left out"),
    (lambda row: row.update(image_rotation=90), True, "image_rotation: 90"),
    (lambda row: row["value"].update(x=float("nan")), True, "expected a finite number"),
    (lambda row: row["value"].update(rectanglelabels="cow"), True, "expected a list"),
    (in_two_parts, True, "points: expected at least 3"),
    (lambda row: [7], True, "expected an object"),
]


@pytest.mark.parametrize(("damage", "skip", "named"), UNREADABLE)
def test_what_cannot_be_read_of_labelstudio_was_not_deleted(tmp_path, store, damage, skip, named):
    export_labels(store, "labelstudio", tmp_path / "out")
    before = labels(first(store))
    tasks = submitted(tmp_path / "out")
    tasks[0]["annotations"][0]["result"] += damage(boxed(tasks[0], "cow")) or []
    tasks[1]["annotations"][0]["result"].remove(boxed(tasks[1], "cow"))
    (tmp_path / "out/tasks.json").write_text(json.dumps(tasks))
    lines = []
    if skip:
        with pytest.raises(ValueError, match=named):
            import_labels(tmp_path / "out", store.root, reviewed=True)
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=skip, on_message=lines.append)
    found = list(store.samples())
    assert labels(found[0]) == before and left_alone(found[0])
    assert "cow" not in {row[0] for row in labels(found[1])} and not left_alone(found[1])
    assert named in "".join(lines)
    assert any(line.startswith("1 pictures stay as they were") and "images/p0000.png" in line for line in lines)
    assert lines[-1].startswith("reviewed: 2 pictures; 1 deleted, 0 changed, 0 added")


def test_an_annotation_that_cannot_be_read_deletes_nothing(tmp_path, store):
    export_labels(store, "labelstudio", tmp_path / "out")
    before = labels(first(store))
    tasks = submitted(tmp_path / "out")
    tasks[0]["annotations"][0]["result"] = "none"
    (tmp_path / "out/tasks.json").write_text(json.dumps(tasks))
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=True)
    assert labels(first(store)) == before and left_alone(first(store))


UNREADABLE_ROWS = [  # what became of the cow in COCO, what the message names
    ({"category_id": 999}, "category_id 999 is not among"),
    ({"bbox": [1, 2, None, 4]}, "expected a number"),
    ({"image_id": 999}, "image_id 999 is not among"),
    ({"segmentation": [[1, 2, 3]]}, "at least three x, y pairs"),
]


@pytest.mark.parametrize(("damage", "named"), UNREADABLE_ROWS)
def test_what_cannot_be_read_of_coco_was_not_deleted(tmp_path, store, damage, named):
    export_labels(store, "coco", tmp_path / "out")
    before = labels(first(store))
    data = json.loads((tmp_path / "out/instances.json").read_text())
    data["annotations"][0]["bbox"][0] += 3  # nor is what can be read of the picture half of a review
    data["annotations"][2].update(damage)
    (tmp_path / "out/instances.json").write_text(json.dumps(data))
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=True, on_message=lines.append)
    found = list(store.samples())
    assert labels(found[0]) == before and left_alone(found[0]) and not left_alone(found[1])
    assert named in "".join(lines) and "1 pictures stay as they were" in "".join(lines)


def test_a_new_annotation_of_no_picture_deletes_nothing(tmp_path, store):
    """It may be what a listed picture lacks; pictures that lack nothing are entered."""
    export_labels(store, "coco", tmp_path / "out")
    data = json.loads((tmp_path / "out/instances.json").read_text())
    data["images"] = data["images"][:2]
    for annotation in data["annotations"]:
        annotation.pop("ann_id")
    (tmp_path / "out/instances.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match="is not among the file's images"):
        import_labels(tmp_path / "out", store.root, reviewed=True)
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=True, on_message=lines.append)
    assert "reviewed: 2 pictures; 0 deleted" in lines[-1]
    data["annotations"][0]["image_id"] = 999
    (tmp_path / "out/instances.json").write_text(json.dumps(data))
    before = labels(first(store))
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=True, on_message=lines.append)
    assert "1 pictures stay as they were" in lines[-2] and "0 deleted" in lines[-1]
    assert labels(first(store)) == before


@pytest.mark.parametrize("value", [5, None, "none", {"a": 1}])
def test_a_coco_file_whose_annotations_are_no_list_is_refused_in_words(tmp_path, store, value):
    export_labels(store, "coco", tmp_path / "out")
    data = json.loads((tmp_path / "out/instances.json").read_text())
    (tmp_path / "out/instances.json").write_text(json.dumps({**data, "annotations": value}))
    with pytest.raises(ValueError, match="holds no picture that a person went over"):
        import_labels(tmp_path / "out", store.root, "coco", reviewed=True, skip_bad=True)


def test_two_entries_of_a_picture_are_one_or_refused(tmp_path, store):
    export_labels(store, "labelstudio", tmp_path / "out")
    before = labels(first(store))
    tasks = submitted(tmp_path / "out")[:1]
    tasks[0]["id"] = 1
    tasks.append({**json.loads(json.dumps(tasks[0])), "id": 99})
    file = tmp_path / "out/tasks.json"
    file.write_text(json.dumps(tasks))
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
    assert lines == ["reviewed: 1 pictures; 0 deleted, 0 changed, 0 added, 5 confirmed"]
    tasks[1]["annotations"][0]["result"] = []
    file.write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=r"tasks.json: task 99: differs from .*tasks.json: task 1, .*p0000.png"):
        import_labels(tmp_path / "out", store.root, reviewed=True)
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=True, on_message=lines.append)
    assert labels(first(store)) == before
    assert "1 pictures stay as they were, as entries of the file differ on them: images/p0000.png (" in lines[1]


def test_a_coco_picture_under_two_numbers_is_refused(tmp_path, store):
    export_labels(store, "coco", tmp_path / "out")
    data = json.loads((tmp_path / "out/instances.json").read_text())
    data["images"].append({**data["images"][0], "id": 55})
    data["annotations"][0]["image_id"] = 55
    (tmp_path / "out/instances.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"instances.json: image 55: differs from .*instances.json: image 1, "):
        import_labels(tmp_path / "out", store.root, reviewed=True)


@pytest.mark.parametrize("newer", [0, 1])
def test_of_two_exports_in_one_project_the_later_submission_holds(tmp_path, store, newer):
    tasks = []
    for n, name in enumerate(("a", "b")):
        write_review(store, tmp_path / f"{name}.json", limit=2 + n)
        tasks.append(json.loads((tmp_path / f"{name}.json").read_text())[0])
        rows = [row for row in tasks[n]["predictions"][0]["result"] if n or row["value"].get("rectanglelabels")]
        if n == 0:
            rows = [row for row in rows if row["value"]["rectanglelabels"] != ["cow"]]
        at = f"2026-03-0{2 if n == newer else 1}T10:00:00.000000Z"
        tasks[n].update(id=n, annotations=[{"result": rows, "completed_by": 1, "updated_at": at}])
    assert tasks[0]["data"]["image"] == tasks[1]["data"]["image"]
    (tmp_path / "r.json").write_text(json.dumps(tasks))
    lines = []
    import_labels(tmp_path / "r.json", store.root, reviewed=True, on_message=lines.append)
    name = tasks[0]["data"]["image"].rpartition("/")[2]
    (found,) = [sample for sample in store.samples() if sample.image.uri.endswith(name)]
    assert ("cow" in {row[0] for row in labels(found)}) == (newer == 1)
    assert any("the one submitted last was taken: " in line for line in lines)


def test_of_two_exports_only_the_one_that_is_taken_is_to_be_readable(tmp_path, store):
    tasks = []
    for n, name in enumerate(("a", "b")):
        write_review(store, tmp_path / f"{name}.json", limit=2 + n)
        tasks.append(json.loads((tmp_path / f"{name}.json").read_text())[0])
        rows = [row for row in tasks[n]["predictions"][0]["result"] if row["value"].get("rectanglelabels")]
        at = f"2026-03-0{1 + n}T10:00:00.000000Z"
        tasks[n].update(id=n, annotations=[{"result": rows, "completed_by": 1, "updated_at": at}])
    for broken, entered in ((0, 1), (1, 0)):
        given = json.loads(json.dumps(tasks))
        as_ellipse(boxed(given[broken], "dog"))
        (tmp_path / "r.json").write_text(json.dumps(given))
        lines = []
        import_labels(tmp_path / "r.json", store.root, reviewed=True, on_message=lines.append)
        assert f"reviewed: {entered} pictures" in lines[-1]
        assert any("stay as they were" in line for line in lines) == (not entered)
        assert any("submitted last was taken" in line for line in lines) == bool(entered)


def test_tasks_of_many_exports_read_a_snapshot_once(tmp_path, store, monkeypatch):
    tasks = []
    for n in range(3):
        write_review(store, tmp_path / f"{n}.json", limit=n + 1)
        tasks.append(json.loads((tmp_path / f"{n}.json").read_text())[n])
        rows = tasks[n]["predictions"][0]["result"]
        tasks[n].update(id=n, annotations=[{"result": rows, "completed_by": 1}])
    (tmp_path / "r.json").write_text(json.dumps(tasks))
    read, samples = [], Store.samples
    monkeypatch.setattr(
        Store, "samples", lambda self, *given, **more: read.append(given) or samples(self, *given, **more)
    )
    import_labels(tmp_path / "r.json", store.root, reviewed=True)
    assert len(read) == 1


def test_tasks_of_two_exports_are_each_compared_with_their_own(tmp_path, store):
    """What came between the two exports was deleted of the pictures of the second alone."""
    export_labels(store, "labelstudio", tmp_path / "a")
    later = [Sample(s.id, s.image, regions=(thing("h", 1.0, "hen", source=OTHER),)) for s in store.samples()]
    jsonl.write(later, tmp_path / "more")
    import_labels(tmp_path / "more", store.root, workers=0)
    export_labels(store, "labelstudio", tmp_path / "b")
    tasks = [*submitted(tmp_path / "a")[:2], submitted(tmp_path / "b")[2]]
    tasks[2]["annotations"][0]["result"] = []
    (tmp_path / "a/tasks.json").write_text(json.dumps(tasks))
    lines = []
    import_labels(tmp_path / "a", store.root, reviewed=True, on_message=lines.append)
    found = list(store.samples())
    assert lines[-1].startswith("reviewed: 3 pictures; 5 deleted, 0 changed, 0 added")
    assert [("hen", 1, "specialist") in labels(sample) for sample in found] == [True, True, False]
    assert labels(found[2]) == []
    known = [{label for states in s.coverage.values() for state in states for label in state.labels} for s in found]
    assert ["hen" in labels for labels in known] == [False, False, True]


@pytest.mark.parametrize("to", ["labelstudio", "coco"])
@pytest.mark.parametrize("label", ["dog", "hen"])
@pytest.mark.parametrize("before", [False, True])
def test_a_copy_that_kept_the_name_of_its_original_is_added(tmp_path, store, to, label, before):
    """As Label Studio copies a region with its meta: the original, moved by less, stays what it was."""
    export_labels(store, to, tmp_path / "out")
    if to == "labelstudio":
        file, tasks = tmp_path / "out/tasks.json", submitted(tmp_path / "out")
        rows, dog = tasks[0]["annotations"][0]["result"], boxed(tasks[0], "dog")
        copy = {**json.loads(json.dumps(dog)), "id": "copy"}
        copy["value"].update(y=40, rectanglelabels=[label])
        dog["value"]["x"] += 5  # 2 pixels of 40
        data = tasks
    else:
        file = tmp_path / "out/instances.json"
        data = json.loads(file.read_text())
        rows, dog = data["annotations"], data["annotations"][1]
        data["categories"].append({"id": 99, "name": "hen"})
        copy = {**json.loads(json.dumps(dog)), "id": 77}
        copy["bbox"][1] = 12
        copy["category_id"] = 99 if label == "hen" else dog["category_id"]
        dog["bbox"][0] += 2
    rows.insert(0 if before else len(rows), copy)
    file.write_text(json.dumps(data))
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
    assert "; 0 deleted, 1 changed, 1 added" in lines[-1]
    mine = [row for row in labels(first(store)) if row[2] == "human"]
    assert mine == sorted([("dog", 13, "human"), (label, 11, "human")])
    changed = next(d for d in first(store, view="all").decisions if d.status == "superseded")
    moved = next(r for r in first(store).regions if r.box and round(r.box[0]) == 13)
    assert changed.by_id == moved.id


@pytest.mark.parametrize("to", ["labelstudio", "coco"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_what_stands_where_another_was_moved_from_is_added(tmp_path, store, to, last, moved):
    """A copy that lost its name, or a new box, at the place that the original left; where it did not, it is one."""
    export_labels(store, to, tmp_path / "out")
    if to == "labelstudio":
        file, data = tmp_path / "out/tasks.json", submitted(tmp_path / "out")
        rows, dog = data[0]["annotations"][0]["result"], boxed(data[0], "dog")
        copy = {key: value for key, value in {**dog, "id": "new"}.items() if key != "meta"}
        dog["value"] = {**dog["value"], "y": 55.0, "height": 40.0} if moved else dog["value"]
    else:
        file = tmp_path / "out/instances.json"
        data = json.loads(file.read_text())
        category = next(c["id"] for c in data["categories"] if c["name"] == "dog")
        rows, dog = data["annotations"], next(a for a in data["annotations"] if a["category_id"] == category)
        copy = {key: value for key, value in {**dog, "id": 900}.items() if key != "ann_id"}
        dog["bbox"] = [11.0, 14.0, 8.0, 12.0] if moved else dog["bbox"]
    rows.insert(len(rows) if last else 0, copy)
    file.write_text(json.dumps(data))
    lines, before = [], sum(len(labels(sample)) for sample in store.samples())
    import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
    assert f"0 deleted, {int(moved)} changed, {int(moved)} added, " in lines[-1]
    assert sum(len(labels(sample)) for sample in store.samples()) == before + moved


EMPTY = [  # what a person made of the cow in Label Studio, and of the caption; what the refusal names
    ({"width": 0}, None, "expected a shape with an area, got its box"),
    ({"height": 0.0}, None, "expected a shape with an area, got its box"),
    ({"rectanglelabels": ["  "]}, None, "expected a label, got none"),
    ({"rectanglelabels": []}, None, "expected a label, got none"),
    ({}, [" "], "expected a text, got none"),
]


@pytest.mark.parametrize(("value", "caption", "named"), EMPTY)
def test_what_is_no_annotation_is_refused_and_deletes_nothing(tmp_path, store, value, caption, named):
    export_labels(store, "labelstudio", tmp_path / "out")
    before, count = labels(first(store)), len(store.snapshots())
    tasks = submitted(tmp_path / "out")
    boxed(tasks[0], "cow")["value"].update(value)
    if caption:
        tasks[0]["annotations"][0]["result"][-1]["value"]["text"] = caption
    tasks[1]["annotations"][0]["result"].remove(boxed(tasks[1], "cow"))
    (tmp_path / "out/tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match=rf"tasks.json: task 0: (region|text) \w+: {named}"):
        import_labels(tmp_path / "out", store.root, reviewed=True)
    assert len(store.snapshots()) == count
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=True, on_message=lines.append)
    found = list(store.samples())
    assert labels(found[0]) == before and left_alone(found[0]) and found[0].texts[0].text == "a cat"
    assert named in lines[0] and "1 pictures stay as they were" in lines[1]
    assert lines[-1].startswith("reviewed: 2 pictures; 1 deleted, 0 changed, 0 added")


def test_a_coco_box_without_an_area_is_refused(tmp_path, store):
    export_labels(store, "coco", tmp_path / "out")
    data = json.loads((tmp_path / "out/instances.json").read_text())
    data["annotations"][2]["bbox"][2] = 0
    (tmp_path / "out/instances.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"instances.json: image 1: region 3: expected a shape with an area"):
        import_labels(tmp_path / "out", store.root, reviewed=True)


@pytest.mark.parametrize("to", ["labelstudio", "coco"])
@pytest.mark.parametrize("shape", ["polygons", "mask"])
def test_a_box_with_an_outline_that_was_left_as_it_was_is_confirmed(tmp_path, to, shape):
    mask = np.zeros((30, 40), bool)
    mask[3:19, 2:8] = True
    outline = {"mask": encode_rle(mask), "box": None} if shape == "mask" else {"polygons": ((1, 2, 9, 2, 9, 20),)}
    finer = dataclasses.replace(thing("m", 1.0, "cat"), refines="b", score=None, **outline)
    picture = str(folder_of(tmp_path, 1) / "p0000.png")
    jsonl.write([Sample("s", ImageRef("p", picture), regions=(thing("b", 1.0, "cat"), finer))], tmp_path / "in")
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    before = first(store).regions
    export_labels(store, to, tmp_path / "out")
    if to == "labelstudio":
        (tmp_path / "out/tasks.json").write_text(json.dumps(submitted(tmp_path / "out")))
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
    assert lines[-1] == "reviewed: 1 pictures; 0 deleted, 0 changed, 0 added, 1 confirmed"
    assert first(store).regions == before


@pytest.mark.parametrize("outlined", ["", "alone", "described"])
@pytest.mark.parametrize("to", ["labelstudio", "coco"])
def test_what_was_renamed_does_not_come_back_under_its_old_name(tmp_path, to, outlined):
    """Neither as what described it nor as its outline, which is one of the new name."""
    house = thing("b", 1.0, "house")
    described = thing("d", 1.0, "house", refines="b", description="an old house")
    outline = ((1.0, 2.0, 9.0, 2.0, 9.0, 20.0),)
    told = "an old house" if outlined == "described" else ""
    finer = [thing("m", 1.0, "house", refines="b", polygons=outline, description=told)] if outlined else []
    picture = str(folder_of(tmp_path, 1) / "p0000.png")
    jsonl.write([Sample("s", ImageRef("p", picture), regions=(house, described, *finer))], tmp_path / "in")
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    export_labels(store, to, tmp_path / "out")
    if to == "labelstudio":
        file, data = tmp_path / "out/tasks.json", submitted(tmp_path / "out")
        (row,) = data[0]["annotations"][0]["result"]
        row["value"][row["type"]] = ["barn"]
    else:
        file = tmp_path / "out/instances.json"
        data = json.loads(file.read_text())
        data["categories"][0]["name"] = "barn"
    file.write_text(json.dumps(data))
    import_labels(tmp_path / "out", store.root, reviewed=True)
    florence2.filter(store, [Floor(0.01)], merging=MergeConfig())
    assert {region.label for region in first(store).regions} == {"barn"}
    assert not any(region.description for region in first(store).regions)
    export_labels(store, "coco", tmp_path / "again")
    data = json.loads((tmp_path / "again/instances.json").read_text())
    (row,) = data["annotations"]
    assert "an old house" not in json.dumps(data)
    assert {c["id"]: c["name"] for c in data["categories"]}[row["category_id"]] == "barn"
    assert row["segmentation"] == ([list(outline[0])] if outlined else [])


def test_a_file_entered_again_after_a_later_one_says_that_nothing_is_added(tmp_path, store):
    export_labels(store, "labelstudio", tmp_path / "out")
    file, tasks = tmp_path / "out/tasks.json", submitted(tmp_path / "out")
    boxed(tasks[0], "dog")["value"]["x"] += 5
    early = json.dumps(tasks)
    boxed(tasks[0], "dog")["value"]["x"] += 5
    lines = []
    for text in (early, json.dumps(tasks), early):
        file.write_text(text)
        import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
    assert ["1 changed" in line for line in lines] == [True, True, False]
    assert lines[2] == "reviewed: 3 pictures; entered before: nothing is added, what came since stands"
    assert ("dog", 15, "human") in labels(first(store)) and len(store.snapshots()) == 3


def test_a_line_whose_words_were_emptied_is_refused(tmp_path):
    """Deleted it would be gone; without words it is no annotation of a person's."""
    picture = str(folder_of(tmp_path, 1) / "p0000.png")
    line = Region("l", "text", quad=(1.0, 2.0, 20.0, 2.0, 20.0, 9.0, 1.0, 9.0), label="TOTAL 12.30", source=MODEL)
    jsonl.write([Sample("s", ImageRef("p", picture), regions=(line,))], tmp_path / "in")
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    export_labels(store, "labelstudio", tmp_path / "out")
    tasks = submitted(tmp_path / "out")
    words = next(row for row in tasks[0]["annotations"][0]["result"] if row["type"] == "textarea")
    words["value"]["text"] = [""]
    (tmp_path / "out/tasks.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match="expected the words at this place, got none"):
        import_labels(tmp_path / "out", store.root, reviewed=True)
    import_labels(tmp_path / "out", store.root, reviewed=True, skip_bad=True)
    assert [region.label for region in first(store).regions] == ["TOTAL 12.30"]

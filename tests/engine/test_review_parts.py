"""Shapes of Label Studio that are no region each: parts of an outline, and what a Sample cannot hold."""

import json

import pytest

from florence2.engine.commands import import_labels
from florence2.engine.export import export_labels
from florence2.engine.review_tasks import write_review
from florence2.formats import jsonl
from florence2.records import ImageRef, Region, Sample, Source
from tests.engine.doubles import folder_of

LEFT, RIGHT, LAST = ((x, 2.0, x + 8.0, 3.0, x + 4.0, 20.0) for x in (1.0, 13.0, 25.0))
MOVED = tuple(v + 4.0 * (n % 2 == 0) for n, v in enumerate(RIGHT))  # 10 of a hundred, of 40 pixels


def untouched(rows):
    pass


def renamed(*places, label="dog"):
    def edit(rows):
        for place in places:
            rows[place]["value"]["polygonlabels"] = [label]

    return edit


def without(place):
    return lambda rows: rows.pop(place)


def moved(rows):
    for point in rows[1]["value"]["points"]:
        point[0] += 10


def copied(rows):
    """As Label Studio copies a region: with its meta, under a new id."""
    rows.append({**json.loads(json.dumps(rows[1])), "id": "copy"})


def drawn(rows):
    rows.append({key: value for key, value in json.loads(json.dumps(rows[1])).items() if key != "meta"} | {"id": "new"})


def transcribed(rows):
    value = {"points": rows[1]["value"]["points"], "text": ["EXIT"]}
    rows.append({"id": rows[1]["id"], "type": "textarea", "from_name": "transcription", "value": value})


def last_first(rows):
    rows.insert(0, rows.pop())


WHOLE = ("cat", [LEFT, RIGHT, LAST])
EDITS = [  # what a person does to the three parts; the regions that come of it; what is said
    (untouched, [WHOLE], "0 deleted, 0 changed, 0 added, 1 confirmed"),
    (without(1), [("cat", [LEFT, LAST])], "0 deleted, 1 changed, 0 added"),
    (moved, [("cat", [LEFT, MOVED, LAST])], "0 deleted, 1 changed, 0 added"),
    (renamed(0, 1, 2), [("dog", [LEFT, RIGHT, LAST])], "0 deleted, 1 changed, 0 added"),
    (renamed(1), [("cat", [LEFT, LAST]), ("dog", [RIGHT])], "0 deleted, 1 changed, 1 added"),
    (renamed(0), [("cat", [RIGHT]), ("cat", [LAST]), ("dog", [LEFT])], "1 changed, 2 added"),
    (without(0), [("cat", [RIGHT]), ("cat", [LAST])], "1 deleted, 0 changed, 2 added"),
    (drawn, [WHOLE, ("cat", [RIGHT])], "0 deleted, 0 changed, 1 added, 1 confirmed"),
    (transcribed, [("EXIT", [RIGHT]), ("cat", [LEFT, LAST])], "0 deleted, 1 changed, 1 added"),
    (last_first, [("cat", [LEFT, LAST, RIGHT])], ""),
]


def exported(tmp_path):
    """A store of one such region, and the tasks of its review with the results that a person began from."""
    path = next(folder_of(tmp_path, 1).glob("*.png"))
    box, model = (1.0, 2.0, 33.0, 20.0), Source("specialist", "one")
    region = Region("r", box=box, label="cat", label_space="x", polygons=WHOLE[1], source=model)
    jsonl.write([Sample("s", ImageRef(path.name, str(path)), regions=(region,))], tmp_path / "in")
    store = import_labels(tmp_path / "in", tmp_path / "s", workers=0)
    write_review(store, tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    return store, tasks, tasks[0]["predictions"][0]["result"]


def returned(tmp_path, store, tasks, rows):
    """The regions of the store, and what was said, once a person submitted these results."""
    tasks[0]["annotations"] = [{"completed_by": 7, "result": rows}]
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    lines = []
    import_labels(tmp_path / "tasks.json", store.root, reviewed=True, on_message=lines.append)
    (sample,) = store.samples()
    return sorted((r.label, [tuple(round(v, 3) for v in p) for p in r.polygons]) for r in sample.regions), lines[-1]


@pytest.mark.parametrize("keep_ids", [True, False])
@pytest.mark.parametrize(("edit", "expected", "said"), EDITS)
def test_an_outline_in_parts_comes_back_as_a_person_left_it(tmp_path, edit, expected, said, keep_ids):
    store, tasks, rows = exported(tmp_path)
    edit(rows)
    for row in rows if not keep_ids else ():  # as where Label Studio copies a prediction into an annotation
        row["id"] = f"x{row['id'][::-1]}"
    found, line = returned(tmp_path, store, tasks, rows)
    assert found == expected and said in line


def test_a_copy_of_a_part_is_a_region_of_its_own(tmp_path):
    store, tasks, rows = exported(tmp_path)
    copied(rows)
    found, line = returned(tmp_path, store, tasks, rows)
    assert found == [WHOLE, ("cat", [RIGHT])] and "0 deleted, 0 changed, 1 added, 1 confirmed" in line


def test_a_part_that_came_twice_is_refused(tmp_path):
    """Of an outline that is gone: both would be one region's."""
    store, tasks, rows = exported(tmp_path)
    rows[0] = rows[1]
    with pytest.raises(ValueError, match="duplicate id .*; another shape of this annotation has it"):
        returned(tmp_path, store, tasks, rows)


def test_parts_that_a_person_drew_come_back_as_one(tmp_path):
    """Of an export, where they are an annotation that nobody has worked on, or one that somebody submitted."""
    store, tasks, rows = exported(tmp_path)
    renamed(0, 1, 2)(rows)
    returned(tmp_path, store, tasks, rows)
    export_labels(store, "labelstudio", tmp_path / "out")
    tasks = json.loads((tmp_path / "out/tasks.json").read_text())
    tasks[0]["annotations"][0]["completed_by"] = 8
    (tmp_path / "out/tasks.json").write_text(json.dumps(tasks))
    lines = []
    import_labels(tmp_path / "out", store.root, reviewed=True, on_message=lines.append)
    assert lines[-1] == "reviewed: 1 pictures; 0 deleted, 0 changed, 0 added, 1 confirmed"


@pytest.mark.parametrize("kind", ["keypointlabels", "ellipselabels", "brushlabels"])
def test_a_picture_with_a_shape_that_a_sample_cannot_hold_stays_as_it_was(tmp_path, kind):
    store, tasks, rows = exported(tmp_path)
    rows[:] = [{"id": "k", "type": kind, "value": {"x": 9, "y": 9, "width": 1, kind: ["cat"]}}]
    found, line = returned(tmp_path, store, tasks, rows)
    assert found == [WHOLE] and line.startswith("reviewed: 0 pictures")

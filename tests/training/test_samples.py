"""Samples by position: from JSON Lines, a store, any other format, each equal to what its reader gives in order."""

import json
import pickle

import numpy as np
import pytest

from florence2 import scenes, sources
from florence2.cli import main
from florence2.codec.tasks import TASKS
from florence2.formats.problems import ReadProblems
from florence2.scenes.scene_files import write
from florence2.sources import record_files
from florence2.sources.record_files import RecordFile, line_spans
from florence2.training.config import DataSource
from florence2.training.datasets import SampleSource
from florence2.training.examples import TaskMixture
from florence2.training.samples import SpilledSamples, open_samples


@pytest.fixture
def toy(tmp_path):
    return write(tmp_path / "toy", (scenes.draw(seed, signs=0, size=48) for seed in range(9)))


def opened(path, **more):
    return open_samples(DataSource(path=str(path), **more), ReadProblems())


def test_json_lines_by_position_are_those_in_order(toy):
    found = opened(toy)
    expected = list(sources.open(toy))
    assert len(found) == 9 and [found[n] for n in (8, 0, 3)] == [expected[n] for n in (8, 0, 3)]
    assert list(opened(toy.parent)) == expected


def test_a_store_by_position_and_the_snapshot_that_is_named(toy, tmp_path):
    store = tmp_path / "store"
    assert main(["import", str(toy), "--out", str(store)]) == 0
    found = opened(store)
    assert sorted(s.id for s in found) == sorted(s.id for s in sources.open(store)) and len(found) == 9
    assert opened(store, snapshot=1)[4].regions


def test_a_foreign_format_is_spilled_beyond_what_is_held(toy):
    expected = list(sources.open(toy))
    spilled = SpilledSamples(iter(expected), held=4)
    assert len(spilled) == 9 and [spilled[n] for n in (7, 2, 4, 8, 0)] == [expected[n] for n in (7, 2, 4, 8, 0)]


@pytest.mark.parametrize("text, numbers", [
    ("a1\nb2\n", [1, 2]),
    ("a1\n\nb2", [1, 3]),
    ("\r\na1\r\n", [2]),
    ("", []),
])  # fmt: skip
def test_lines_are_found_whatever_they_end_with(tmp_path, monkeypatch, text, numbers):
    monkeypatch.setattr("florence2.sources.record_files.CHUNK", 3)
    file = tmp_path / "x.jsonl"
    file.write_bytes(text.encode())
    spans = line_spans(file)
    assert spans[:, 2].tolist() == numbers
    data = file.read_bytes()
    assert [data[a:b].strip() for a, b, _ in spans.tolist()] == [line for line in data.split() if line]


def test_records_are_parsed_only_when_asked_for(tmp_path, toy):
    rows = toy.read_text().splitlines()
    file = toy.parent / "many.jsonl"
    file.write_text("\n".join([*rows, *["{ broken"] * 1000]) + "\n")
    found = opened(file)
    assert len(found) == 1009 and found[3].id == json.loads(rows[3])["id"]
    with pytest.raises(ValueError, match="many.jsonl:11"):
        found[10]


def test_what_a_worker_is_given_holds_no_record(toy):
    source = SampleSource(DataSource(path=str(toy)), TaskMixture({"<OD>": 1.0}, TASKS), (32, 32))
    planned = source.plan(2, 0, 0)
    data = pickle.dumps(source)
    assert len(data) < 20_000
    twin = pickle.loads(data)
    mine, twins = (each._picture(planned.sample, planned.move) for each in (source, twin))
    assert np.array_equal(mine, twins)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Every set's labels count as large; the cache folder is the test's own."""
    monkeypatch.setattr(record_files, "LARGE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "florence2" / "sets"


def never(call):
    raise AssertionError(f"{call['path']} was read again")


def exported(toy, tmp_path, kind):
    assert main(["import", str(toy), "--out", str(tmp_path / "store")]) == 0
    assert main(["export", str(tmp_path / "store"), "--to", kind, "--out", str(tmp_path / kind)]) == 0
    return tmp_path / kind


@pytest.mark.parametrize("kind", ["coco", "labelstudio", "voc", "yolo"])
def test_a_set_of_large_labels_is_read_once_and_then_by_position(toy, tmp_path, large, monkeypatch, kind):
    folder = exported(toy, tmp_path, kind)
    expected = list(sources.open(folder))
    found = opened(folder)
    assert isinstance(found, RecordFile) and len(found) == 9 and list(found) == expected and found[2:4] == expected[2:4]
    assert found[-1] == expected[-1]
    monkeypatch.setattr(record_files, "_read_apart", never)
    assert list(opened(folder)) == expected
    assert len(list(large.glob("*.jsonl"))) == 1


def coco_of(toy, tmp_path):
    file = exported(toy, tmp_path, "coco") / "instances.json"
    return file, json.loads(file.read_text())


def test_changed_labels_or_pictures_are_read_again_and_who_has_the_old_ones_keeps_them(toy, tmp_path, large):
    file, data = coco_of(toy, tmp_path)
    before = opened(file)
    old = list(before)
    data["categories"] = [{**row, "name": f"{row['name']}s"} for row in data["categories"]]
    file.write_text(json.dumps(data))
    after = opened(file)
    assert {r.label for r in after[0].regions} == {f"{r.label}s" for r in old[0].regions} and list(before) == old
    assert len(list(large.glob("*.jsonl"))) == 1
    picture = next(file.parent.parent.rglob(old[3].image.uri.rsplit("/", 1)[-1]))
    (picture.parent / "deeper").mkdir()
    picture.rename(picture.parent / "deeper" / picture.name)
    assert list(opened(file)) == list(sources.open(file)) and opened(file)[3].image.uri != old[3].image.uri


@pytest.mark.parametrize("damage", [
    lambda file: file.write_text("{"),
    lambda file: file.write_text("{}"),
    lambda file: file.unlink(),
    lambda file: file.with_suffix(".jsonl"),
])  # fmt: skip
def test_what_is_kept_of_a_set_is_made_again_where_it_is_damaged(toy, tmp_path, large, damage):
    file, _ = coco_of(toy, tmp_path)
    expected = list(opened(file))
    (facts,) = large.glob("*.json")
    damage(facts)
    (records,) = large.glob("*.jsonl")
    records.write_bytes(records.read_bytes()[:-20])
    assert list(opened(file)) == expected


def test_what_a_reader_refused_and_noted_is_told_at_every_start(toy, tmp_path, large, monkeypatch):
    file, data = coco_of(toy, tmp_path)
    data["annotations"][0]["bbox"] = "none"
    data["annotations"][1]["keypoints"] = [1, 2, 2]
    file.write_text(json.dumps(data))
    told = []
    for _ in range(2):
        problems = ReadProblems(skip=True)
        open_samples(DataSource(path=str(file)), problems)
        told.append((problems.refused, problems.notes()))
        monkeypatch.setattr(record_files, "_read_apart", never)
    assert told[0] == told[1] and len(told[0][0]) == 1 and "key points are left out" in told[0][1][0]
    monkeypatch.undo()


def test_a_bad_record_or_a_reader_that_is_killed_ends_the_start_in_one_line(toy, tmp_path, large, monkeypatch):
    file, data = coco_of(toy, tmp_path)
    data["annotations"][0]["bbox"] = "none"
    file.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="bbox"):
        opened(file)
    monkeypatch.setattr(record_files, "_CODE", "import os; os.kill(os.getpid(), 9)  # {path!r}")
    with pytest.raises(ValueError, match="the process that read its labels ended by signal 9"):
        opened(file)


def test_a_snapshot_of_what_is_no_store_is_refused(toy):
    with pytest.raises(ValueError, match="snapshot: 3: goes with a store; this is jsonl"):
        opened(toy, snapshot=3)

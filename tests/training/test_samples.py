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
from florence2.training.config import DataSource
from florence2.training.datasets import SampleSource
from florence2.training.examples import TaskMixture
from florence2.training.samples import SpilledSamples, line_spans, open_samples


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
    monkeypatch.setattr("florence2.training.samples.CHUNK", 3)
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

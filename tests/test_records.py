"""Records: to JSON and back, the current view, and ill-typed data named by its field."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2 import records
from florence2.records import (
    Ask,
    Coverage,
    Decision,
    Failure,
    Grounding,
    ImageRef,
    Parsed,
    Region,
    Rle,
    Sample,
    Source,
    Text,
    from_json,
    to_json,
)  # fmt: skip

RECORDS = (Ask, Coverage, Decision, Failure, Grounding, ImageRef, Parsed, Region, Rle, Sample, Source, Text)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(RECORDS))
def test_json_and_back(data, kind):
    record = data.draw(st.builds(kind))
    text = json.dumps(to_json(record), allow_nan=True)
    again = from_json(kind, json.loads(text))
    assert repr(again) == repr(record)  # NaN is not equal to itself
    assert hash(kind.__name__) and dataclasses.is_dataclass(again)


def test_defaults_are_left_out():
    assert to_json(Region(id="r", box=(0, 0, 1, 1))) == {"id": "r", "box": [0, 0, 1, 1]}
    assert to_json(Sample("a", ImageRef("a"))) == {"id": "a", "image": {"id": "a"}}
    assert to_json(Failure()) == {}


@pytest.mark.parametrize(
    "kind, data, message",
    [
        (Region, {"boxx": []}, "Region: boxx: unknown key; expected one of id, kind, box"),
        (Region, {"box": [1, 2, 3]}, "Region: box: expected 4 values, got 3"),
        (Region, {"box": "1234"}, "Region: box: expected a list"),
        (Region, {"box": [1, 2, 3, "x"]}, "Region: box\\[3\\]: expected a number, got 'x'"),
        (Region, {"ignore": 1}, "Region: ignore: expected true or false, got 1"),
        (Region, {"source": {"kind": "human"}}, "Region: source.name: missing"),
        (Text, {"text": None}, "Text: text: expected text, got null"),
        (ImageRef, {"id": "a", "width": 1.5}, "ImageRef: width: expected a whole number, got 1.5"),
        (Sample, {"image": {"id": "a"}}, "Sample: id: missing"),
        (Sample, {"id": "a", "image": {"id": "a"}, "coverage": []}, "Sample: coverage: expected keys and values"),
        (Sample, [], "Sample: expected keys and values, got \\[\\]"),
    ],
)
def test_ill_typed_data_is_named(kind, data, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_json(kind, data)
    assert "\n" not in str(caught.value)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Region().label = "cat"


SAMPLE = Sample(
    "s",
    ImageRef("s", width=640, height=480),
    texts=(Text("t", "a cat and a dog"),),
    regions=(Region("cat", label="cat"), Region("dog", label="dog")),
    groundings=(
        Grounding("g", "t", "a cat", ((0, 5),), ("cat",)),
        Grounding("h", "t", "both", ((0, 15),), ("cat", "dog")),
    ),
)


def test_everything_stands_without_verdicts():
    assert SAMPLE.current() == SAMPLE and SAMPLE.image.size_wh == (640, 480)


def test_the_last_verdict_counts_whatever_its_place():
    verdicts = (
        Decision("cat", "kept", "tidy", round=1, seq=0),
        Decision("cat", "rejected", "low_score", round=0, seq=5),
        Decision("dog", "rejected", "low_score", round=0, seq=1),
    )
    now = dataclasses.replace(SAMPLE, decisions=verdicts).current()
    assert [r.id for r in now.regions] == ["cat"] and now.decisions == ()
    assert [(g.id, g.region_ids) for g in now.groundings] == [("g", ("cat",)), ("h", ("cat",))]


def test_a_grounding_goes_with_its_last_region():
    verdicts = (Decision("cat", "rejected", "low_score"),)
    now = dataclasses.replace(SAMPLE, decisions=verdicts).current()
    assert [(g.id, g.region_ids) for g in now.groundings] == [("h", ("dog",))]


def test_the_words_of_the_records_are_fixed():
    assert records.STATUSES == ("kept", "rejected", "superseded")
    assert records.SOURCE_KINDS == ("human", "import", "specialist", "model", "simulated")


def test_what_leaned_on_a_superseded_region_leans_on_its_winner():
    mask = Region("mask", refines="dog")
    sample = dataclasses.replace(SAMPLE, regions=(*SAMPLE.regions, mask))
    now = dataclasses.replace(sample, decisions=(Decision("dog", "superseded", "merge", by_id="cat"),)).current()
    assert [(r.id, r.refines) for r in now.regions] == [("cat", ""), ("mask", "cat")]
    assert [g.region_ids for g in now.groundings] == [("cat",), ("cat",)]

"""Captions from regions."""

import pytest

from florence2.engine.specialists.composer import compose, counted, plural
from florence2.records import Decision, ImageRef, Region, Sample


def sample(*regions, decisions=()):
    return Sample("s", ImageRef("s", width=300, height=300), regions=regions, decisions=decisions)


def region(label, box, score=0.9, kind="object", id=""):
    return Region(id=id or f"{label}{box}", kind=kind, box=box, label=label, score=score)


LEFT, RIGHT, TOP = (10, 110, 90, 190), (210, 110, 290, 190), (110, 10, 190, 40)


@pytest.mark.parametrize(
    "label, count, phrase",
    [
        ("apple", 1, "an apple"),
        ("red car", 1, "a red car"),
        ("person", 2, "two people"),
        ("box", 3, "three boxes"),
        ("cherry", 2, "two cherries"),
        ("toy", 2, "two toys"),
        ("traffic light", 12, "many traffic lights"),
        ("old woman", 2, "two old women"),
    ],
)
def test_counted(label, count, phrase):
    assert counted(label, count) == phrase


def test_plural_of_what_has_none():
    assert plural("sheep") == "sheep"


def test_two_captions_name_what_and_where():
    brief, detailed = compose(sample(region("cat", LEFT), region("dog", RIGHT)), 300, 300).texts
    assert brief.text == "A cat and a dog." and brief.detail == "brief"
    assert "On the left" in detailed.text and "a cat" in detailed.text and "On the right" in detailed.text
    assert detailed.score == pytest.approx(0.9)


def test_read_text_is_quoted():
    brief, detailed = compose(sample(region("OPEN", TOP, kind="text")), 300, 300).texts
    assert brief.text == 'A text that says "OPEN".' and '"OPEN"' in detailed.text


def test_unsure_rejected_and_repeated_regions_are_left_out():
    found = sample(
        region("cat", LEFT, id="a"),
        region("cat", (12, 112, 92, 192), 0.8, id="b"),  # the same cat
        region("dog", RIGHT, 0.2, id="c"),  # unsure
        region("cow", TOP, id="d"),  # rejected
        decisions=(Decision("d", "rejected", "nms"),),
    )
    assert compose(found, 300, 300).texts[0].text == "A cat."


def test_nothing_found_nothing_said():
    assert compose(sample(), 300, 300).texts == ()

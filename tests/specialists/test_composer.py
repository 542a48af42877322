"""Captions from regions."""

import pytest

from florence2.engine.specialists.composer import _relation, compose, counted, plural
from florence2.records import Decision, ImageRef, Region, Sample, Source


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


def texts(*regions):
    return {text.detail: text for text in compose(sample(*regions), 300, 300).texts}


def test_captions_of_three_lengths_name_what_and_where():
    found = texts(region("cat", LEFT), region("dog", RIGHT))
    assert found["brief"].text == "A cat and a dog." and set(found) == {"brief", "detailed", "more_detailed"}
    detailed = found["detailed"].text
    assert "On the left" in detailed and "a cat" in detailed and "On the right" in detailed
    more = found["more_detailed"].text
    assert more.startswith("The picture shows two things: a cat and a dog. ") and detailed in more
    assert more.endswith("The cat is on the left of the dog.")
    assert all(text.score == pytest.approx(0.9) for text in found.values())


def test_what_two_readers_both_read_is_said_once():
    """Readers cut lines differently and read letters differently; one's reading of a place is enough."""
    one, other = Source("specialist", "rapidocr", "1"), Source("specialist", "tesseract", "1")
    lines = (
        Region("a", kind="text", box=(10, 10, 90, 20), label="EXIT 24 Open 24h", score=0.95, source=one),
        Region("e", kind="text", box=(10, 80, 90, 90), label="Mind the gap", score=0.95, source=one),
        Region("b", kind="text", box=(10, 10, 45, 20), label="EX1T 24", score=0.9, source=other),
        Region("c", kind="text", box=(50, 10, 90, 20), label="Open 24h", score=0.9, source=other),
        Region("d", kind="text", box=(10, 60, 60, 70), label="Push", score=0.8, source=other),  # the first left it out
    )
    texts = {t.detail: t.text for t in compose(Sample("s", ImageRef("s"), regions=lines), 100, 100).texts}
    assert texts["ocr"] == "EXIT 24 Open 24h\nPush\nMind the gap"
    assert "EX1T" not in texts["more_detailed"] and texts["more_detailed"].count("Open 24h") == 2  # placed, and read


@pytest.mark.parametrize(
    "one, other, said",
    [
        (LEFT, RIGHT, "is on the left of"),
        (RIGHT, LEFT, "is on the right of"),
        (TOP, (110, 210, 190, 290), "is above"),
        ((110, 210, 190, 290), TOP, "is below"),
        ((0, 0, 300, 300), LEFT, "surrounds"),
        (LEFT, (0, 0, 300, 300), "lies within"),
    ],
)
def test_relations(one, other, said):
    assert _relation(one, other) == said


def test_what_fills_the_view_and_what_is_small_is_said():
    more = texts(region("cat", (0, 0, 299, 299)), region("bee", (5, 5, 20, 20)))["more_detailed"].text
    assert "The cat is large and fills most of the view. The bee looks small. The cat surrounds the bee." in more


def test_read_text_is_quoted_and_given_line_by_line():
    below = (110, 210, 190, 240)
    found = texts(region("DAILY", below, 0.7, kind="text"), region("OPEN", TOP, kind="text"))
    assert found["brief"].text == 'A text that says "OPEN DAILY".' and '"OPEN"' in found["detailed"].text
    assert found["more_detailed"].text.endswith('The text reads "OPEN", "DAILY".')
    assert found["ocr"].text == "OPEN\nDAILY" and found["ocr"].score == pytest.approx(0.8)


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

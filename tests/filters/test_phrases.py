"""Rules for phrases."""

from dataclasses import replace

import pytest

from florence2.codec.official import BANNED_PHRASES
from florence2.engine.curation.filters.phrase_rules import is_blacklisted
from florence2.engine.curation.filters.rules import open_chain
from florence2.records import Grounding, ImageRef, Region, Sample, Source, Text

MACHINE = Source("specialist", "a")
CAPTION = Text("t", "A red car and a dog.")


def rejected(rule, grounding, regions=(), texts=(CAPTION,), **changes):
    sample = Sample("s", ImageRef("s"), texts=texts, regions=regions, groundings=(grounding,))
    (found,) = [f for f in open_chain({rule: changes}) if f.spec.name == rule]
    return [d.reason for d in found.judge(sample)]


def phrase(text, spans=(), text_id="t", **fields):
    return Grounding("g", text_id, text, spans, source=MACHINE, **fields)


@pytest.mark.parametrize(
    "grounding, keep",
    [
        (phrase("A red car", ((0, 9),)), True),
        (phrase("A red car dog", ((0, 9), (16, 19))), True),  # slices joined by one space
        (phrase("a red car", ((0, 9),)), False),  # not the letters of the text
        (phrase("dog.", ((16, 99),)), False),  # runs out of the text
        (phrase("a dog"), True),  # without spans it must occur
        (phrase("a cat"), False),
        (phrase("A red car", ((0, 9),), text_id="gone"), False),  # its text is not kept
        (phrase("the tall man", text_id=""), True),  # a referring expression stands for itself
    ],
)
def test_span(grounding, keep):
    assert (rejected("phrase_span", grounding) == []) == keep


def test_the_official_list_has_72_entries():
    assert len(BANNED_PHRASES) == 72


@pytest.mark.parametrize(
    "text, black",
    [
        ("it", True),
        ("The image", True),
        ("each other", True),
        ("Love", True),
        ("the background", True),
        ("the", True),
        ("  ", True),
        ("a dog", False),
        ("the backyard", False),
        ("item", False),
        ("a red car", False),
    ],
)
def test_blacklist(text, black):
    assert is_blacklisted(text) == black
    assert (rejected("phrase_blacklist", phrase(text)) != []) == black


def test_words_can_be_added_to_the_blacklist():
    assert rejected("phrase_blacklist", phrase("a Red Car"), also=["red car"]) == ["blacklisted"]


@pytest.mark.parametrize(
    "score, box_scores, keep",
    [
        (0.5, (0.9,), True),
        (0.1, (0.9,), False),
        (0.5, (0.1, 0.2), False),
        (0.5, (0.1, 0.8), True),  # one good box is enough
        (None, (0.8,), True),
        (None, (0.1,), False),
        (None, (), True),
    ],
)
def test_score_of_phrase_and_boxes(score, box_scores, keep):
    regions = tuple(Region(f"r{i}", box=(0, 0, 9, 9), score=s) for i, s in enumerate(box_scores))
    grounding = phrase("a dog", region_ids=tuple(r.id for r in regions), score=score)
    assert (rejected("phrase_score", grounding, regions) == []) == keep


@pytest.mark.parametrize(
    "maker, score, keep", [("student", 0.85, False), ("student", 0.95, True), ("detector", 0.85, True)]
)
def test_phrases_have_a_floor_of_their_source(maker, score, keep):
    grounding = replace(phrase("a dog", region_ids=("r0",), score=score), source=Source("model", maker))
    assert (rejected("phrase_score", grounding, (Region("r0", box=(0, 0, 9, 9), score=0.9),)) == []) == keep

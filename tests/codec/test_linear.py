"""Reading is linear in length: 16,000 adversarial tokens take at most 8 times the steps of 4,000, dictionaries too."""

import sys
import time

import pytest

from florence2.codec import answers
from florence2.codec.official import official
from florence2.codec.tasks import TASKS
from florence2.records import Ask

ADVERSARIES = {  # what makes a backtracking parser slow, repeated
    "letters": "a",
    "spaces": " ",
    "locations": "<loc_5>",
    "broken locations": "<loc_5",
    "three locations": "a<loc_1><loc_2><loc_3>",
    "labels without places": "a<",
    "opened": "<poly>",
    "opened and placed": "a<poly><loc_1><loc_2><loc_3><loc_4><loc_5><loc_6>",
    "closed": "</poly>",
    "instances": "a<poly><loc_1><loc_2><loc_3><loc_4><loc_5><loc_6></poly>",
    "separators": "<sep>",
    "parts": "<loc_1><loc_2><sep>",
    "line breaks": "a\n<loc_1>",
    "boxes": "a cat<loc_1><loc_2><loc_3><loc_4>",
    "quads": "a cat" + "<loc_7>" * 8,
    "ends": "<s></s><pad>",
}
READ_APART = (  # one task of each reader that loops
    "<OD>",
    "<OCR_WITH_REGION>",
    "<CAPTION_TO_PHRASE_GROUNDING>",
    "<REGION_TO_SEGMENTATION>",
    "<OPEN_VOCABULARY_DETECTION>",
)


def adversary(unit, tokens):
    pieces = max(1, unit.count("<") + (unit[0] != "<"))
    return unit * (tokens // pieces)


def steps(call):
    """Lines of this package that a call executes."""
    count = 0

    def lines(frame, event, argument):
        nonlocal count
        count += event == "line"
        return lines

    def trace(frame, event, argument):
        return lines if "florence2" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def calls(text, task):
    ask = Ask(task.token, text="a cat and a dog" if task.input_kind == "text" else "")
    yield lambda: answers.parse(text, task, (640, 480), ask)
    yield lambda: official(text, task, (640, 480))


@pytest.mark.parametrize("name", ADVERSARIES)
def test_steps_grow_with_length(name):
    for task in (TASKS[token] for token in READ_APART):
        short, long = (adversary(ADVERSARIES[name], tokens) for tokens in (4_000, 16_000))
        for few, many in zip(calls(short, task), calls(long, task)):
            assert steps(many) <= 8 * steps(few), (task.token, name)


@pytest.mark.parametrize("name", ADVERSARIES)
def test_nothing_hides_in_regular_expressions(name):
    """At 100,000 tokens a quadratic search would take minutes; all kinds together take seconds."""
    text = adversary(ADVERSARIES[name], 100_000)
    began = time.process_time()
    for task in (
        TASKS[t] for t in ("<OD>", "<OCR_WITH_REGION>", "<REGION_TO_SEGMENTATION>", "<OPEN_VOCABULARY_DETECTION>")
    ):
        official(text, task, (640, 480))
    assert time.process_time() - began < 20

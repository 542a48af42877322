"""An answer that was cut goes on: whole in the end, what was said before unchanged, nothing said twice."""

import dataclasses
import math

import numpy as np
import pytest

import florence2
from florence2.codec.answers import parse_ids, unused_positions
from florence2.codec.grammar import automaton
from florence2.codec.tasks import TASKS
from florence2.predictor.continuation import Continuation, continuation
from florence2.records import Ask

GIVEN = {"text": {"text": "a red car"}, "region": {"region": (1, 2, 30, 20)}, "": {}}


def to_the_end(model, picture, answer, most=40, **how):
    """Goes on until the answer ends by itself."""
    steps = 0
    while answer.truncated and steps < most:
        longer = model.predict(picture, continue_from=answer, **how)
        kept = {r.id: (r.label, r.box) for r in answer.regions}
        assert kept == {r.id: (r.label, r.box) for r in longer.regions if r.id in kept}
        assert len(longer.token_ids) == len(longer.token_logprobs) == len(longer.token_measures)
        answer, steps = longer, steps + 1
    return answer, steps


def test_an_answer_of_another_vocabulary_does_not_go_on(tiny, pictures):
    cut = tiny.predict(pictures[0], "<REGION_PROPOSAL>", grammar=True, max_new_tokens=12)
    other = dataclasses.replace(cut, token_ids=tuple(number + 1 for number in cut.token_ids))
    with pytest.raises(ValueError, match="continue_from: the answer is of another vocabulary"):
        tiny.predict(pictures[0], continue_from=other)


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_in_pieces_it_says_what_it_says_at_once(tiny, pictures, task, beams):
    ask = Ask(task.token, **GIVEN[task.input_kind])
    encoded = tiny.encode_image(pictures[1])
    whole = tiny.predict(encoded, ask, grammar=True, max_new_tokens=100)
    cut = tiny.predict(encoded, ask, grammar=True, max_new_tokens=24)
    if not cut.truncated:
        return
    longer = tiny.predict(encoded, continue_from=cut, num_beams=beams, max_new_tokens=60)
    assert not unused_positions(longer.token_ids, tiny.tokenizer, task)
    assert len(longer.token_ids) > len(cut.token_ids) - 12 and longer.ask == cut.ask
    items = (*longer.texts, *longer.regions, *longer.groundings)
    assert all(0 <= item.score <= 1 and math.isfinite(item.score) for item in items)
    machine = automaton(task, tiny.tokenizer, ask)
    given = continuation(cut, machine, 256).ids
    assert longer.token_ids[2 : 2 + len(given)] == given
    if beams == 1 and whole.token_ids[2 : 2 + len(given)] == given:
        both = min(len(whole.token_ids), len(longer.token_ids)) - 12  # where neither budget bends the end
        assert longer.token_ids[:both] == whole.token_ids[:both]
        assert longer.token_logprobs[1:both] == pytest.approx(whole.token_logprobs[1:both], abs=1e-4)


def test_it_goes_on_past_the_models_positions(tiny, pictures):
    short = tiny.predict(pictures[0], "<REGION_PROPOSAL>", max_new_tokens=256)
    assert short.truncated and len(short.token_ids) <= 257
    before, answer = short, None
    for _ in range(3):
        answer = tiny.predict(pictures[0], continue_from=before)
        assert len(answer.token_ids) > len(before.token_ids)
        assert [r.box for r in answer.regions[: len(short.regions)]] == [r.box for r in short.regions]
        if not answer.truncated:
            break
        before = answer
    assert len(answer.token_ids) > 257 and not unused_positions(answer.token_ids, tiny.tokenizer, "<REGION_PROPOSAL>")


def test_what_is_said_again_is_named(tiny):
    x, encode = tiny.tokenizer.loc0, tiny.tokenizer.encode
    car, dog = encode("car"), encode("dog")
    box, near, far = ([x + v for v in b] for b in ((10, 10, 500, 500), (12, 10, 505, 500), (600, 600, 700, 700)))
    old = [*car, *box, *dog, *box]  # of two labels in one place, both are answers
    ids = (2, 0, *old, *car, *near, *far, *far, *dog, *far, 2)
    going_on = Continuation(florence2.parse("<OD>", "", (100, 100)), tuple(old), 0)
    parsed, spans = parse_ids(ids, tiny.tokenizer, "<OD>", (100, 100))
    found = going_on.repeats(parsed, spans)
    assert [(d.item_id, d.by_id, d.reason) for d in found] == [("r2", "r0", "repeated"), ("r4", "r3", "repeated")]
    assert all(d.value >= d.threshold == 0.8 and d.rule == "continue_from" for d in found)


def test_labels_and_filters_hold_for_what_follows(tiny, pictures):
    labels = ["red car", "two dogs", "sofa"]
    cut = tiny.predict(pictures[0], "<OD>", labels=labels, max_new_tokens=24)
    longer = tiny.predict(pictures[0], continue_from=cut, filters=["nms_all"], max_new_tokens=120)
    assert cut.truncated and set(longer.labels) <= set(labels) and longer.classes == labels


def test_under_the_official_rules_a_torn_item_is_said_again(tiny, pictures):
    cut = tiny.predict(pictures[0], "<OD>", official=True, num_beams=1, max_new_tokens=14)
    longer = tiny.predict(pictures[0], "<OD>", continue_from=cut, max_new_tokens=60)
    assert cut.truncated and not unused_positions(longer.token_ids, tiny.tokenizer, "<OD>")


def test_a_trained_model_finds_more_and_ends(pictures):
    nano = florence2.load("nano")
    from florence2 import scenes

    picture, _ = scenes.draw(2**31 + 7, objects=(6, 6), min_side=0.1, signs=0)
    whole = nano.predict(picture, "<OD>")
    cut = nano.predict(picture, "<OD>", max_new_tokens=8)
    found, steps = to_the_end(nano, picture, cut, max_new_tokens=16)
    assert cut.truncated and steps >= 1 and not found.truncated
    assert [r.box for r in found.regions] == [r.box for r in whole.regions]
    np.testing.assert_allclose(found.scores, whole.scores, atol=1e-3)


def test_what_cannot_go_on_is_refused_in_a_line(tiny, pictures):
    cut = tiny.predict(pictures[0], "<OD>", max_new_tokens=14)
    whole = dataclasses.replace(cut, truncated=False)
    other = np.zeros((99, 7, 3), np.uint8)
    cases = {
        "ended by itself": dict(continue_from=whole),
        "with its tokens": dict(continue_from=florence2.parse("<OD>", cut.text, cut.size_wh, cut.ask)),
        "ask nothing else": dict(task="<CAPTION>", continue_from=cut),
        "the answer to <OD> alone": dict(task=["<OD>"], continue_from=cut),
        "drop official": dict(continue_from=cut, official=True),
        "and tiles": dict(continue_from=cut, tiles=(2, 1)),
        "drop official, grammar": dict(continue_from=cut, grammar=False),
    }
    for words, arguments in cases.items():
        with pytest.raises(ValueError, match=words):
            tiny.predict(pictures[0], **arguments)
    with pytest.raises(ValueError, match="expected the picture of"):
        tiny.predict(other, continue_from=cut)

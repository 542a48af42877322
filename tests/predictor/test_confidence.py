"""Scores of items: what they are made of, in [0, 1] for every item under every search, and what a threshold leaves."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence2.codec.answers import ItemSpan
from florence2.codec.locations import BINS
from florence2.codec.official import avg_loc_scores, decode_with_spans
from florence2.codec.tasks import TASKS
from florence2.decoding.measures import END, LOGPROB, MASS, ORDERED, RADII
from florence2.predictor import parse
from florence2.predictor.confidence import WINDOW, Signals, all_signals, nearness, scored, without
from florence2.records import Ask, Grounding, Parsed, Region, Text

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def told(*tokens):
    """Measures of tokens: (probability, probability of the end, probability of locations, spread in bins or None)."""
    out = np.zeros((len(tokens), MASS + len(RADII)), np.float32)
    for row, (p, end, ordered, spread) in zip(out, tokens):
        row[[LOGPROB, END, ORDERED]] = math.log(p), end, ordered
        if spread is not None:  # the mass lies evenly over so many bins on either side
            row[MASS:] = [ordered * min(1.0, (radius + 0.5) / spread) for radius in RADII]
    return out


def word(p, end=0.0):
    return (p, end, 0.0, None)


def place(spread, ordered=1.0):
    return (0.1, 0.0, ordered, spread)


MEASURES = told(
    word(0.9, 0.2), word(0.8), *[place(20)] * 4, *[place(20, 0.7)] + [place(20)] * 3, word(0.5), *[place(400)] * 4
)
SPANS = {
    "r0": ItemSpan((0, 1), (2, 3, 4, 5)),
    "r1": ItemSpan((0, 1), (6, 7, 8, 9)),  # another box of the same name
    "r2": ItemSpan((10,), (11, 12, 13, 14)),
}
LARGE = (10.0, 10.0, 60.0, 60.0)  # half of a picture of 100 x 100


def found(**boxes):
    return Parsed(regions=tuple(Region(name, box=box) for name, box in boxes.items()))


def test_the_score_is_of_the_name_and_the_place():
    signals = all_signals(found(r0=LARGE, r1=LARGE, r2=LARGE), SPANS, MEASURES, (100, 100))
    assert signals["r0"].name == pytest.approx(0.72) and signals["r0"].placed == pytest.approx(1)
    assert signals["r0"].score == pytest.approx(math.sqrt(0.72))
    assert signals["r2"].placed == pytest.approx(WINDOW * 500 / 400, abs=0.01)
    assert signals["r2"].score == pytest.approx(math.sqrt(0.5) * (WINDOW * 500 / 400) ** 2, abs=0.01)


def test_what_is_near_depends_on_the_side():
    small = (10.0, 10.0, 15.0, 60.0)  # 50 bins wide: its window is 10, the mass lies over 20
    of_small = all_signals(found(r0=small), SPANS, MEASURES, (100, 100))["r0"]
    assert of_small.placed == pytest.approx(math.sqrt(WINDOW * 50 / 20), abs=0.01)  # two of four coordinates
    wide = all_signals(found(r0=(10.0, 10.0, 15.0, 60.0)), SPANS, MEASURES, (10, 100))["r0"]
    assert wide.placed == pytest.approx(1)  # of a narrow picture five pixels are half


def test_begun_is_the_end_that_did_not_come_or_a_further_place():
    signals = all_signals(found(r0=LARGE, r1=LARGE), SPANS, MEASURES, (100, 100))
    assert signals["r0"].begun == pytest.approx(0.8) and signals["r1"].begun == pytest.approx(0.7)
    assert (signals["r0"].rank, signals["r1"].rank) == (0, 1) and signals["r0"].area == pytest.approx(0.25)


def test_items_without_tokens_have_no_score():
    answer, _ = scored(found(given=LARGE, r0=LARGE), SPANS, MEASURES, (100, 100))
    assert answer.regions[0].score is None and answer.regions[1].score is not None


@QUIET
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 1), st.floats(0.001, 1), st.floats(0.01, 1))
def test_nearness_is_a_probability_and_grows_with_the_window(steps, width, height, window):
    mass = np.minimum(1, np.cumsum(np.resize(steps, len(RADII)) / len(RADII)))
    near = np.resize(mass, (4, len(RADII)))
    placed, overlap = nearness(near, (width, height), window)
    assert 0 <= placed <= 1 and 0 <= overlap <= 1
    assert nearness(near, (width, height), 2 * window)[0] >= placed - 1e-9


def test_the_expected_overlap_of_a_sure_place_is_nearly_one():
    sure = np.ones((4, len(RADII)))
    assert nearness(sure, (0.5, 0.5))[1] == pytest.approx(1 - 0.25 / (0.5 * BINS), abs=0.001)


ASKS = [
    Ask(task.token, **{"text": {"text": "a red car"}, "region": {"region": (1, 2, 30, 20)}, "": {}}[task.input_kind])
    for task in TASKS.values()
]


@pytest.mark.parametrize(
    "how",
    [
        dict(grammar=True),
        dict(grammar=True, num_beams=3),
        dict(official=True),
        dict(official=True, num_beams=1),
        dict(margin=2.0),
    ],
)
def test_every_item_of_every_task_is_scored(tiny, pictures, how):
    for answer in tiny.predict(pictures[0], ASKS, max_new_tokens=40, **how):
        items = (*answer.texts, *answer.regions, *answer.groundings)
        assert all(item.score is not None and 0 <= item.score <= 1 for item in items), answer.task
        assert set(answer.signals()) == {item.id for item in items}


@pytest.mark.parametrize("beams", [1, 3])
def test_a_score_is_the_same_alone_and_in_a_batch(tiny, pictures, beams):
    how = dict(grammar=True, num_beams=beams, max_new_tokens=30)
    together = list(tiny.predict_many([(picture, ASKS) for picture in pictures], batch_size=6, **how))
    for picture, answers in zip(pictures, together):
        for ask, answer in zip(ASKS, answers):
            alone = tiny.predict(picture, ask, **how)
            if alone.token_ids == answer.token_ids:
                assert alone.scores == pytest.approx(answer.scores, abs=1e-4)


def test_the_official_score_lies_beside(tiny, pictures):
    answer = tiny.predict(pictures[0], "<OD>", grammar=True, max_new_tokens=60)
    text, at = decode_with_spans(answer.token_ids[1:], tiny.tokenizer)
    official = avg_loc_scores(text, at, answer.token_logprobs[1:])
    assert len(answer) and answer.avg_loc_scores == pytest.approx(official, abs=1e-6)
    assert np.isnan(parse("<OD>", "<s>cat<loc_1><loc_2><loc_3><loc_4></s>", (10, 10)).avg_loc_scores).all()


PHRASES = Parsed(
    texts=(Text("t0", "a cat", score=0.3), Text("t1", "a dog", score=None)),
    regions=(Region("r0", score=0.9), Region("r1", score=0.2), Region("r2", score=0.9), Region("r3", score=0.6)),
    groundings=(
        Grounding("g0", phrase="a", region_ids=("r0", "r1"), score=0.9),
        Grounding("g1", phrase="b", region_ids=("r1",), score=0.9),
        Grounding("g2", phrase="c", region_ids=("r2",), score=0.1),
    ),
)


def test_what_is_left_out_takes_along_what_hangs_on_it():
    kept = without(PHRASES, {"t0", "r1", "g2"})
    assert [text.id for text in kept.texts] == ["t1"]
    assert [region.id for region in kept.regions] == ["r0", "r3"]  # r2 went with its phrase
    assert [(g.id, g.region_ids) for g in kept.groundings] == [("g0", ("r0",))]
    assert without(PHRASES, set()) is PHRASES


@dataclasses.dataclass
class ByName:
    """A map that says the name's probability."""

    least_there: float = 0.0

    def __call__(self, signals):
        return signals.name

    def there(self, signals):
        return signals.there


def test_a_threshold_leaves_what_is_as_sure_and_says_what_it_took():
    three = found(r0=LARGE, r1=LARGE, r2=LARGE)  # names of 0.72, 0.72 and 0.5
    kept, decisions = scored(three, SPANS, MEASURES, (100, 100), ByName(), min_score=0.6)
    assert [region.id for region in kept.regions] == ["r0", "r1"]
    (lost,) = decisions
    assert (lost.item_id, lost.status, lost.rule, lost.reason) == ("r2", "rejected", "min_score", "low_score")
    assert lost.value == pytest.approx(0.5) and lost.threshold == 0.6
    at = kept.regions[0].score
    assert len(scored(three, SPANS, MEASURES, (100, 100), ByName(), min_score=at)[0].regions) == 2  # equal is enough


def test_what_is_not_surely_there_is_left_out_with_all_of_its_places():
    three = found(r0=LARGE, r1=LARGE, r2=LARGE)  # there by 0.8 * 0.72, and by 0.5
    kept, decisions = scored(three, SPANS, MEASURES, (100, 100), ByName(least_there=0.55))
    assert [region.id for region in kept.regions] == ["r0", "r1"]
    kept, decisions = scored(three, SPANS, MEASURES, (100, 100), ByName(least_there=0.58))
    assert not kept.regions and [d.item_id for d in decisions] == ["r0", "r1", "r2"]
    assert {(d.rule, d.reason, d.threshold) for d in decisions} == {("calibration", "absent", 0.58)}


def test_predict_leaves_out_what_is_less_sure(tiny, pictures):
    every = tiny.predict(pictures[0], "<OD>", grammar=True, max_new_tokens=60)
    floor = float(np.median(every.scores))
    assert len(set(every.scores.tolist())) > 1
    some = tiny.predict(pictures[0], "<OD>", grammar=True, max_new_tokens=60, min_score=floor)
    (many,) = tiny.predict_many([pictures[0]], "<OD>", grammar=True, max_new_tokens=60, min_score=floor)
    assert some.regions == many.regions == tuple(r for r in every.regions if r.score >= floor) and 0 < len(some) < len(
        every
    )
    assert some.token_ids == every.token_ids
    lost = {region.id for region in every.regions} - {region.id for region in some.regions}
    assert {(d.item_id, d.rule, d.reason) for d in some.decisions} == {(n, "min_score", "low_score") for n in lost}


def test_with_a_margin_an_answer_goes_on(tiny, pictures):
    how = dict(grammar=True, max_new_tokens=40)
    plain = tiny.predict(pictures[0], ASKS, **how)
    assert plain == tiny.predict(pictures[0], ASKS, margin=0.0, **how)
    more = tiny.predict(pictures[0], ASKS, margin=60.0, **how)
    assert more == list(tiny.predict_many([(pictures[0], ASKS)], margin=60.0, **how))[0]
    for before, after in zip(plain, more):
        ended = len(before.token_ids) - 1
        assert after.token_ids[:ended] == before.token_ids[:ended]  # what was said stays
        assert all(region.score is not None for region in after.regions)


def test_signals_of_a_parsed_text_are_none():
    assert parse("<OD>", "<s>cat<loc_1><loc_2><loc_3><loc_4></s>", (10, 10)).signals() == {}
    assert dataclasses.replace(Signals(), name=0.25).score == 0.5

"""How sure the model is of each item: from the log-probabilities of the tokens the item was read from.

Knows no model and no task. The probabilities are the model's own, taken before any grammar or rule acted. A text's
score is the mean probability of its tokens. What has a place is scored on a detector's scale, where a score is about
the share of such boxes that are right: the mean over tokens is near 1 / SPREAD for a perfectly good box, since
neighbouring bins share the probability.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from florence2.codec.answers import ItemSpan
from florence2.records import Parsed

SPREAD = 40  # location bins, 4 % of a side


def mean_probability(logprobs: Sequence[float], positions: Sequence[int]) -> float:
    """exp of the mean log-probability of the tokens at `positions`, in [0, 1]; 1 where there are none."""
    if not positions:
        return 1.0
    return math.exp(min(0.0, sum(logprobs[position] for position in positions) / len(positions)))


def detection_confidence(name: float, place: float) -> float:
    """The geometric mean of how sure the name is and how sure the place within SPREAD bins, from mean probabilities.

    On held-out scenes nano's boxes are right as often as this says (`benchmarks/student_scores.py`).
    """
    return math.sqrt(min(1.0, name) * min(1.0, SPREAD * place))


def item_score(span: ItemSpan, logprobs: Sequence[float]) -> float:
    """The score of an item from the tokens that name it and those that place it."""
    name = mean_probability(logprobs, span.text_tokens)
    if not span.location_tokens:
        return name
    return detection_confidence(name, mean_probability(logprobs, span.location_tokens))


def scored(parsed: Parsed, spans: Mapping[str, ItemSpan], logprobs: Sequence[float]) -> Parsed:
    """The answer with a score on every text, region and phrase that has tokens of its own."""

    def score_of(item_id: str) -> float | None:
        span = spans.get(item_id)
        return item_score(span, logprobs) if span and (span.text_tokens or span.location_tokens) else None

    return replace(
        parsed,
        texts=tuple(replace(text, score=score_of(text.id)) for text in parsed.texts),
        regions=tuple(replace(region, score=score_of(region.id)) for region in parsed.regions),
        groundings=tuple(replace(grounding, score=score_of(grounding.id)) for grounding in parsed.groundings),
    )

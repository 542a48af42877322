"""How sure the model is of each item: from the log-probabilities of the tokens the item was read from.

Knows no model and no task. The probabilities are the model's own, taken before any grammar or rule acted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from florence2.codec.answers import ItemSpan
from florence2.records import Parsed


def score(logprobs: Sequence[float], positions: Iterable[int]) -> float | None:
    """exp of the mean log-probability of the tokens at `positions`, in [0, 1]; None where there are none."""
    values = [logprobs[position] for position in positions]
    return math.exp(min(0.0, sum(values) / len(values))) if values else None


def scored(parsed: Parsed, spans: Mapping[str, ItemSpan], logprobs: Sequence[float]) -> Parsed:
    """The answer with a score on every text, region and phrase: over the tokens that name it and that place it."""

    def score_of(item_id: str) -> float | None:
        span = spans.get(item_id)
        return score(logprobs, (*span.text_tokens, *span.location_tokens)) if span else None

    return replace(
        parsed,
        texts=tuple(replace(text, score=score_of(text.id)) for text in parsed.texts),
        regions=tuple(replace(region, score=score_of(region.id)) for region in parsed.regions),
        groundings=tuple(replace(grounding, score=score_of(grounding.id)) for grounding in parsed.groundings),
    )

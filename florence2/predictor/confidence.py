"""How sure the model is of each item: from what was measured of the tokens that the item was read from.

Knows no model and no task. The probabilities are the model's own, taken before any grammar, ban or forced token acted,
so that a score means the same in greedy and beam search, alone and in a batch, under any rules.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from florence2 import geometry
from florence2.codec.answers import ItemSpan
from florence2.codec.locations import BINS
from florence2.decoding.measures import END, ENTROPY, LOGPROB, MASS, ORDERED, RADII
from florence2.records import Box, Decision, Parsed

WINDOW = 0.2
"""How far from where it is a coordinate may lie, as a share of the item's side, for the place to be as good."""
EDGE = 1e-4  # logits are taken this far from 0 and 1
FEATURES = ("name", "tokens", "begun", "placed", "overlap", "entropy", "rank", "area", "constant")


@dataclass(frozen=True)
class Signals:
    """What an item's tokens tell of it, probabilities but for the last three; 1 where it has no such tokens."""

    name: float = 1.0
    """Of the tokens that name it, all of them."""
    begun: float = 1.0
    """That an item comes here, and not the end; of a further place of one name, that another place comes."""
    there: float = 1.0
    """That what it is called is there at all: that the first item of this name is begun, and so named."""
    placed: float = 1.0
    """That a coordinate lies within WINDOW of the item's side of where it does: the geometric mean over them."""
    overlap: float = 1.0
    """The expected overlap (IoU) with the item of a place that differs in one coordinate: the geometric mean."""
    located: float = 1.0
    """The geometric mean of its location tokens: the official score of a box."""
    tokens: float = 1.0
    """The geometric mean of all of its tokens."""
    entropy: float = 0.0
    """Of the tokens that name it, the mean, in nats."""
    rank: int = 0
    """Its place in the answer."""
    area: float = 1.0
    """Its box as a share of the picture."""

    @property
    def score(self) -> float:
        """How sure the item is, in [0, 1]: the geometric mean of its name's probability and of its place's, which is
        that all four coordinates of a box lie near; why so: docs/confidence.md."""
        return math.sqrt(self.name) * self.placed**2

    @property
    def features(self) -> tuple[float, ...]:
        """What a logistic model is made of, in the order of FEATURES."""
        logits = (_logit(p) for p in (self.name, self.tokens, self.begun, self.placed, self.overlap))
        return (*logits, self.entropy, math.log1p(self.rank), math.log(max(self.area, EDGE)), 1.0)


def _logit(probability: float) -> float:
    p = min(1 - EDGE, max(EDGE, probability))
    return math.log(p) - math.log1p(-p)


def signals_of(
    span: ItemSpan,
    measures: np.ndarray,
    side_wh: tuple[float, float] = (1.0, 1.0),
    own_name: bool = True,
    rank: int = 0,
) -> Signals:
    """The signals of one item; `measures` (T, F) of the answer's tokens, `side_wh` its sides as shares of the picture.

    `own_name`: whether it is the first item that its name's tokens name.
    """
    texts, places = list(span.text_tokens), list(span.location_tokens)
    logprobs = measures[:, LOGPROB]
    first = (texts if own_name and texts else places or texts)[:1]
    begun = 1.0
    if first:
        begun = 1.0 - float(measures[first[0], END]) if first[0] in texts else float(measures[first[0], ORDERED])
    placed, overlap = nearness(measures[places, MASS:], side_wh)
    return Signals(
        name=math.exp(min(0.0, float(logprobs[texts].sum()))),
        begun=min(1.0, max(0.0, begun)),
        placed=placed,
        overlap=overlap,
        located=mean_probability(logprobs, places),
        tokens=mean_probability(logprobs, texts + places),
        entropy=float(measures[texts, ENTROPY].mean()) if texts else 0.0,
        rank=rank,
        area=side_wh[0] * side_wh[1],
    )


def mean_probability(logprobs: Sequence[float] | np.ndarray, positions: Sequence[int]) -> float:
    """exp of the mean log-probability of the tokens at `positions`, in [0, 1]; 1 where there are none."""
    if not positions:
        return 1.0
    return math.exp(min(0.0, float(sum(logprobs[position] for position in positions)) / len(positions)))


def nearness(near: np.ndarray, side_wh: tuple[float, float], window: float = WINDOW) -> tuple[float, float]:
    """(placed, overlap) of coordinates x, y, x, y, ...: `near` (n, RADII) the mass around each of them."""
    if not len(near):
        return 1.0, 1.0
    edges = np.array([0.0, *(radius + 0.5 for radius in RADII)])
    sides = np.resize(np.maximum(np.array(side_wh, float) * BINS, 1.0), len(near))
    near = np.concatenate([np.zeros((len(near), 1)), near], 1)  # nothing lies within 0 bins
    placed = np.array([np.interp(window * side, edges, row) for side, row in zip(sides, near)])
    middle = (edges[1:] + edges[:-1]) / 2 / sides[:, None]
    shared = (np.maximum(0.0, 1 - middle) + 1 / (1 + middle)) / 2  # the side moved in, or out
    overlap = (np.diff(near, axis=1).clip(min=0) * shared).sum(1)
    return _geometric_mean(placed), _geometric_mean(overlap)


def _geometric_mean(probabilities: np.ndarray) -> float:
    return min(1.0, float(np.exp(np.log(np.maximum(probabilities, 1e-9)).mean())))


def all_signals(
    parsed: Parsed, spans: Mapping[str, ItemSpan], measures: np.ndarray, size_wh: tuple[int, int]
) -> dict[str, Signals]:
    """Item id -> its signals, of every item that has tokens of its own."""
    out: dict[str, Signals] = {}
    named: dict[tuple[int, ...], float] = {}  # the tokens of a name -> how surely it is there
    for rank, region in enumerate(parsed.regions):
        span = spans.get(region.id)
        if span is None or not (span.text_tokens or span.location_tokens):
            continue
        side_wh = _sides(geometry.region_box(region), size_wh) if span.location_tokens else (1.0, 1.0)
        own = signals_of(span, measures, side_wh, span.text_tokens not in named, rank)
        out[region.id] = replace(own, there=named.setdefault(span.text_tokens, own.begun * own.name))
    for text in parsed.texts:
        span = spans.get(text.id)
        if span is not None and span.text_tokens:
            out[text.id] = signals_of(span, measures)
    for grounding in parsed.groundings:
        of_region = [out[name] for name in grounding.region_ids if name in out]
        if of_region:
            out[grounding.id] = of_region[0]
    return out


def _sides(box: Box | None, size_wh: tuple[int, int]) -> tuple[float, float]:
    x1, y1, x2, y2 = box or (0.0, 0.0, *size_wh)
    return (x2 - x1) / size_wh[0], (y2 - y1) / size_wh[1]


class Calibrated(Protocol):
    """A map of calibration: signals to a score, and how surely a thing has to be there."""

    @property
    def least_there(self) -> float: ...
    def __call__(self, signals: Signals) -> float: ...
    def there(self, signals: Signals) -> float: ...


def scored(
    parsed: Parsed,
    spans: Mapping[str, ItemSpan],
    measures: np.ndarray,
    size_wh: tuple[int, int],
    score_map: Calibrated | None = None,
    min_score: float = 0.0,
) -> tuple[Parsed, tuple[Decision, ...]]:
    """The answer with a score on every text, region and phrase that has tokens of its own, by a map of calibration
    where there is one; without what is not surely enough there, and what is scored below `min_score`: why, beside it.
    Scores are numbers of float32, so that a threshold taken from `Answer.scores` keeps its own item.
    """
    signals = all_signals(parsed, spans, measures, size_wh)
    scores = {name: float(np.float32(score_map(own) if score_map else own.score)) for name, own in signals.items()}
    lost: dict[str, Decision] = {}
    for name, own in signals.items():
        if score_map and score_map.least_there and (sure := score_map.there(own)) < score_map.least_there:
            lost[name] = Decision(name, "rejected", "calibration", "absent", sure, score_map.least_there)
        elif scores[name] < min_score:
            lost[name] = Decision(name, "rejected", "min_score", "low_score", scores[name], min_score)
    return without(with_scores(parsed, scores), lost), tuple(lost.values())


def without(parsed: Parsed, lost: Collection[str]) -> Parsed:
    """The answer without these items: a phrase goes with the last of its regions, a region with the last of its
    phrases."""
    if not lost:
        return parsed
    groundings = []
    for grounding in parsed.groundings:
        ids = tuple(name for name in grounding.region_ids if name not in lost)
        if grounding.id not in lost and (ids or not grounding.region_ids):
            groundings.append(replace(grounding, region_ids=ids))
    named = {name for grounding in groundings for name in grounding.region_ids}
    unnamed = {name for grounding in parsed.groundings for name in grounding.region_ids} - named
    regions = tuple(r for r in parsed.regions if r.id not in lost and r.id not in unnamed)
    texts = tuple(text for text in parsed.texts if text.id not in lost)
    return replace(parsed, texts=texts, regions=regions, groundings=tuple(groundings))


def with_scores(parsed: Parsed, scores: Mapping[str, float]) -> Parsed:
    """The answer with these scores, None where there is none."""
    return replace(
        parsed,
        texts=tuple(replace(text, score=scores.get(text.id)) for text in parsed.texts),
        regions=tuple(replace(region, score=scores.get(region.id)) for region in parsed.regions),
        groundings=tuple(replace(grounding, score=scores.get(grounding.id)) for grounding in parsed.groundings),
    )

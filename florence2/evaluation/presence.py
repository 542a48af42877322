"""Is what was asked for there at all? Questions of both kinds; how surely a thing has to be there to be answered for.

A thing is there by a logistic model of the answer's signals, fitted to the right answers and to the answers about what
is verifiably absent; where there are too few of either, by the probability that its first item is begun and so named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from florence2.codec.tasks import Task
from florence2.evaluation.eval_items import EvalItem, eval_items_of
from florence2.evaluation.rightness import right_items
from florence2.evaluation.score_maps import cross_fitted, fit_logistic
from florence2.labels import fold_label
from florence2.predictor.answer import Answer
from florence2.predictor.confidence import Signals
from florence2.predictor.florence2 import Florence2
from florence2.records import Sample
from florence2.sources.negatives import ASKED, Negatives

SILENT = ("open_boxes", "phrases")  # output kinds that may answer that nothing is there; regions say it by their score
MOST_FALSE = 0.05  # of questions about what is not there that are answered
KEPT = 0.9  # of the right answers that are left, at the least
FEWEST = 10  # right answers, and things that are absent, under which nothing is decided
FITTED = 50  # from so many answers of either kind a model is fitted


@dataclass(frozen=True)
class Asked:
    """A question about a picture, whether what it asks for is there, and the answer."""

    item: EvalItem
    there: bool
    answer: Answer


@dataclass(frozen=True)
class Presence:
    """What is there less surely than `least` is not answered for; `weights` as of a `ScoreMap`; how good that is."""

    least: float = 0.0
    weights: tuple[float, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def questions(model: Florence2, samples: Sequence[Sample], task: Task) -> list[Asked]:
    """The task's true questions, and as many about what is not there where the task may say so."""
    items = eval_items_of(samples, task)
    there = [bool(item.truths[0].regions) for item in items]
    if task.output_kind in ASKED:
        negatives = Negatives.of(samples, 1.0)
        known = {item.key for item in items}
        for sample in samples:
            for ask, truth in negatives.pairs(task, sample, task.truths(sample)):
                item = EvalItem(sample, ask, (truth,))
                if item.key not in known:
                    items.append(item)
                    there.append(False)
    answers = model.predict_many([(item.sample.image, item.ask) for item in items])
    rows = zip(items, there, answers)
    return [Asked(item, true, answer) for item, true, answer in rows if isinstance(answer, Answer)]


@dataclass(frozen=True)
class PresenceItems:
    """Items that are right, and items about what is absent: their signals, which they are, of which picture; for each
    thing that is absent the places of its items."""

    signals: tuple[Signals, ...]
    right: np.ndarray
    pictures: np.ndarray
    absent: tuple[tuple[int, ...], ...]


def presence_items(task: Task, asked: Sequence[Asked]) -> PresenceItems:
    """What answers say of what is there, rightly, and of what is not."""
    numbers = {image: number for number, image in enumerate(dict.fromkeys(one.item.image for one in asked))}
    found: list[tuple[Signals, bool, int]] = []
    absent: list[tuple[int, ...]] = []
    for one in asked:
        signals, phrases = one.answer.signals(), {g.id: fold_label(g.phrase) for g in one.answer.groundings}
        true = {fold_label(g.phrase) for truth in one.item.truths for g in truth.groundings}
        judged = right_items(task, one.item, one.answer)
        of_items = {name: own for name, own in signals.items() if not phrases or name in phrases}
        found += [(own, True, numbers[one.item.image]) for name, own in of_items.items() if judged.get(name)]
        if not one.there:
            asked_for = fold_label(one.item.ask.text)  # a phrase that the caption does not have was not asked for
            false = [
                own
                for name, own in of_items.items()
                if not phrases or (phrases[name] not in true and phrases[name] in asked_for)
            ]
            absent.append(tuple(range(len(found), len(found) + len(false))))
            found += [(own, False, numbers[one.item.image]) for own in false]
    right, pictures = np.array([row[1] for row in found], bool), np.array([row[2] for row in found], int)
    return PresenceItems(tuple(row[0] for row in found), right, pictures, tuple(absent))


def presence(task: Task, asked: Sequence[Asked]) -> Presence:
    """How surely a thing has to be there to be answered for: so that MOST_FALSE of what is absent is, but no more of
    the right answers is lost than 1 - KEPT, on pictures that the model of it was not fitted to; and what that gives.
    Nothing where it would not take away half of the false answers: it would cost more than it brings."""
    items = presence_items(task, asked) if task.output_kind in SILENT else None
    if items is None or items.right.sum() < FEWEST or len(items.absent) < FEWEST:
        return Presence()
    before = sum(bool(own) for own in items.absent) / len(items.absent)
    sure = {(): np.array([own.there for own in items.signals])}
    if min(items.right.sum(), (~items.right).sum()) >= FITTED:
        weights = fit_logistic(np.array([own.features for own in items.signals]), items.right).numbers
        sure[weights] = cross_fitted(items.signals, items.right, items.pictures, "logistic")
    tried = [_decided(items, weights, values) for weights, values in sure.items()]
    best = min(tried, key=lambda one: (one.facts["absent_answered"], -one.facts["recall_kept"]))
    facts = {"absent": len(items.absent), "absent_answered_before": round(before, 4)}
    if 2 * best.facts["absent_answered"] > before:
        return Presence(facts=facts)
    return Presence(best.least, best.weights, {**facts, **best.facts})


def _decided(items: PresenceItems, weights: tuple[float, ...], sure: np.ndarray) -> Presence:
    right = sure[items.right]
    false = np.array([max(sure[list(own)], default=0.0) for own in items.absent])
    highest = min(float(np.quantile(right, 1 - KEPT)), float(np.quantile(false, 1 - MOST_FALSE)) + 1e-6, 1.0)
    least = math.floor(highest * 1e6) / 1e6  # never above the one that it is to keep
    facts = {
        "absent_answered": round(float((false >= least).mean()), 4),
        "recall_kept": round(float((right >= least).mean()), 4),
    }
    return Presence(least, weights, facts)

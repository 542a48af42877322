"""What scores are worth as probabilities of being right: calibration error, ranking, squared error. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 15

Numbers = Sequence[float] | np.ndarray


class Bin(NamedTuple):
    """One bin of a reliability diagram: how many items, their mean score, the share of them that is right."""

    items: int
    score: float
    right: float


def reliability(scores: Numbers, right: Numbers, bins: int = BINS) -> list[Bin]:
    """Bins of equal mass, the lowest scores first; fewer where there are fewer items than bins."""
    score, hit = np.asarray(scores, float), np.asarray(right, float)
    order = np.argsort(score, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [Bin(len(part), float(score[part].mean()), float(hit[part].mean())) for part in parts]


def calibration_error(scores: Numbers, right: Numbers, bins: int = BINS) -> float:
    """ECE: the mean gap between score and share of right items over bins of equal mass; 0 of nothing."""
    parts = reliability(scores, right, bins)
    total = sum(part.items for part in parts)
    return sum(part.items * abs(part.score - part.right) for part in parts) / max(1, total)


def ranking(scores: Numbers, right: Numbers) -> float:
    """AUROC: the chance that a right item is scored above a wrong one, ties by half; 0.5 where one kind is missing."""
    score, hit = np.asarray(scores, float), np.asarray(right, bool)
    wrong = np.sort(score[~hit])
    good = score[hit]
    if not len(wrong) or not len(good):
        return 0.5
    below, upto = np.searchsorted(wrong, good, "left"), np.searchsorted(wrong, good, "right")
    return float((below + upto).mean() / 2 / len(wrong))


def brier(scores: Numbers, right: Numbers) -> float:
    """The mean squared difference of score and truth; 0 of nothing."""
    gap = np.asarray(scores, float) - np.asarray(right, float)
    return float((gap**2).mean()) if len(gap) else 0.0


def log_loss(scores: Numbers, right: Numbers) -> float:
    """The mean negative log-likelihood of the truth, scores kept 1e-6 from 0 and 1; 0 of nothing."""
    score, hit = np.clip(np.asarray(scores, float), 1e-6, 1 - 1e-6), np.asarray(right, float)
    return float(-(hit * np.log(score) + (1 - hit) * np.log(1 - score)).mean()) if len(hit) else 0.0

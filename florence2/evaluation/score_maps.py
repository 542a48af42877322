"""Fits maps from items to probabilities of being right: Platt, beta, isotonic, a logistic model. Numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from florence2.metrics.reliability import log_loss
from florence2.predictor.calibration import EDGE, ScoreMap
from florence2.predictor.confidence import Signals

SOME = 200  # scored items from which a logistic model of all signals may be fitted
MANY = 1000  # from which a map of any shape may be
FOLDS = 5
LEVEL = 1e-3  # a feature's spread under which it is as good as constant
KNOTS = 1e-3  # scores of neighbouring points of an isotonic map differ by so much


def fit_platt(scores: np.ndarray, right: np.ndarray) -> ScoreMap:
    """Of logit(score), with Platt's smoothed targets (Platt 1999)."""
    s = np.clip(scores, EDGE, 1 - EDGE)
    return ScoreMap("platt", _rising(np.stack([np.log(s) - np.log1p(-s), np.ones(len(s))], 1), right))


def fit_beta(scores: np.ndarray, right: np.ndarray) -> ScoreMap:
    """Of ln(score) and -ln(1 - score) (Kull et al. 2017)."""
    s = np.clip(scores, EDGE, 1 - EDGE)
    return ScoreMap("beta", _rising(np.stack([np.log(s), -np.log1p(-s), np.ones(len(s))], 1), right))


def fit_isotonic(scores: np.ndarray, right: np.ndarray) -> ScoreMap:
    """Pool adjacent violators; straight between the middles of the blocks, so that ranks within them are kept."""
    order = np.argsort(scores, kind="stable")
    blocks: list[list[float]] = []  # [items, sum of scores, sum of right]
    for score, hit in zip(scores[order].tolist(), right[order].tolist()):
        blocks.append([1.0, score, float(hit)])
        while len(blocks) > 1 and blocks[-2][2] * blocks[-1][0] >= blocks[-1][2] * blocks[-2][0]:
            count, total, hits = blocks.pop()
            blocks[-1] = [blocks[-1][0] + count, blocks[-1][1] + total, blocks[-1][2] + hits]
    knots: list[tuple[float, float]] = []
    for count, total, hits in blocks:
        score, share = total / count, (hits + 0.5) / (count + 1)  # no block says never or always
        if not knots or score > knots[-1][0] + KNOTS:
            knots.append((score, max(share, knots[-1][1] if knots else 0.0)))
    return ScoreMap("isotonic", (tuple(k[0] for k in knots), tuple(k[1] for k in knots)))


def fit_logistic(features: np.ndarray, right: np.ndarray) -> ScoreMap:
    """Of the features (N, F) of `Signals`, each brought to its own spread first, so that the ridge means the same."""
    middle, spread = features.mean(0), features.std(0)
    spread[spread < LEVEL] = 1.0  # what hardly differs says nothing
    middle[-1] = 0.0  # the constant
    weights = logistic((features - middle) / spread, right, ridge=1.0) / spread
    weights[-1] -= float((weights * middle)[:-1].sum())
    return ScoreMap("logistic", tuple(map(float, weights)))


FITS: dict[str, Callable[[np.ndarray, np.ndarray], ScoreMap]] = {
    "platt": fit_platt,
    "beta": fit_beta,
    "isotonic": fit_isotonic,
}


def fit_any(method: str, signals: Sequence[Signals], right: np.ndarray) -> ScoreMap:
    """The map of a method to items."""
    if method == "logistic":
        return fit_logistic(np.array([s.features for s in signals]), right)
    return FITS[method](np.array([s.score for s in signals]), right)


def fit(signals: Sequence[Signals], right: np.ndarray, groups: np.ndarray) -> tuple[ScoreMap, np.ndarray]:
    """The map of the method that is best on parts it was not fitted to, and what those maps say of each item.

    Platt, beta, and a logistic model where there are SOME items; isotonic from MANY on. `groups`: items of one number
    (picture) are never parted.
    """
    methods = [*("platt", "beta"), *["logistic"] * (len(right) >= SOME), *["isotonic"] * (len(right) >= MANY)]
    held_out = {method: cross_fitted(signals, right, groups, method) for method in methods}
    best = min(methods, key=lambda method: log_loss(held_out[method], right))
    return fit_any(best, signals, right), held_out[best]


def cross_fitted(signals: Sequence[Signals], right: np.ndarray, groups: np.ndarray, method: str) -> np.ndarray:
    """What a map says of each item that was fitted to the other folds of the groups."""
    names = np.unique(groups)
    fold = np.random.default_rng(0).permutation(len(names)) % FOLDS
    of_item = fold[np.searchsorted(names, groups)]
    out = np.zeros(len(signals))
    for number in range(FOLDS):
        held = np.flatnonzero(of_item == number).tolist()
        others = np.flatnonzero(of_item != number).tolist() or held
        if held:
            made = fit_any(method, [signals[n] for n in others], right[others])
            out[held] = [made(signals[n]) for n in held]
    return out


def _rising(columns: np.ndarray, right: np.ndarray) -> tuple[float, ...]:
    """Weights, the last one of the constant: what has a negative weight is left out and the others fitted anew."""
    last = columns.shape[1] - 1
    kept = list(range(last + 1))
    while True:
        found = np.zeros(last + 1)
        found[kept] = logistic(columns[:, kept], right)
        if (found[:last] >= 0).all():
            return tuple(map(float, found))
        kept.remove(int(found[:last].argmin()))


def logistic(columns: np.ndarray, right: np.ndarray, ridge: float = 1e-3, rounds: int = 100) -> np.ndarray:
    """Weights of a logistic regression by Newton's method, steps halved until they help; targets smoothed as Platt
    does, a slight ridge."""
    good, bad = right.sum(), len(right) - right.sum()
    target = np.where(right, (good + 1) / (good + 2), 1 / (bad + 2))
    penalty = ridge * np.eye(columns.shape[1])

    def loss(weights: np.ndarray) -> float:
        x = columns @ weights
        return float((np.logaddexp(0, x) - target * x).sum() + weights @ penalty @ weights / 2)

    weights = np.zeros(columns.shape[1])
    for _ in range(rounds):
        guess = 0.5 * (1 + np.tanh(columns @ weights / 2))
        curvature = columns.T @ (columns * (guess * (1 - guess))[:, None]) + penalty
        step = np.linalg.solve(curvature, columns.T @ (target - guess) - penalty @ weights)
        while np.abs(step).max() > 1e-9 and loss(weights + step) > loss(weights):
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-8:
            break
    return weights

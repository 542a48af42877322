"""Scores as probabilities of being right: a map for each task, kept beside the weights in calibration.json.

    {"version": 1, "weights_sha256": "...", "tasks": {"OD": {"method": "isotonic", "scores": [...], "right": [...],
     "items": 1204, ...}}}

Maps of the score never fall. Platt: sigmoid(slope * logit(s) + offset). Beta (https://proceedings.mlr.press/v54/kull17a):
sigmoid(a * ln s - b * ln(1 - s) + c). Isotonic: straight between the given points. Logistic: sigmoid of the weighted
features of an item's signals, in place of its score. Fitted by `evaluation.calibrate`.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from florence2.atomic_files import write_atomic
from florence2.predictor.confidence import FEATURES, Signals
from florence2.structuring import brief, parse_json

FILE = "calibration.json"
VERSION = 1
EDGE = 1e-6  # logarithms are taken this far from 0 and 1
NUMBERS = {
    "platt": ("slope", "offset"),
    "beta": ("a", "b", "c"),
    "isotonic": ("scores", "right"),
    "logistic": FEATURES,
}


@dataclass(frozen=True)
class ScoreMap:
    """An item's signals to the probability that it is right. `numbers`: those of the method, by NUMBERS."""

    method: str
    numbers: tuple[Any, ...]
    least_there: float = 0.0
    """What is there less surely is left out of the answer: "it is not there"."""
    there_weights: tuple[float, ...] = ()
    """Of the features, for how surely it is there; without them it is `Signals.there`."""
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """What it was fitted on and how good it is, kept in the file."""

    def __call__(self, signals: Signals) -> float:
        if self.method == "logistic":
            return _weighted(self.numbers, signals)
        return self.of_score(signals.score)

    def there(self, signals: Signals) -> float:
        """The probability that what the item is called is there at all."""
        return _weighted(self.there_weights, signals) if self.there_weights else signals.there

    def of_score(self, score: float) -> float:
        """The probability of a score; not of a logistic map, which takes more than that."""
        if self.method == "isotonic":
            return _between(score, *self.numbers)
        s = min(1 - EDGE, max(EDGE, score))
        high, low = math.log(s), math.log1p(-s)
        if self.method == "platt":
            slope, offset = self.numbers
            return _sigmoid(slope * (high - low) + offset)
        a, b, c = self.numbers
        return _sigmoid(a * high - b * low + c)

    def to_json(self) -> dict[str, Any]:
        """The map as plain JSON types."""
        values = [list(v) if isinstance(v, tuple) else v for v in self.numbers]
        absent: dict[str, Any] = {"least_there": self.least_there} if self.least_there else {}
        absent |= {"there": dict(zip(FEATURES, self.there_weights))} if self.there_weights else {}
        return {"method": self.method, **dict(zip(NUMBERS[self.method], values)), **absent, **self.facts}


@dataclass(frozen=True)
class Calibration:
    """The maps of one checkpoint, by task's name."""

    weights_sha256: str
    maps: Mapping[str, ScoreMap]

    def of(self, task: str) -> ScoreMap | None:
        """The map of a task by its token or name; None where it was not calibrated."""
        return self.maps.get(task.strip("<>"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        tasks = {name: self.maps[name].to_json() for name in sorted(self.maps)}
        data = {"version": VERSION, "weights_sha256": self.weights_sha256, "tasks": tasks}
        write_atomic(Path(path), json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """The calibration of a file; ValueError names what does not fit."""
    try:
        with open(path, encoding="utf-8") as file:
            data = parse_json(file.read())
    except ValueError as error:
        raise ValueError(f"{path}: expected the JSON that florence2 calibrate writes; {str(error)[:200]}") from None
    if not isinstance(data, dict) or type(data.get("version")) is not int or data["version"] != VERSION:
        found = brief(data.get("version")) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path}: expected a calibration of version {VERSION}, got {found}; calibrate again")
    if not isinstance(data.get("tasks"), dict):
        raise ValueError(f"{path}: tasks: expected a map for each task, got {brief(data.get('tasks'))}")
    if not isinstance(data.get("weights_sha256"), str):
        raise ValueError(f"{path}: weights_sha256: expected a string, got {brief(data.get('weights_sha256'))}")
    maps = {name: _map(row, f"{path}: {brief(name)}") for name, row in data["tasks"].items()}
    return Calibration(data["weights_sha256"], maps)


def check_fits(calibration: Calibration, weights_sha256: str, tasks: Iterable[str], where: object) -> None:
    """Refuse the calibration of other weights, or of a task that the model does not have."""
    if calibration.weights_sha256 != weights_sha256:
        raise ValueError(
            f"{where}: is of other weights (sha256 {calibration.weights_sha256[:12]}, here {weights_sha256[:12]}); "
            "run florence2 calibrate on this checkpoint, or load with calibration=None"
        )
    known = {task.strip("<>") for task in tasks}
    unknown = sorted(set(calibration.maps) - known)
    if unknown:
        raise ValueError(
            f"{where}: {unknown[0]}: is no task of this model ({', '.join(sorted(known))[:400]}); calibrate again"
        )


def _map(row: Any, where: str) -> ScoreMap:
    method = row.get("method") if isinstance(row, dict) else None
    if not isinstance(method, str) or method not in NUMBERS:
        raise ValueError(f"{where}: method: expected one of {', '.join(NUMBERS)}, got {brief(method)}")
    keys = NUMBERS[method]
    values = [row.get(key) for key in keys]
    facts = {key: value for key, value in row.items() if key not in (*keys, "method", "least_there", "there")}
    least = row.get("least_there", 0.0)
    if not _finite(least) or not 0 <= least <= 1:
        raise ValueError(f"{where}: least_there: expected a number in 0..1, got {brief(least)}")
    there = row.get("there", {})
    weights: list[Any] = [there.get(key) for key in FEATURES] if isinstance(there, dict) and there else []
    if not isinstance(there, dict) or not all(map(_finite, weights)):
        raise ValueError(f"{where}: there: expected a number for each of {', '.join(FEATURES)}, got {brief(there)}")
    absent = float(least), tuple(map(float, weights))
    if method != "isotonic":
        if not all(map(_finite, values)) or (method != "logistic" and min(values[:-1]) < 0):
            raise ValueError(
                f"{where}: {', '.join(keys)}: expected numbers, of a score's map all but the last not negative, "
                f"got {brief(values)}"
            )
        return ScoreMap(method, tuple(map(float, values)), *absent, facts)
    for key, value in zip(keys, values):
        if not isinstance(value, list) or not value or not all(_finite(v) and 0 <= v <= 1 for v in value):
            raise ValueError(f"{where}: {key}: expected numbers in 0..1, got {brief(value)}")
    scores, right = values
    rising = all(a < b for a, b in pairwise(scores)) and all(a <= b for a, b in pairwise(right))
    if len(scores) != len(right) or not rising:
        raise ValueError(f"{where}: expected as many rising scores as shares that never fall, got {brief(values)}")
    return ScoreMap(method, (tuple(map(float, scores)), tuple(map(float, right))), *absent, facts)


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e6


def _between(score: float, scores: tuple[float, ...], right: tuple[float, ...]) -> float:
    place = bisect_right(scores, score)
    if place == 0:
        return right[0]
    if place == len(scores):
        return right[-1]
    low, high = scores[place - 1], scores[place]
    return right[place - 1] + (right[place] - right[place - 1]) * (score - low) / (high - low)


def _weighted(weights: tuple[float, ...], signals: Signals) -> float:
    return _sigmoid(sum(weight * value for weight, value in zip(weights, signals.features)))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

"""A model's scores made probabilities: for each task a map fitted to what was right on labelled data.

What is kept in calibration.json beside a map says how good it is on pictures that it was not fitted to (five folds).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import sources
from florence2.codec.tasks import Task
from florence2.evaluation.presence import Asked, presence, questions
from florence2.evaluation.rightness import right_items
from florence2.evaluation.score_maps import fit
from florence2.evaluation.tier_gate import scored_tasks
from florence2.metrics.reliability import Bin, brier, calibration_error, ranking, reliability
from florence2.predictor import checkpoints
from florence2.predictor.calibration import FILE, Calibration, ScoreMap, check_fits, read_calibration
from florence2.predictor.confidence import Signals
from florence2.predictor.florence2 import Florence2, load
from florence2.records import Sample

LEAST = 50  # items, of either kind a fifth of it, under which no map is fitted
SAFE = 200  # items under which a map's measured error means little

OnLine = Callable[[str], None]


@dataclass(frozen=True)
class TaskCalibration:
    """What came of one task: its map, or why there is none; reliability before and after, each item by a map that was
    fitted to other pictures."""

    task: str
    items: int
    score_map: ScoreMap | None
    why: str = ""
    before: tuple[Bin, ...] = ()
    after: tuple[Bin, ...] = ()


def calibrate(
    source: str | os.PathLike[str],
    data: str,
    out: str | os.PathLike[str] | None = None,
    *,
    tasks: Sequence[str] = (),
    split: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    device: str | None = None,
    report: OnLine = lambda line: None,
) -> tuple[Path, list[TaskCalibration]]:
    """Fit the maps of a checkpoint's tasks to `data` and write calibration.json: beside the weights, or at `out`.

    Tasks that the file holds already stay, where it is of these weights. ValueError where no task has enough items.
    """
    found = checkpoints.find(source)
    path = _target(source, found, out)
    weights = checkpoints.weights_sha256(found)
    model = load(source, calibration=None, device=device)
    samples = list(sources.open(data, split, format, limit, tasks=model.tasks))
    known: dict[str, ScoreMap] = {}
    if path.is_file():
        before = read_calibration(path)
        if before.weights_sha256 == weights:
            check_fits(before, weights, model.tasks, path)
            known = dict(before.maps)
        else:
            report(f"{path}: was of other weights and is begun anew")
    results = []
    for task in scored_tasks(model, samples, tasks, data):
        result = calibrate_task(model, samples, task, {"data": data, "split": split or ""})
        report(_line(result))
        results.append(result)
        if result.score_map is not None:
            known[task.name] = result.score_map
    if all(result.score_map is None for result in results):
        raise ValueError(f"{data}: {results[0].task}: {results[0].why}; nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    Calibration(weights, known).save(path)
    return path, results


def calibrate_task(
    model: Florence2, samples: Sequence[Sample], task: Task, facts: dict[str, Any] | None = None
) -> TaskCalibration:
    """The map of one task, fitted to the model's answers about `samples`."""
    asked = questions(model, samples, task)
    signals, right, groups = judged_signals(task, asked)
    scores = [s.score for s in signals]
    wrong = len(right) - int(right.sum())
    fewest = min(int(right.sum()), wrong)
    if len(right) < LEAST or fewest < LEAST / 5:
        why = (
            f"{len(right)} items with a score, {wrong} of them wrong: expected {LEAST} with {LEAST // 5} of either kind"
        )
        return TaskCalibration(task.name, len(right), None, f"{why}; give more data")
    found, elsewhere = fit(signals, right, groups)
    figures = {
        "items": len(right),
        "pictures": len(np.unique(groups)),
        "right": round(float(right.mean()), 4),
        "ece_before": round(calibration_error(scores, right), 4),
        "ece_after": round(calibration_error(elsewhere, right), 4),
        "auroc": round(ranking(elsewhere, right), 4),
        "brier": round(brier(elsewhere, right), 4),
    }
    there = presence(task, asked)
    made = ScoreMap(
        found.method, found.numbers, there.least, there.weights, {**figures, **there.facts, **(facts or {})}
    )
    before, after = reliability(scores, right), reliability(elsewhere, right)
    why = f"under {SAFE} items: these figures are rough" if len(right) < SAFE else ""
    return TaskCalibration(task.name, len(right), made, why, tuple(before), tuple(after))


def judged_signals(task: Task, asked: Sequence[Asked]) -> tuple[list[Signals], np.ndarray, np.ndarray]:
    """(signals, right, number of the picture) of every item of the answers that can be judged."""
    pictures = {image: number for number, image in enumerate(dict.fromkeys(one.item.image for one in asked))}
    found: list[tuple[Signals, bool, int]] = []
    for one in asked:
        signals, answer = one.answer.signals(), one.answer
        phrases = {name for grounding in answer.groundings for name in grounding.region_ids}
        for name, right in right_items(task, one.item, answer).items():
            if name in signals and name not in phrases:  # a phrase and its box are one item
                found.append((signals[name], right, pictures[one.item.image]))
    of_items = np.array([row[1] for row in found], bool), np.array([row[2] for row in found], int)
    return [row[0] for row in found], *of_items


def _target(
    source: str | os.PathLike[str], found: checkpoints.FoundCheckpoint, out: str | os.PathLike[str] | None
) -> Path:
    if out is not None:
        path = Path(out)
        return path / FILE if path.is_dir() or not path.suffix else path
    if not os.path.isdir(source) or found.base.parent == checkpoints.SHIPPED:
        raise ValueError(f"{os.fspath(source)}: is no folder of yours to write to; name the file with --out")
    return (found.adapter or found.base) / FILE


def _line(result: TaskCalibration) -> str:
    if result.score_map is None:
        return f"{result.task}: not calibrated: {result.why}"
    facts = result.score_map.facts
    return (
        f"{result.task}: {result.score_map.method}, {result.items} items, {facts['right']:.3f} right; error (ECE) "
        f"{facts['ece_before']:.3f} before, {facts['ece_after']:.3f} after; AUROC {facts['auroc']:.3f}, Brier "
        f"{facts['brier']:.3f}{f'; {result.why}' if result.why else ''}"
    )

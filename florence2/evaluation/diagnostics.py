"""Diagnostics of a run, for a page: the worst answers beside their truth, confusion of categories, the
precision-recall curve, calibration. Plain JSON; knows no HTML.

A found region is right when it lies on a true one (IoU 0.5, each once, ignored truth aside) and bears its label.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from florence2.codec.tasks import Task
from florence2.evaluation.eval_items import EvalItem, ItemKey
from florence2.evaluation.metric_specs import ERRORS, metric_spec_of, words_of
from florence2.evaluation.score import Scored
from florence2.labels import fold_label
from florence2.metrics.detection import match, region_box
from florence2.records import Failure, Parsed, Result, Sample, to_json

WORST = 24
BINS = 10
POINTS = 200  # of a curve
MISSED, INVENTED = "(missed)", "(invented)"


def diagnostics(
    run: Scored, items: Sequence[EvalItem], found: Mapping[ItemKey, Result], worst: int = WORST
) -> dict[str, Any]:
    """{worst, confusion, curve, calibration}; the last three only where the task has labels or scores."""
    out: dict[str, Any] = {"worst": _worst(run, items, found, worst)}
    diagnosis = run.spec.diagnosis
    if diagnosis in ("boxes", "labels"):
        confusion, judged, truths = _judged(items, found, labelled=diagnosis == "labels")
        if diagnosis == "labels":
            out["confusion"] = _table(confusion)
        out["curve"] = _curve(judged, truths)
        out["calibration"] = _calibration(judged)
    elif diagnosis == "names":
        out["confusion"] = _table(_named(items, found))
    return out


def unknown_labels(
    task: Task, samples: Sequence[Sample], items: Sequence[EvalItem], found: Mapping[ItemKey, Result]
) -> dict[str, int]:
    """Labels that name no category of the data, most frequent first: how often each was answered.

    Categories are the labels of its object regions and those that its coverage names.
    """
    if metric_spec_of(task).diagnosis != "labels" or task.storage_rule != "label":
        return {}
    known = {fold_label(r.label) for sample in samples for r in sample.regions if r.kind == "object"}
    spaces = [coverage for sample in samples for space in sample.coverage.values() for coverage in space]
    known |= {fold_label(name) for coverage in spaces for name in coverage.labels}
    strange: Counter[str] = Counter()
    for item in items:
        result = found.get(item.key)
        regions = result.regions if isinstance(result, Parsed) else ()
        strange.update(r.label for r in regions if fold_label(r.label) not in known)
    return dict(strange.most_common())


def _worst(run: Scored, items: Sequence[EvalItem], found: Mapping[ItemKey, Result], count: int) -> list[dict[str, Any]]:
    """The items with the lowest scores of their own; among equals those with most truth first."""
    rows = []
    for n, item in enumerate(items):
        key, value = run.of_item(n)
        goodness = -value if key in ERRORS else value
        size = sum(len(t.regions) + len(t.groundings) for t in item.truths[:1])
        if key == "CIDEr" or goodness < (0 if key in ERRORS else 1 - 1e-9):  # else nothing is wrong with it
            rows.append((goodness, -size, n, key, value))
    out = []
    for _, _, n, key, value in sorted(rows)[:count]:
        item, result = items[n], found.get(items[n].key)
        row = {"image": to_json(item.sample.image), "ask": to_json(item.ask), "metric": key, "score": value}
        row["truth"] = to_json(item.truths[0])
        if isinstance(result, Parsed):
            row["found"] = {f: [to_json(i) for i in getattr(result, f)] for f in ("texts", "regions", "groundings")}
        else:
            row["failure"] = to_json(result) if isinstance(result, Failure) else {"reason": "missing"}
        out.append(row)
    return out


def _judged(
    items: Sequence[EvalItem], found: Mapping[ItemKey, Result], labelled: bool
) -> tuple[Counter[tuple[str, str]], list[tuple[float, bool]], int]:
    """Confusion counts, (score, right) of every found region off ignored truth, and the number of true regions."""
    confusion: Counter[tuple[str, str]] = Counter()
    judged: list[tuple[float, bool]] = []
    truths = 0
    for item in items:
        result = found.get(item.key)
        regions = result.regions if isinstance(result, Parsed) else ()
        truth = [r for r in item.truths[0].regions if not r.ignore]
        ignored = [r for r in item.truths[0].regions if r.ignore]
        matched = match(truth, regions)
        by_found = {f: t for t, f, _ in matched}
        excused = {f for _, f, _ in match(ignored, regions)} if ignored else set()
        truths += len(truth)
        for f, region in enumerate(regions):
            score = 1.0 if region.score is None else region.score
            if f in by_found:
                name = truth[by_found[f]].label
                confusion[name, _as_spelt(region.label, name)] += 1
                judged.append((score, not labelled or fold_label(name) == fold_label(region.label)))
            elif f not in excused and any(region_box(region)):
                confusion[INVENTED, region.label] += 1
                judged.append((score, False))
        for t in set(range(len(truth))) - set(by_found.values()):
            confusion[truth[t].label, MISSED] += 1
    return confusion, judged, truths


def _named(items: Sequence[EvalItem], found: Mapping[ItemKey, Result]) -> Counter[tuple[str, str]]:
    confusion: Counter[tuple[str, str]] = Counter()
    for item in items:
        result = found.get(item.key)
        truth = words_of(item.truths[0])
        confusion[truth, _as_spelt(words_of(result), truth) if isinstance(result, Parsed) else MISSED] += 1
    return confusion


def _as_spelt(label: str, truth: str) -> str:
    """The label as the truth spells it, where they are equal after folding."""
    return truth if fold_label(label) == fold_label(truth) else label


def _table(confusion: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows of (truth, found, count), most frequent first."""
    return [
        {"truth": t, "found": f, "count": n} for (t, f), n in sorted(confusion.items(), key=lambda r: (-r[1], r[0]))
    ]


def _curve(judged: Sequence[tuple[float, bool]], truths: int) -> list[dict[str, float]]:
    """Precision and recall at each score, from the highest down, at most POINTS of them."""
    if not judged or not truths:
        return []
    scores = np.array([score for score, _ in judged])
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(np.array([right for _, right in judged])[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # equal scores come together
    last = last[np.unique(np.linspace(0, len(last) - 1, min(POINTS, len(last))).round().astype(int))]
    return [
        {"score": float(scores[order][i]), "precision": float(hits[i] / (i + 1)), "recall": float(hits[i] / truths)}
        for i in last
    ]


def _calibration(judged: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Ten bins of score: how many, their mean score, how many were right; and the expected calibration error."""
    bins = []
    error = 0.0
    for low in range(BINS):
        own = [(s, right) for s, right in judged if min(int(max(s, 0.0) * BINS), BINS - 1) == low]
        if own:
            score = sum(s for s, _ in own) / len(own)
            right = sum(r for _, r in own) / len(own)
            error += abs(score - right) * len(own) / len(judged)
            bins.append({"low": low / BINS, "count": len(own), "score": score, "right": right})
    return {"bins": bins, "error": error}

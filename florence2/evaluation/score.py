"""Scores from items and what was found for them, with bootstrap intervals. Knows no model and no file.

A missing answer and a failure count as an empty answer. An interval is the middle 95 % of resamples of the pictures
(their items go together). That of AP is moved so that the resamples' mean is the score: a picture drawn twice
brings each of its boxes twice, which lifts AP. Of a difference, both runs are scored on the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from florence2.evaluation.eval_items import EvalItem, ItemKey
from florence2.evaluation.metric_specs import ERRORS, MetricSpec
from florence2.records import Failure, Parsed, Result

RESAMPLES = 500  # of up to a thousand asks; fewer of more, 100 at least
ABSENT = -1.0  # AP or AR of a size that the truth does not have
SHARE = 3  # a task works when the picture brings at least a third of the score
POLICY = (
    "missing answers and failures count as empty; a missing score is 1; labels are equal after case and space are "
    "folded; ignored truth as in pycocotools"
)


class Scored:
    """One run's metrics, fed; scores over all items or over a resample of the pictures."""

    def __init__(self, spec: MetricSpec, items: Sequence[EvalItem], found: Mapping[ItemKey, Result]):
        self.spec, self.items = spec, items
        self.metrics = [make() for make in spec.metrics]
        self.rows: list[dict[str, list[int]]] = [{} for _ in self.metrics]  # metric -> picture -> its updates
        self.spans: list[list[range]] = []  # item -> metric -> its updates
        self._judge: int | None = None
        self.pictures = list(dict.fromkeys(item.image for item in items))
        for item in items:
            before = [len(metric) for metric in self.metrics]
            result = found.get(item.key)
            spec.feed(self.metrics, item, result if isinstance(result, Parsed) else Parsed())
            self.spans.append([range(start, len(metric)) for start, metric in zip(before, self.metrics)])
            for rows, span in zip(self.rows, self.spans[-1]):
                rows.setdefault(item.image, []).extend(span)

    def compute(self, drawn: Sequence[int] | None = None) -> dict[str, float]:
        """The scores; `drawn` are places in `pictures`, as often as each is to count."""
        out: dict[str, float] = {}
        for metric, rows in zip(self.metrics, self.rows):
            if not len(metric):  # no ask was of its kind
                continue
            places = None if drawn is None else [row for place in drawn for row in rows[self.pictures[place]]]
            for key, value in metric.compute(places).items():
                out.setdefault(key, value)
        return {key: value for key, value in out.items() if not self.spec.keys or key in self.spec.keys}

    def of_item(self, number: int) -> tuple[str, float]:
        """(metric, score) of one item alone; of ranked boxes their F1 with labels, which one picture can have."""
        key = "labelled_F1" if self.spec.main == "AP" else self.spec.main
        if self._judge is None:  # the metric that has the key; the ranking ones come first and are slow to compute
            places = reversed(range(len(self.metrics)))
            self._judge = next(place for place in places if key in self.metrics[place].compute([]))
        span = self.spans[number][self._judge]
        return key, self.metrics[self._judge].compute(span)[key] if len(span) else 0.0


Resamples = dict[str, list[float]]  # metric -> its value in each resample


def score(
    run: Scored,
    found: Mapping[ItemKey, Result],
    resampled: Resamples,
    blank: Scored | None = None,
    blank_resamples: Resamples | None = None,
) -> dict[str, Any]:
    """{metrics, missing, failures, intervals} and, with a blank-image baseline, {grey, gain}."""
    items = run.items
    out: dict[str, Any] = {
        "main": run.spec.main,
        "metrics": run.compute(),
        "missing": sum(q.key not in found for q in items),
        "failures": sum(isinstance(found.get(q.key), Failure) for q in items),
        "asks": len(items),
        "pictures": len(run.pictures),
        "resamples": max(map(len, resampled.values()), default=0),
        "notes": _notes(run),
        "intervals": {},
    }
    for key, values in resampled.items():
        span = _interval(key, out["metrics"][key], values)
        if span is not None:
            most = 1.0 if max(values) <= 1 else math.inf
            out["intervals"][key] = [max(span[0], 0.0), min(span[1], most)]
    if blank is not None:
        out["grey"] = {"metrics": blank.compute()}
        out["gain"] = _gains(out["metrics"], out["grey"]["metrics"], resampled, blank_resamples or {})
    return out


def _notes(run: Scored) -> list[str]:
    """What a reader of the numbers should know beside them."""
    if run.spec.main != "CIDEr" or len(run.pictures) > 1:
        return []
    return [
        "CIDEr needs several pictures: a word counts by how few of them use it, so one picture alone always scores 0; "
        "see BLEU and ROUGE_L"
    ]


def bootstrap(run: Scored, resamples: int | None = None, seed: int = 0) -> Resamples:
    """The scores of each resample of the pictures. Of equal pictures and an equal seed the resamples are the same."""
    if resamples is None:
        resamples = min(RESAMPLES, max(100, 1000 * RESAMPLES // len(run.items)))
    rng = np.random.default_rng(seed)
    count = len(run.pictures)
    resampled: Resamples = {}
    for _ in range(resamples):
        for key, value in run.compute(rng.integers(0, count, count).tolist()).items():
            resampled.setdefault(key, []).append(value)
    return resampled


def difference(
    own: float, other: float, resampled: Sequence[float], others: Sequence[float], key: str
) -> dict[str, Any]:
    """{value, interval}: by how much `own` is better (of error rates: lower), both scored on the same resamples."""
    sign = -1.0 if key in ERRORS else 1.0
    pairs = [sign * (a - b) + 0.0 for a, b in zip(resampled, others) if ABSENT not in (a, b)]
    value = sign * (own - other) + 0.0
    return {"value": value, "interval": _interval(key, value, pairs)}


def _interval(key: str, score: float, resampled: Sequence[float]) -> list[float] | None:
    """The middle 95 % of the resamples, of AP put about the score; None where no resample has a value."""
    there = np.array([value for value in resampled if value != ABSENT])
    if not len(there):
        return None
    bias = float(there.mean()) - score if key.startswith("AP") else 0.0
    low, high = np.percentile(there, [2.5, 97.5])
    return [float(low) - bias, float(high) - bias]


def _gains(
    own: Mapping[str, float], baseline: Mapping[str, float], resampled: Resamples, blank: Resamples
) -> dict[str, Any]:
    """What the picture adds, for each metric: the difference (for error rates, how much lower), its interval, and
    whether the task works: the interval excludes zero and the gain is a third of the score (baseline's error)."""
    out = {}
    for key in own:
        if ABSENT in (own[key], baseline[key]):
            continue
        gain = difference(own[key], baseline[key], resampled.get(key, ()), blank.get(key, ()), key)
        value, interval = gain["value"], gain["interval"] or [gain["value"]] * 2
        share = baseline[key] if key in ERRORS else own[key]
        works = bool(interval[0] > 0 and value > 0 and SHARE * value >= share * (1 - 1e-9))
        out[key] = {"value": value, "interval": interval, "works": works}
    return out


def table(scores: Mapping[str, Any]) -> str:
    """The scores as text: a line a metric, with its interval, the blank-image baseline and what the picture adds."""
    rows = [("metric", "score", "95% interval", "grey", "gain", "95% interval", "works")]
    gain, grey = scores.get("gain", {}), scores.get("grey", {}).get("metrics", {})
    for key, value in scores["metrics"].items():
        added = gain.get(key)
        rows.append(
            (
                f"{key} *" if key == scores.get("main") else key,
                f"{value:.4f}" if value != ABSENT else "no truth",
                _span(scores["intervals"].get(key)),
                f"{grey[key]:.4f}" if added else "",
                f"{added['value']:+.4f}" if added else "",
                _span(added["interval"]) if added else "",
                ("yes" if added["works"] else "no") if added else "",
            )
        )
    widths = [max(len(row[n]) for row in rows) for n in range(7)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += [f"the paper, times 100: {_listed(scores['paper'])}"] if scores.get("paper") else []
    lines += [f"{scores['protocol']}: {scores['note']}"] if scores.get("note") else []
    lines += scores.get("notes") or []
    strange = scores.get("unknown_labels") or {}
    if strange:
        lines.append(
            f"{sum(strange.values())} regions bear one of {len(strange)} labels that are no category of the data"
        )
    counts = f"{scores['asks']} asks, {scores['pictures']} pictures, {scores['missing']} missing"
    return "\n".join([*lines, f"{counts}, {scores['failures']} failures; {POLICY}"])


def _listed(paper: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_ft', ' fine-tuned')} {value}" for name, value in paper.items())


def _span(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def finite(value: Any) -> Any:
    """The same value, or an error where a number is not finite: scores.json never holds NaN."""
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a score is {value}; this is a fault of the metric, please report it")
    return value

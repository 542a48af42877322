"""Each rule alone against a labelled set: what it keeps of the good and of the bad at every threshold.

Rules change one another's work: `fitting` fits them together.

A region is good when the labelled picture has one of its label there (IoU 0.5, each labelled one once; for a line of
text the place decides). It is not counted where the labelled picture has no region of its kind and is not stated to be
exhaustive, nor where its label is one that the labelled set never uses. A phrase is good when the labelled
picture has it there, and is not counted where that has no such phrase. A text is good or bad as the labelled set's own
verdicts say; one it does not hold is not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from florence2.engine.curation.filters.rules import RuleFilter
from florence2.engine.curation.filters.verdicts import by_people
from florence2.engine.sample_matching import SampleIndex
from florence2.geometry import iou
from florence2.labels import fold_label
from florence2.records import Coverage, Item, Region, Sample

MATCH = 0.5  # IoU
STEPS = 200  # thresholds tried
RERUN = {"nms": tuple(round(0.3 + 0.05 * i, 2) for i in range(13))}  # a rule whose values depend on its threshold


@dataclass(frozen=True)
class Point:
    """What a threshold keeps: of the kept so many are good, of the good so many are kept."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Curve:
    """One rule, over the items of one source or length of text: the points by threshold, now and the best."""

    rule: str
    of: str  # the source, or the text's length; "" = all
    setting: str  # min or max
    unit: str
    items: int
    good: int
    points: tuple[Point, ...]
    now: Point
    best: Point


def tune(samples: Iterable[Sample], labelled: Iterable[Sample], chain: Sequence[RuleFilter]) -> list[Curve]:
    """A curve for every rule of the chain that has a threshold and items to judge; ValueError where nothing matches.

    What earlier rules rejected counts, what was superseded does not.
    """
    pairs, labels = labelled_pairs(samples, labelled)
    verdicts = [good_of(sample, truth, labels) for sample, truth in pairs]
    curves = []
    for rule in chain:
        setting = next((key for key in ("min", "max") if key in rule.config), "")
        if setting:
            curves += _curves(rule, setting, [sample for sample, _ in pairs], verdicts)
    return curves


def labelled_pairs(
    samples: Iterable[Sample], labelled: Iterable[Sample]
) -> tuple[list[tuple[Sample, Sample]], set[str]]:
    """(sample without verdicts, labelled sample) of each picture in both, and the labels that the set uses, folded."""
    labelled = list(labelled)
    known, labels = SampleIndex(labelled), {fold_label(r.label) for truth in labelled for r in truth.regions}
    pairs = [(_reopened(sample), truth) for sample in samples if (truth := known.find(sample)) is not None]
    if not pairs:
        raise ValueError("tune: the labelled set holds none of the pictures; its images need the same names or ids")
    return pairs, labels


def labelled_kinds(truth: Sample) -> set[str]:
    """The kinds of regions (object, text) that a labelled picture holds or covers."""
    kinds = {region.kind for region in truth.current().regions}
    return kinds | {"text" if space == "text" else "object" for space, c in truth.coverage.items() if _exhaustive(c)}


def good_of(sample: Sample, truth: Sample, labels: Collection[str] | None = None) -> dict[str, bool]:
    """Whether an item is good, by the id of each item that the labelled sample can decide.

    `labels` are those that the labelled set uses; None: any.
    """
    last = {d.item_id: d.status for d in sorted(truth.decisions, key=lambda d: (d.round, d.seq))}
    texts = {text.text: last.get(text.id, "kept") == "kept" for text in truth.texts}
    verdicts = {text.id: texts[text.text] for text in sample.texts if text.text in texts and not by_people(text)}
    current = truth.current()
    taken: set[str] = set()
    kinds = labelled_kinds(truth)
    for region in sorted(sample.regions, key=lambda r: -(1.0 if r.score is None else r.score)):
        if region.box is None or region.refines or by_people(region) or region.kind not in kinds:
            continue
        if region.kind == "object" and labels is not None and fold_label(region.label) not in labels:
            continue
        free = [
            r for r in current.regions if r.id not in taken and r.box and r.kind == region.kind and _named(r, region)
        ]
        best = _best(region, free)
        if best is not None:
            taken.add(best.id)
        if best is None or not best.ignore:
            verdicts[region.id] = best is not None
    places = {r.id: r for r in sample.regions}
    true_places = {r.id: r for r in current.regions}
    for phrase in sample.groundings:
        same = [g for g in current.groundings if fold_label(g.phrase) == fold_label(phrase.phrase)]
        there = [true_places[i] for g in same for i in g.region_ids if i in true_places]
        found = [places[i] for i in phrase.region_ids if i in places]
        if same and not by_people(phrase):
            verdicts[phrase.id] = any(_best(region, there) is not None for region in found)
    return verdicts


def _reopened(sample: Sample) -> Sample:
    """The sample without verdicts, and without what was superseded."""
    superseded = tuple(d for d in sample.decisions if d.status != "rejected")
    return dataclasses.replace(sample, decisions=superseded).current()


def _named(one: Region, two: Region) -> bool:
    return one.kind == "text" or fold_label(one.label) == fold_label(two.label)


def _exhaustive(states: Iterable[Coverage]) -> bool:
    return any(coverage.state == "exhaustive" for coverage in states)


def _best(region: Region, others: Sequence[Region]) -> Region | None:
    boxed = [other for other in others if other.box is not None]
    if not boxed or region.box is None:
        return None
    overlaps = iou(np.array([region.box]), np.array([other.box for other in boxed]))[0]
    return boxed[int(overlaps.argmax())] if overlaps.max() >= MATCH else None


def _curves(
    rule: RuleFilter, setting: str, samples: Sequence[Sample], verdicts: Sequence[dict[str, bool]]
) -> list[Curve]:
    if rule.spec.name in RERUN:
        tried = {
            t: _seen(RuleFilter(rule.spec.name, {**rule.config, setting: t}), samples, verdicts) for t in RERUN["nms"]
        }
        points = [_point(t, [(kept, good) for _, _, kept, good, _ in seen]) for t, seen in tried.items()]
        seen = _seen(rule, samples, verdicts)
        now = _point(float(rule.config[setting]), [(kept, good) for _, _, kept, good, _ in seen])
        return [_curve(rule, "", setting, [good for *_, good, _ in seen], points, now)] if seen else []
    groups: dict[str, list[tuple[float, float, bool, bool]]] = {}
    by_detail = isinstance(rule.config[setting], dict)
    for _, value, kept, good, (detail, source, threshold) in _seen(rule, samples, verdicts):
        of = detail if by_detail else source
        groups.setdefault(of, []).append((value, threshold, kept, good))
    curves = []
    for of, rows in sorted(groups.items()):
        values = np.array([value for value, *_ in rows])
        oks = [ok for *_, ok in rows]
        tries = np.unique(np.quantile(values, np.linspace(0, 1, STEPS), method="nearest"))
        passes = [values >= t if setting == "min" else values <= t for t in tries]
        points = [_point(float(t), list(zip(p.tolist(), oks))) for t, p in zip(tries, passes)]
        now = _point(rows[0][1], [(kept, ok) for _, _, kept, ok in rows])
        curves.append(_curve(rule, of, setting, oks, points, now))
    return curves


def _seen(
    rule: RuleFilter, samples: Sequence[Sample], verdicts: Sequence[dict[str, bool]]
) -> list[tuple[str, float, bool, bool, tuple[str, str, float]]]:
    """(id, value, kept, good, (detail, source, threshold)) of all that the rule judges and the labels tell of."""
    rows = []
    for sample, known in zip(samples, verdicts):
        everything: list[Item] = [*sample.texts, *sample.regions, *sample.groundings]
        items = {item.id: item for item in everything}
        for verdict in rule.verdicts(sample):
            if verdict.item_id in known and verdict.value is not None and verdict.threshold is not None:
                item = items[verdict.item_id]
                source = item.source.name if item.source else ""
                where = (getattr(item, "detail", ""), source, verdict.threshold)
                rows.append((verdict.item_id, verdict.value, verdict.status == "kept", known[verdict.item_id], where))
    return rows


def _point(threshold: float, rows: Sequence[tuple[bool, bool]]) -> Point:
    both = sum(kept and good for kept, good in rows)
    kept, good = sum(kept for kept, _ in rows), sum(good for _, good in rows)
    precision, recall = both / kept if kept else 1.0, both / good if good else 1.0
    return Point(threshold, precision, recall, 2 * precision * recall / (precision + recall) if both else 0.0)


def _curve(rule: RuleFilter, of: str, setting: str, good: Sequence[bool], points: Sequence[Point], now: Point) -> Curve:
    best = max([now, *points], key=lambda p: (round(p.f1, 9), -abs(p.threshold - now.threshold)))
    unit = rule.rule.unit
    return Curve(rule.spec.name, of, setting, unit, len(good), sum(good), tuple(points), now, best)


def to_text(curves: Sequence[Curve]) -> str:
    """A line a curve: what the rule keeps now, and what it would keep at the best value."""
    rows = [f"{'rule':18} {'of':14} {'items':>6} {'good':>6}   {'now':>8}  {'P':>5} {'R':>5} {'F1':>5}   {'best':>8}  "
            f"{'P':>5} {'R':>5} {'F1':>5}"]  # fmt: skip
    for c in curves:
        figures = "   ".join(
            f"{p.threshold:8.3g}  {p.precision:5.3f} {p.recall:5.3f} {p.f1:5.3f}" for p in (c.now, c.best)
        )
        rows.append(f"{c.rule:18} {c.of:14} {c.items:6} {c.good:6}   {figures}")
    return "\n".join(rows)

"""Precision, recall and F1 of boxes at one IoU threshold, and how many of the matched boxes are rightly named.

Boxes are matched without looking at labels, so that where and what are two numbers. Ignored truth costs nothing and
gains nothing. Not a ranking metric: scores play no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2 import geometry
from florence2.labels import fold_label
from florence2.metrics.rows import table
from florence2.records import Box, Region

NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)


def region_box(region: Region) -> Box:
    """The region's box, or the box around its quad, polygons or mask; NO_BOX where it has no place."""
    return geometry.region_box(region) or NO_BOX


def match(truth: Sequence[Region], found: Sequence[Region], threshold: float = 0.5) -> list[tuple[int, int, float]]:
    """(truth index, found index, IoU), each index once, the best overlaps first, equal labels first among equals."""
    overlap = geometry.iou([region_box(r) for r in truth], [region_box(r) for r in found])
    pairs = [(float(overlap[t, f]), t, f) for t, f in np.argwhere(overlap >= threshold).tolist()]
    pairs.sort(key=lambda p: (-p[0], fold_label(truth[p[1]].label) != fold_label(found[p[2]].label), p[1], p[2]))
    taken_truth: set[int] = set()
    taken_found: set[int] = set()
    matched = []
    for iou, t, f in pairs:
        if t not in taken_truth and f not in taken_found:
            taken_truth.add(t)
            taken_found.add(f)
            matched.append((t, f, iou))
    return matched


def f1(precision: float, recall: float) -> float:
    """The harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def ratio(part: float, whole: float, empty: float = 0.0) -> float:
    """part / whole, and `empty` where there is no whole."""
    return float(part) / float(whole) if whole else empty


class DetectionF1:
    """precision, recall, F1 of boxes at IoU `threshold`; label_accuracy over the matched; labelled_F1 counts a match
    only when the labels are equal too. No truth and nothing found is perfect."""

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold
        self.rows: list[tuple[int, int, int, int]] = []  # truth, found, matched, matched with equal labels

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, truth: Sequence[Region], found: Sequence[Region]) -> None:
        """Add one picture."""
        scored = [r for r in truth if not r.ignore]
        matched = match(scored, found, self.threshold)
        rest = [r for i, r in enumerate(found) if i not in {f for _, f, _ in matched}]
        excused = _inside_ignored([r for r in truth if r.ignore], rest, self.threshold)
        named = sum(fold_label(scored[t].label) == fold_label(found[f].label) for t, f, _ in matched)
        self.rows.append((len(scored), len(found) - excused, len(matched), named))

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The scores over all updates, or over those named by `rows`."""
        truth, found, matched, named = table(self.rows, rows, 4).sum(axis=0)
        nothing = 0.0 if truth or found else 1.0
        precision, recall = ratio(matched, found, nothing), ratio(matched, truth, nothing)
        labelled = f1(ratio(named, found, nothing), ratio(named, truth, nothing))
        return {
            "precision": precision,
            "recall": recall,
            "F1": f1(precision, recall),
            "label_accuracy": ratio(named, matched, nothing),
            "labelled_F1": labelled,
        }


def _inside_ignored(ignored: Sequence[Region], rest: Sequence[Region], threshold: float) -> int:
    """How many found boxes lie mostly inside an ignored one (as pycocotools counts crowds)."""
    if not ignored or not rest:
        return 0
    boxes = geometry.as_boxes([region_box(r) for r in rest])
    shared = geometry.intersection(boxes, [region_box(r) for r in ignored]).max(axis=1)
    return int((shared >= threshold * np.maximum(geometry.area(boxes), 1e-9)).sum())

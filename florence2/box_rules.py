"""The arithmetic of rules about boxes, for answers and for stores alike: which are kept, and by what measure.

Each function gets (N, 4) boxes x1, y1, x2, y2 in pixels and gives arrays of N; who judges, what is spared and what a
verdict is called is decided above. Knows no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from florence2 import geometry

WHOLE_IMAGE = 0.95  # share of the picture above which a box is the whole of it
NMS_IOU = 0.6  # overlap above which two boxes are one
CONTAINED = 0.9  # share of a box's area within another from which it is contained
CONTAINS = 2  # boxes of its own label that make a box a container


class Suppression(NamedTuple):
    """What NMS decides of each box: whether it is kept, its measure, and the box it lost to (-1: none)."""

    kept: np.ndarray
    value: np.ndarray
    winner: np.ndarray


def sides(boxes: object) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights, none below 0."""
    b = geometry.as_boxes(boxes)
    return np.maximum(b[:, 2] - b[:, 0], 0), np.maximum(b[:, 3] - b[:, 1], 0)


def shorter_side(boxes: object) -> np.ndarray:
    """The shorter side in pixels."""
    return np.asarray(np.minimum(*sides(boxes)))


def aspect(boxes: object) -> np.ndarray:
    """The longer side over the shorter."""
    width, height = sides(boxes)
    return np.asarray(np.maximum(width, height) / np.maximum(np.minimum(width, height), 1e-6))


def picture_share(boxes: object, size_wh: tuple[float, float]) -> np.ndarray:
    """The box's share of the picture's area; 0 in a picture of unknown size."""
    picture = size_wh[0] * size_wh[1]
    width, height = sides(boxes)
    return np.asarray(width * height / picture) if picture else np.zeros(len(width))


def is_valid(boxes: object, size_wh: tuple[float, float]) -> np.ndarray:
    """Whether the box is finite and has an area inside the picture."""
    b = geometry.as_boxes(boxes)
    finite = np.isfinite(b).all(axis=1)
    return np.asarray(finite & (geometry.area(geometry.clip(np.where(finite[:, None], b, 0), size_wh)) > 0))


def nms(boxes: object, scores: object, threshold: float, labels: Sequence[object] | None = None) -> Suppression:
    """`geometry.nms`, with each box's IoU with the kept box (of its label) that it overlaps most."""
    boxes, scores = geometry.as_boxes(boxes), np.asarray(scores, dtype=np.float64)
    order = geometry.nms(boxes, scores, threshold, labels)
    codes = _codes(labels, len(boxes))
    kept, value, winner = np.zeros(len(boxes), bool), np.zeros(len(boxes)), np.full(len(boxes), -1)
    kept[order] = True
    near = geometry.neighbours(boxes[order])
    for i in range(len(boxes)):
        others = order[near(boxes[i])]  # by descending score
        others = others[(others != i) & (codes[others] == codes[i])]
        if len(others):
            overlaps = geometry.iou(boxes[i], boxes[others])[0]
            best = int(overlaps.argmax())
            value[i] = overlaps[best]
            winner[i] = -1 if kept[i] else others[best]
    return Suppression(kept, value, winner)


def soft_nms(
    boxes: object, scores: object, sigma: float, floor: float, labels: Sequence[object] | None = None
) -> Suppression:
    """`geometry.soft_nms`: kept where the decayed score, the measure, is at least `floor` or was below it before."""
    boxes, scores = geometry.as_boxes(boxes), np.asarray(scores, dtype=np.float64)
    order, decayed = geometry.soft_nms(boxes, scores, sigma, 0.0, labels)
    codes, value = _codes(labels, len(boxes)), np.zeros(len(boxes))
    value[order] = decayed
    kept = value >= np.minimum(floor, scores)
    winner = np.full(len(boxes), -1)
    for i in np.flatnonzero(~kept).tolist():
        overlaps = geometry.iou(boxes[i], boxes)[0] * (codes == codes[i])
        better = [k for k in np.flatnonzero((overlaps > 0) & (scores >= scores[i])).tolist() if k != i]
        winner[i] = max(better, key=lambda k: overlaps[k]) if better else -1
    return Suppression(kept, value, winner)


def contained_count(boxes: object, labels: Sequence[object] | None = None, share: float = CONTAINED) -> np.ndarray:
    """How many smaller boxes (of its label) lie in each box by at least `share` of their area."""
    boxes = geometry.as_boxes(boxes)
    codes, areas, near = _codes(labels, len(boxes)), geometry.area(boxes), geometry.neighbours(boxes)
    counts = np.zeros(len(boxes), dtype=np.int64)
    for i in range(len(boxes)):
        others = near(boxes[i])
        others = others[(codes[others] == codes[i]) & (areas[others] < areas[i]) & (areas[others] > 0)]
        counts[i] = (geometry.intersection(boxes[i], boxes[others])[0] >= share * areas[others]).sum()
    return counts


def _codes(labels: Sequence[object] | None, count: int) -> np.ndarray:
    numbers = {label: n for n, label in enumerate(dict.fromkeys(labels or ()))}
    return np.array([numbers[label] for label in labels] if labels is not None else [0] * count, dtype=np.int64)

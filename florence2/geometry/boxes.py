"""Boxes: x1, y1, x2, y2 in float pixels; many are an (N, 4) array."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from florence2.geometry.neighbours import neighbours
from florence2.records import Box


def as_boxes(boxes: object) -> np.ndarray:
    """Anything box-like as a float64 array (N, 4)."""
    array = np.asarray(boxes, dtype=np.float64)
    return array.reshape(0, 4) if array.size == 0 else array.reshape(-1, 4)


def area(boxes: object) -> np.ndarray:
    """(N,) areas; a box turned inside out has none."""
    b = as_boxes(boxes)
    return np.asarray(np.maximum(b[:, 2] - b[:, 0], 0) * np.maximum(b[:, 3] - b[:, 1], 0))


def box_area(box: Box | None) -> float:
    """The area of one box in plain floats, negative for one turned inside out; 0 where there is none."""
    return 0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def intersection(a: object, b: object) -> np.ndarray:
    """(N, M) areas shared by each box of `a` with each of `b`."""
    a, b = as_boxes(a), as_boxes(b)
    wide = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    high = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.asarray(np.maximum(wide, 0) * np.maximum(high, 0))


def iou(a: object, b: object) -> np.ndarray:
    """(N, M) intersection over union in [0, 1]; 0 where both boxes are empty."""
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b)[None, :] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def clip(boxes: object, size_wh: tuple[float, float]) -> np.ndarray:
    """(N, 4) boxes cut at the picture's edges."""
    w, h = size_wh
    return np.asarray(np.clip(as_boxes(boxes), 0, np.array([w, h, w, h], dtype=np.float64)))


def ordered(box: Sequence[float]) -> Box:
    """The box with its corners in order."""
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def nms(boxes: object, scores: object, threshold: float, labels: Sequence[object] | None = None) -> np.ndarray:
    """Indices kept, by descending score: a box goes whose IoU with a kept one (of its label) is above `threshold`."""
    boxes, order = as_boxes(boxes), _descending(scores)
    same = _same_label(labels, len(boxes))
    kept = []
    alive = np.ones(len(boxes), dtype=bool)
    near = neighbours(boxes) if threshold >= 0 else lambda box: np.arange(len(boxes))
    for i in order:
        if alive[i]:
            kept.append(int(i))
            others = near(boxes[i])
            others = others[alive[others] & same(i, others)]
            alive[others[iou(boxes[i], boxes[others])[0] > threshold]] = False
    return np.array(kept, dtype=np.int64)


def soft_nms(
    boxes: object, scores: object, sigma: float = 0.5, floor: float = 0.001, labels: Sequence[object] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(indices, decayed scores) by descending decayed score: overlap lowers a score by exp(-iou^2 / sigma) instead of
    removing the box; what is below `floor` is removed. Gaussian rule of https://arxiv.org/abs/1704.04503."""
    boxes, left = as_boxes(boxes), np.array(scores, dtype=np.float64).reshape(-1)
    same, everyone = _same_label(labels, len(boxes)), np.arange(len(boxes))
    kept, final = [], []
    while len(left) and left.max() >= floor:
        i = int(left.argmax())
        kept.append(i)
        final.append(left[i])
        left = np.where(same(i, everyone), left * np.exp(-(iou(boxes[i], boxes)[0] ** 2) / sigma), left)
        left[i] = -np.inf
    return np.array(kept, dtype=np.int64), np.array(final, dtype=np.float64)


def _descending(scores: object) -> np.ndarray:
    return np.argsort(-np.asarray(scores, dtype=np.float64).reshape(-1), kind="stable")


def _same_label(labels: Sequence[object] | None, count: int) -> Callable[[int, np.ndarray], np.ndarray]:
    numbers = {label: n for n, label in enumerate(dict.fromkeys(labels or ()))}
    codes = np.array([numbers[label] for label in labels] if labels is not None else [0] * count, dtype=np.int64)
    return lambda i, others: np.asarray(codes[others] == codes[i])

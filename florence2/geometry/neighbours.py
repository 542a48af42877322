"""Which boxes may overlap, found without looking at all pairs. Knows numpy alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def neighbours(boxes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of a box the indices, rising, of all (N, 4) boxes that may overlap it, by their places from left to right."""
    order = np.argsort(boxes[:, 0], kind="stable")
    starts = boxes[order, 0]
    widest = np.fmax.reduce(boxes[:, 2] - boxes[:, 0], initial=0.0)

    def near(box: np.ndarray) -> np.ndarray:
        first, last = np.searchsorted(starts, box[0] - widest, "left"), np.searchsorted(starts, box[2], "right")
        return np.sort(order[first:last])

    return near

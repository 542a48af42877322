"""Pixels to <loc_0> .. <loc_999> and back: the half-bin rule. Knows nothing of tokens' ids or of tasks.

All arithmetic is float32, as in the reference: a bin is `size / 1000` wide (the quotient rounded once to float32), a
value is in bin `floor(value / width)` by true division, and a bin reads back as its centre.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

BINS = 1000


def bin_widths(size_wh: tuple[int, int]) -> np.ndarray:
    """Width and height of one bin in pixels, float32 (2,)."""
    try:
        width, height = size_wh
        good = 0 < width < math.inf and 0 < height < math.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(
            f"size_wh: expected a positive (width, height), got {size_wh!r:.80}; give the upright image's size"
        )
    return np.array([width / BINS, height / BINS], dtype=np.float32)


def quantize(xy: Sequence[float] | np.ndarray, size_wh: tuple[int, int]) -> list[int]:
    """Bins of flat x, y, x, y ... pixels; values outside the picture go to its edge."""
    values = np.asarray(xy, dtype=np.float64)
    if values.ndim != 1 or len(values) % 2 or not np.isfinite(values).all():
        raise ValueError(f"coordinates: expected finite x, y pairs, got {list(xy)!r:.100}; drop or mend the item")
    with np.errstate(over="ignore"):
        bins = np.floor(values.astype(np.float32).reshape(-1, 2) / bin_widths(size_wh))
    return [int(value) for value in np.clip(bins, 0, BINS - 1).ravel().tolist()]


def dequantize(bins: Sequence[int], size_wh: tuple[int, int]) -> tuple[float, ...]:
    """Pixels at the centres of flat x, y, x, y ... bins."""
    centres = (np.asarray(bins, dtype=np.float32).reshape(-1, 2) + np.float32(0.5)) * bin_widths(size_wh)
    return tuple(centres.ravel().tolist())


def location(index: int) -> str:
    """The token of a bin as text."""
    return f"<loc_{index}>"

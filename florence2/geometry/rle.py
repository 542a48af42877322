"""Masks as run lengths, and polygons drawn as masks: COCO's rules, to the byte.

A mask is (H, W) bool. https://github.com/cocodataset/cocoapi (common/maskApi.c).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.geometry.polygons import points
from florence2.records import Box, Rle


def encode_rle(mask: np.ndarray) -> Rle:
    """A (H, W) mask as COCO's compressed run lengths."""
    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 2:
        raise ValueError(f"mask: expected shape (H, W), got {mask.shape}")
    flat = mask.reshape(-1, order="F")
    switches = np.flatnonzero(np.diff(flat, prepend=False))
    return Rle(mask.shape[0], mask.shape[1], _counts_text(_runs(switches, flat.size)))


def decode_rle(rle: Rle) -> np.ndarray:
    """The (H, W) bool mask; ValueError where the runs do not fill it."""
    counts = rle_counts(rle)
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((rle.height, rle.width), order="F")


def rle_area(rle: Rle) -> int:
    """Pixels inside the mask."""
    return int(rle_counts(rle)[1::2].sum())


def rle_box(rle: Rle) -> Box | None:
    """The box around a mask's pixels, None where it has none; nothing is decoded."""
    ends = np.cumsum(rle_counts(rle))
    last = ends[1::2] - 1  # runs of the mask, in a walk down the columns
    first = ends[::2][: len(last)]
    filled = last >= first
    if not filled.any():
        return None
    first, last = first[filled], last[filled]
    left, right = first // rle.height, last // rle.height
    within = left == right
    top = np.where(within, first % rle.height, 0).min()
    bottom = np.where(within, last % rle.height, rle.height - 1).max()
    return float(left.min()), float(top), float(right.max() + 1), float(bottom + 1)


def rle_counts(rle: Rle) -> np.ndarray:
    """The run lengths, beginning with a run of background."""
    counts: list[int] = []
    value = shift = 0
    for letter in rle.counts:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError(f"mask: run lengths hold {letter!r}; expected COCO's compressed letters '0' to 'o'")
        value |= (code & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError("mask: run lengths hold a number of over 60 bits")
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift or min(counts, default=0) < 0 or sum(counts) != rle.height * rle.width:
        expected = f"{rle.height} x {rle.width} = {rle.height * rle.width}"
        raise ValueError(f"mask: run lengths fill {sum(counts)} pixels; expected {expected}")
    return np.array(counts, dtype=np.int64)


def pack_counts(counts: Sequence[int]) -> str:
    """Plain run lengths (COCO's uncompressed form) as the compressed letters."""
    return _counts_text(np.asarray(counts, dtype=np.int64))


def rle_from_polygons(polygons: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> Rle:
    """The union of polygons as COCO draws them."""
    w, h = size_wh
    if len(polygons) == 1:
        return Rle(h, w, _counts_text(_runs(_polygon_switches(polygons[0], h, w), h * w)))
    return encode_rle(rasterize(polygons, size_wh))


def rasterize(polygons: Sequence[Sequence[float]], size_wh: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, the union of polygons as COCO draws them; inside one polygon even-odd."""
    w, h = size_wh
    union = np.zeros(h * w, dtype=bool)
    for polygon in polygons:
        runs = _runs(_polygon_switches(polygon, h, w), h * w)
        union |= np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return union.reshape((h, w), order="F")


def _runs(switches: np.ndarray, size: int) -> np.ndarray:
    """Places where a column-major mask changes -> run lengths."""
    inner = switches[switches < size]
    return np.diff(np.concatenate([[0], inner, [size]])).astype(np.int64)


def _counts_text(counts: np.ndarray) -> str:
    letters = []
    for i, count in enumerate(counts.tolist()):
        value = count - int(counts[i - 2]) if i > 2 else count
        more = True
        while more:
            code = value & 31
            value >>= 5
            more = value != -1 if code & 16 else value != 0
            letters.append(chr(48 + (code | 32 if more else code)))
    return "".join(letters)


def _polygon_switches(polygon: Sequence[float] | np.ndarray, h: int, w: int) -> np.ndarray:
    """Where the column-major mask of one polygon changes: rleFrPoly of maskApi.c, five steps to a pixel."""
    scaled = np.trunc(5 * points(polygon) + 0.5).astype(np.int64)
    if not len(scaled) or not h * w:
        return np.zeros(0, dtype=np.int64)
    u, v = _dense_outline(scaled)
    turn = np.flatnonzero(u[1:] != u[:-1]) + 1
    x = (np.where(u[turn] < u[turn - 1], u[turn], u[turn] - 1) + 0.5) / 5 - 0.5
    y = (np.minimum(v[turn], v[turn - 1]) + 0.5) / 5 - 0.5
    on_column = (np.floor(x) == x) & (x >= 0) & (x <= w - 1)
    places = x[on_column].astype(np.int64) * h + np.ceil(np.clip(y[on_column], 0, h)).astype(np.int64)
    unique, times = np.unique(places, return_counts=True)
    return np.asarray(unique[times % 2 == 1])


def _dense_outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every lattice point along the closed ring, corners counted for each of their edges."""
    start, end = corners, np.roll(corners, -1, axis=0)
    steps = np.abs(end - start).max(axis=1)
    edge = np.repeat(np.arange(len(start)), steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    dx, dy = np.abs(end - start).T
    along_x = dx >= dy
    flip = np.where(along_x, start[:, 0] > end[:, 0], start[:, 1] > end[:, 1])
    low = np.where(flip[:, None], end, start)
    rise = np.where(flip[:, None], start, end) - low
    t = np.where(flip[edge], steps[edge] - step, step)
    main, cross = np.where(along_x, 0, 1), np.where(along_x, 1, 0)
    rows = np.arange(len(start))
    slope = rise[rows, cross] / np.maximum(steps, 1)
    moved = t + low[rows, main][edge]
    other = np.trunc(low[rows, cross][edge] + slope[edge] * t + 0.5).astype(np.int64)
    return np.where(along_x[edge], moved, other), np.where(along_x[edge], other, moved)

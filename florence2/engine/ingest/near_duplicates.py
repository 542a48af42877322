"""Whether two pictures are one picture, resized, encoded again or cut at the edges; judged on their pixels.

Look-alikes are not: receipts of one shop, pages of text, frames with one background. So the pictures are laid over each
other (shift and scale a side, by Gauss-Newton on grey levels from coarse to fine), and every part of one must have the
same pattern in the other: `agreement` is the block correlation that all but two blocks in a hundred exceed. Two
receipts of one meal differ only in their details.
"""

from __future__ import annotations

import numpy as np

from florence2 import pixels

COARSE, FINE = 256, 768  # pixels of the longer side at which pictures are compared: all of them; where both have more
FINEST_AT = 1.5  # times COARSE: from here on details are compared
TEXTURE = 6.0  # grey levels: blocks whose standard deviation is below this in both pictures hold nothing to compare
SAME, SAME_DETAILS = 0.78, 0.7  # agreement of one picture with itself; measured in docs/log.md
POSSIBLE = 0.5  # below this at COARSE, details are not compared
CUT = 0.05  # of a side: how much of a picture may have been cut away
GRID = 12  # cells a side of a signature
LIKELY = 0.86  # likeness of signatures from which pictures are compared

_Map = np.ndarray  # (scale y, shift y, scale x, shift x) from one picture's unit coordinates to the other's


def signature(array: np.ndarray) -> np.ndarray:
    """(10, GRID * GRID) float16 of a picture (HWC uint8): its normed coarse grey levels, whole and with a margin cut.

    The product of one picture's first row with another's rows is their likeness, in [-1, 1].
    """
    step = max(1, min(array.shape[:2]) // 256)
    small = np.ascontiguousarray(array[::step, ::step])
    height, width = small.shape[:2]
    windows = [(0.0, 0.0, 1.0)] + [(CUT * y / 2, CUT * x / 2, 1 - CUT) for y in range(3) for x in range(3)]
    rows = []
    for top, left, kept in windows:
        y, x = round(height * top), round(width * left)
        part = small[y : max(y + 1, round(height * (top + kept))), x : max(x + 1, round(width * (left + kept)))]
        cells = pixels.resize(np.ascontiguousarray(part), (GRID, GRID)).astype(np.float32).mean(axis=2).ravel()
        cells -= cells.mean()
        rows.append(cells / (np.linalg.norm(cells) + 0.1 * GRID))
    return np.stack(rows).astype(np.float16)


def grey(array: np.ndarray) -> np.ndarray:
    """HWC uint8 as grey levels (H, W) uint8, the longer side at most FINE pixels."""
    scale = min(1.0, FINE / max(array.shape[:2]))
    height, width = (max(8, round(side * scale)) for side in array.shape[:2])
    return pixels.resize(array, (width, height)).mean(axis=2).round().astype(np.uint8)


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two `grey` pictures are one picture: all parts agree, and where both show more, the details too."""
    small, small_other = _smooth(one, COARSE), _smooth(other, COARSE)
    coarse = _aligned(small, small_other)
    found = agreement(small, small_other, coarse, COARSE // 12)
    side = min(max(one.shape), max(other.shape))
    if found < POSSIBLE or side < FINEST_AT * COARSE:
        return found >= SAME
    large, large_other = _smooth(one, side), _smooth(other, side)
    by = _refined(large, large_other, coarse, steps=3)
    return agreement(large, large_other, by, max(16, side // 24)) >= SAME_DETAILS


def agreement(one: np.ndarray, other: np.ndarray, by: _Map, block: int) -> float:
    """How well grey levels agree everywhere once `other` is laid over `one`, in [-1, 1]: by squares of `block` pixels.

    Pictures without any pattern are compared as a whole by their grey levels: 1.0 where these are nearly equal.
    """
    laid, inside = _warped(other, one.shape, by)
    if inside.mean() < 0.8:
        return -1.0
    found = []
    for y in range(0, one.shape[0] - block // 2, block):
        for x in range(0, one.shape[1] - block // 2, block):
            here = inside[y : y + block, x : x + block]
            if here.mean() >= 0.6:
                p, q = one[y : y + block, x : x + block][here], laid[y : y + block, x : x + block][here]
                if max(p.std(), q.std()) > TEXTURE:
                    found.append(_correlation(p, q))
    if not found:
        return 1.0 if float(np.abs(one - laid)[inside].mean()) < TEXTURE else -1.0
    return float(np.percentile(found, 2))


def _smooth(array: np.ndarray, side: int) -> np.ndarray:
    """A `grey` picture at another size, float32, its grain smoothed away."""
    scale = side / max(array.shape)
    height, width = (max(8, round(length * scale)) for length in array.shape)
    sharp = np.pad(pixels.resize(array, (width, height)).astype(np.float32), 1, mode="edge")
    rows = sharp[:-2] + sharp[1:-1] + sharp[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def _aligned(one: np.ndarray, other: np.ndarray) -> _Map:
    """The map that lays `other` over `one` best, of several starts: as they are, or one cut at a corner."""
    whole = 1 - CUT
    starts = [(1.0, 0.0, 1.0, 0.0)]
    starts += [(whole, y, whole, x) for y in (0.0, CUT) for x in (0.0, CUT)]
    starts += [(1 / whole, -y / whole, 1 / whole, -x / whole) for y in (0.0, CUT) for x in (0.0, CUT)]
    maps = [np.array(start) for start in starts]
    for factor, keep in ((8, 3), (4, 2), (2, 1), (1, 1)):
        a, b = _shrunk(one, factor), _shrunk(other, factor)
        if min(*a.shape, *b.shape) < 6:
            continue
        tried = [found for start in maps for found in (start, _refined(a, b, start))]
        tried.sort(key=lambda found: -_overall(a, b, found))
        maps = []
        for found in tried:
            if len(maps) < keep and all(np.abs(found - kept).max() > 0.004 for kept in maps):
                maps.append(found)
    return maps[0]


def _refined(a: np.ndarray, b: np.ndarray, start: _Map, steps: int = 6) -> _Map:
    """Gauss-Newton on b(map) = gain * a + offset over what both show."""
    (height, width), (b_height, b_width) = a.shape, b.shape
    u = ((np.arange(height) + 0.5) / height)[:, None] + np.zeros_like(a)
    v = ((np.arange(width) + 0.5) / width)[None] + np.zeros_like(a)
    slope_y, slope_x = np.gradient(b)
    found = start
    for _ in range(steps):
        laid, inside = _warped(b, a.shape, found)
        down = _warped(slope_y, a.shape, found)[0] * b_height
        across = _warped(slope_x, a.shape, found)[0] * b_width
        jacobian = np.stack([down * u, down, across * v, across, -a, -np.ones_like(a)], -1)[inside]
        normal = jacobian.T @ jacobian
        normal[np.diag_indices(6)] += 1e-3 * np.diag(normal) + 1e-6
        move = np.linalg.solve(normal, jacobian.T @ -laid[inside])[:4]
        found = found + move
        found[[0, 2]] = found[[0, 2]].clip(0.8, 1.25)
        found[[1, 3]] = found[[1, 3]].clip(-0.2, 0.2)
        if np.abs(move).max() < 1e-4:
            break
    return found


def _warped(b: np.ndarray, shape: tuple[int, ...], by: _Map) -> tuple[np.ndarray, np.ndarray]:
    """`b` seen at the pixels of a picture of `shape`, bilinear, and which of these pixels `b` shows."""
    rows, columns = (
        ((np.arange(size) + 0.5) / size * scale + shift) * b_size - 0.5
        for size, b_size, (scale, shift) in zip(shape, b.shape, (by[:2], by[2:]))
    )
    y, x = rows.clip(0, b.shape[0] - 1.001), columns.clip(0, b.shape[1] - 1.001)
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (y - y0)[:, None].astype(np.float32), (x - x0)[None].astype(np.float32)
    mixed = b[y0] * (1 - fy) + b[y0 + 1] * fy
    mixed = mixed[:, x0] * (1 - fx) + mixed[:, x0 + 1] * fx
    shown = [(at >= -0.5) & (at <= size - 0.5) for at, size in zip((rows, columns), b.shape)]
    return mixed, shown[0][:, None] & shown[1][None]


def _shrunk(a: np.ndarray, factor: int) -> np.ndarray:
    height, width = (side // factor for side in a.shape)
    return a[: height * factor, : width * factor].reshape(height, factor, width, factor).mean(axis=(1, 3))


def _overall(a: np.ndarray, b: np.ndarray, by: _Map) -> float:
    laid, inside = _warped(b, a.shape, by)
    return _correlation(a[inside], laid[inside]) if inside.sum() >= 16 else -1.0


def _correlation(p: np.ndarray, q: np.ndarray) -> float:
    p, q = p - p.mean(), q - q.mean()
    return float((p * q).sum() / np.sqrt((p * p).sum() * (q * q).sum() + 1e-6))

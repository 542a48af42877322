"""Boxes, polygons and masks as numpy arrays. Knows no record but `Rle`, no picture and no file.

A box is x1, y1, x2, y2 in float pixels; many are an (N, 4) array. A polygon is flat x, y, x, y, ...; a mask is
(H, W) bool. Run lengths and the rasterizer are COCO's, to the byte:
https://github.com/cocodataset/cocoapi (common/maskApi.c).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from florence2.neighbours import neighbours
from florence2.records import Box, Polygon, Region, Rle

# ---- boxes


def as_boxes(boxes: object) -> np.ndarray:
    """Anything box-like as a float64 array (N, 4)."""
    array = np.asarray(boxes, dtype=np.float64)
    return array.reshape(0, 4) if array.size == 0 else array.reshape(-1, 4)


def area(boxes: object) -> np.ndarray:
    """(N,) areas; a box turned inside out has none."""
    b = as_boxes(boxes)
    return np.asarray(np.maximum(b[:, 2] - b[:, 0], 0) * np.maximum(b[:, 3] - b[:, 1], 0))


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
    removing the box; what falls below `floor` goes. Gaussian rule of https://arxiv.org/abs/1704.04503."""
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


# ---- polygons


def points(polygon: Sequence[float] | np.ndarray) -> np.ndarray:
    """A flat polygon as an (N, 2) array."""
    return np.asarray(polygon, dtype=np.float64).reshape(-1, 2)


def polygon_area(polygon: Sequence[float] | np.ndarray) -> float:
    """The area enclosed (shoelace), whatever the direction."""
    x, y = points(polygon).T if len(polygon) else (np.zeros(0), np.zeros(0))
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def polygon_box(*polygons: Sequence[float]) -> Box:
    """The box around one polygon or several."""
    xy = np.concatenate([points(p) for p in polygons])
    (x1, y1), (x2, y2) = xy.min(axis=0), xy.max(axis=0)
    return float(x1), float(y1), float(x2), float(y2)


def region_box(region: Region) -> Box | None:
    """The region's box, else the box around its quad, its polygons or its mask; None where it has no place."""
    if region.box is not None:
        return region.box
    if region.quad or region.polygons:
        return polygon_box(*([region.quad] if region.quad else region.polygons))
    if region.mask is None:
        return None
    ys, xs = np.nonzero(decode_rle(region.mask))
    return (float(xs.min()), float(ys.min()), float(xs.max()) + 1, float(ys.max()) + 1) if len(xs) else None


def box_quad(box: Sequence[float]) -> Polygon:
    """The four corners of a box, clockwise from the top left."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1, y1, x2, y1, x2, y2, x1, y2


Point = tuple[float, float]


def convex_hull(polygon: Sequence[float] | np.ndarray) -> list[Point]:
    """The hull's corners in order of increasing angle (Andrew's chains); fewer than 3 for a line."""
    corners = sorted(set(map(tuple, points(polygon).tolist())))

    def chain(row: list[Point]) -> list[Point]:
        out: list[Point] = []
        for x, y in row:
            while len(out) > 1:
                (ax, ay), (bx, by) = out[-2], out[-1]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                out.pop()
            out.append((x, y))
        return out[:-1]

    return chain(corners) + chain(corners[::-1])


def convex_area(polygon: Sequence[float] | np.ndarray) -> float:
    """The area of the hull: of a quad whose corners are out of order, the place it means."""
    return _ring_area(convex_hull(polygon))


def quad_intersection(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> np.ndarray:
    """(N, M) areas shared by the hulls of each polygon of `a` with each of `b` (Sutherland-Hodgman)."""
    out = np.zeros((len(a), len(b)))
    if not out.size:
        return out
    close = intersection([polygon_box(p) for p in a], [polygon_box(p) for p in b]) > 0
    hulls_a, hulls_b = [convex_hull(p) for p in a], [convex_hull(p) for p in b]
    for i, j in np.argwhere(close).tolist():
        out[i, j] = _ring_area(_cut(hulls_a[i], hulls_b[j]))
    return out


def _ring_area(ring: list[Point]) -> float:
    """Shoelace in plain floats: a few corners are done before numpy has begun."""
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(ring, ring[1:] + ring[:1]))) / 2


def _cut(subject: list[Point], hull: list[Point]) -> list[Point]:
    """The part of a convex ring inside a hull."""
    for (sx, sy), (ex, ey) in zip(hull, hull[1:] + hull[:1]):
        dx, dy = ex - sx, ey - sy
        sides = [dx * (y - sy) - dy * (x - sx) for x, y in subject]
        kept: list[Point] = []
        for k, (q, sq) in enumerate(zip(subject, sides)):
            p, sp = subject[k - 1], sides[k - 1]
            if (sp > 0 > sq) or (sp < 0 < sq):
                t = sp / (sp - sq)
                kept.append((p[0] + (q[0] - p[0]) * t, p[1] + (q[1] - p[1]) * t))
            if sq >= 0:
                kept.append(q)
        subject = kept
    return subject


def simplify(polygon: Sequence[float] | np.ndarray, tolerance: float) -> Polygon:
    """The ring with fewer corners, none dropped that lies over `tolerance` pixels off (Douglas-Peucker); 3 at least."""
    xy = points(polygon)
    if len(xy) <= 3:
        return tuple(float(v) for v in xy.reshape(-1))
    far = int(np.hypot(*(xy - xy[0]).T).argmax())
    ring = np.concatenate([xy, xy[:1]])
    keep = np.zeros(len(ring), dtype=bool)
    keep[[0, far]] = True
    off_most = (-1.0, 0)
    stack = [(0, far), (far, len(xy))]
    while stack:
        start, end = stack.pop()
        if end - start < 2:
            continue
        off = _distance_to_segment(ring[start + 1 : end], ring[start], ring[end])
        middle = start + 1 + int(off.argmax())
        off_most = max(off_most, (float(off.max()), middle))
        if off.max() > tolerance:
            keep[middle] = True
            stack += [(start, middle), (middle, end)]
    if keep[:-1].sum() < 3:
        keep[off_most[1]] = True
    return tuple(float(v) for v in ring[:-1][keep[:-1]].reshape(-1))


def _distance_to_segment(xy: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    along = b - a
    length2 = float(along @ along)
    t = np.clip((xy - a) @ along / length2, 0, 1) if length2 else np.zeros(len(xy))
    return np.asarray(np.hypot(*(xy - a - t[:, None] * along).T))


# ---- masks


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


def mask_polygons(mask: np.ndarray) -> list[Polygon]:
    """A polygon for each connected part (by sides), along the pixels' edges, so that `rasterize` gives the mask back.

    A hole is joined to its outline by a cut of no width.
    """
    loops = _boundary_loops(np.asarray(mask, dtype=bool))
    outlines = [loop for loop in loops if _signed_area(loop) > 0]
    holes = sorted((min(loop), loop) for loop in loops if _signed_area(loop) < 0)
    for (x, y), hole in holes:
        outline, at = _outline_left_of(outlines, x, y)
        first = hole.index((x, y))
        turned = hole[first:] + hole[:first]
        outline[at:at] = [outline[at], *turned, (x, y)]
    return [_corners(loop) for loop in outlines]


def _boundary_loops(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Closed walks over lattice points, the mask on the right hand; where two parts touch at a corner, turn right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    leave: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbour, start, end in (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),  # nothing above: walk right along the top side
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    ):
        for y, x in np.argwhere(inside & ~neighbour).tolist():
            leave.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    loops = []
    while leave:
        here = first = next(iter(leave))
        loop, heading = [], (0, 0)
        while True:
            ways = leave[here]
            right = (here[0] - heading[1], here[1] + heading[0])
            there = ways.pop(ways.index(right) if right in ways else 0)
            if not ways:
                del leave[here]
            loop.append(here)
            heading, here = (there[0] - here[0], there[1] - here[1]), there
            if here == first and _closes(leave.get(here), here, heading):
                break
        loops.append(loop)
    return loops


def _closes(ways: list[tuple[int, int]] | None, here: tuple[int, int], heading: tuple[int, int]) -> bool:
    """Back at the start: over, unless the walk's own right turn is still to be taken from here."""
    return not ways or (here[0] - heading[1], here[1] + heading[0]) not in ways


def _outline_left_of(outlines: list[list[tuple[int, int]]], x: int, y: int) -> tuple[list[tuple[int, int]], int]:
    """The outline met first when going left from a hole's leftmost point along the lattice line, and where in it."""
    best: tuple[int, list[tuple[int, int]], int] | None = None
    for outline in outlines:
        for at, (px, py) in enumerate(outline):
            if py != y or px > x or (best is not None and px <= best[0]):
                continue
            (bx, by), (ax, ay) = outline[at - 1], outline[(at + 1) % len(outline)]
            # the walk must border a pixel to the right of the point: leave it up or right, or reach it from below
            if (ax == px and ay < py) or (ay == py and ax > px) or (bx == px and by > py):
                best = (px, outline, at)
    assert best is not None, "a hole lies inside an outline"
    return best[1], best[2]


def _signed_area(loop: list[tuple[int, int]]) -> float:
    xy = np.array(loop, dtype=np.float64)
    return float((xy[:, 0] * np.roll(xy[:, 1], -1) - xy[:, 1] * np.roll(xy[:, 0], -1)).sum() / 2)


def _corners(loop: list[tuple[int, int]]) -> Polygon:
    xy = np.array(loop, dtype=np.float64)
    moved = np.any(xy != np.roll(xy, 1, axis=0), axis=1)
    xy = xy[moved]
    into = np.sign(xy - np.roll(xy, 1, axis=0))
    out = np.sign(np.roll(xy, -1, axis=0) - xy)
    return tuple(float(v) for v in xy[np.any(into != out, axis=1)].reshape(-1))

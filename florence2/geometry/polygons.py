"""Polygons: flat x, y, x, y, ... in float pixels; their boxes, areas, hulls, and what two share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.geometry.boxes import intersection
from florence2.records import Box, Polygon


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


def box_quad(box: Sequence[float]) -> Polygon:
    """The four corners of a box, clockwise from the top left."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return x1, y1, x2, y1, x2, y2, x1, y2


def clockwise(polygon: Polygon) -> Polygon:
    """The polygon with its points clockwise as one sees it, from the same first point."""
    xs, ys = polygon[0::2], polygon[1::2]
    twice = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    order = range(len(xs)) if twice >= 0 else (0, *range(len(xs) - 1, 0, -1))
    return tuple(value for i in order for value in (xs[i], ys[i]))


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

"""A mask's outline as polygons along the pixels' edges."""

from __future__ import annotations

import numpy as np

from florence2.records import Polygon


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

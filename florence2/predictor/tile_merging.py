"""Answers about overlapping parts of one picture made one: nothing twice, what a seam cut is whole again.

    tile A          tile B
    +----------+---+      A cuts what leaves it at its right edge, B what leaves it at its left; what spans the whole
    |  HELLO W |OR |      band between B's left and A's right edge is one thing in two pieces: joined.
    +----------+---+----------+
               |OR | LD       |   What one tile cuts and another (or the whole picture) shows whole is dropped.
               +---+----------+

Regions of one label (lines of text: of any) are taken whole ones first, by score, then cut ones by size; what overlaps
a taken one goes.
Knows regions and boxes; no model and no pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence2 import geometry
from florence2.records import Box, Polygon, Region

EDGE = 0.03  # of a tile's side: what comes so near to an inner edge is cut by it
SAME_IOU = 0.5  # boxes that overlap so much are one
INSIDE = 0.7  # share of the smaller box within the other: a piece of a thing, or a part of a line
ALIGNED = 0.5  # overlap along the seam (of intervals, as an IoU) of two pieces of one thing
AGREE = 0.5  # share of letters that two readings of one stretch of text have alike
AWAY = 0.2  # what an overlap of letters loses for being twice as long as the tiles say, or nothing
LEFT, TOP, RIGHT, BOTTOM = range(4)


@dataclass(frozen=True)
class Piece:
    """A region found in a part of the picture, in pixels of the whole; `cut` says at which sides the part ends it."""

    region: Region
    name: str
    part: Box
    cut: tuple[bool, bool, bool, bool] = (False, False, False, False)

    @property
    def box(self) -> Box:
        """The box of the region."""
        box = geometry.region_box(self.region)
        assert box is not None, "only regions with a place are pieces"
        return box

    @property
    def score(self) -> float:
        """The region's score, 1 where it has none."""
        return 1.0 if self.region.score is None else self.region.score


def piece(region: Region, name: str, part: Box, size_wh: tuple[int, int]) -> Piece:
    """A region of a part's answer, whose pixels start at the part's corner, moved to its place in the picture."""
    moved = shifted(region, part[0], part[1])
    box, (width, height) = geometry.region_box(moved), size_wh
    assert box is not None, "only regions with a place are pieces"
    slack = EDGE * (part[2] - part[0]), EDGE * (part[3] - part[1])
    cut = (
        part[0] > 0 and box[0] - part[0] <= slack[0],
        part[1] > 0 and box[1] - part[1] <= slack[1],
        part[2] < width and part[2] - box[2] <= slack[0],
        part[3] < height and part[3] - box[3] <= slack[1],
    )
    return Piece(moved, name, part, cut)


def merged(pieces: Sequence[Piece], size_wh: tuple[int, int]) -> list[tuple[str, Region]]:
    """(name, region) of each thing: pieces joined across seams, then of what overlaps the first in order kept."""
    out: list[Piece] = []
    boxes = np.zeros((0, 4))
    for one in sorted(_joined(pieces, size_wh), key=_precedence):
        if not _repeats(one, out, boxes):
            out.append(one)
            boxes = np.concatenate([boxes, [one.box]])
    return [(one.name, one.region) for one in out]


def _precedence(one: Piece) -> tuple[float, float]:
    """What is whole comes first, by score; of what is cut the largest piece, for the others may be parts of it."""
    return (1, -float(geometry.area(one.box)[0])) if any(one.cut) else (0, -one.score)


def shifted(region: Region, dx: float, dy: float) -> Region:
    """The region moved by so many pixels."""

    def move(flat: Sequence[float]) -> Polygon:
        return tuple(value + (dy if n % 2 else dx) for n, value in enumerate(flat))

    box = None if region.box is None else (*move(region.box),)
    return dataclasses.replace(
        region,
        box=box,  # type: ignore[arg-type]
        quad=move(region.quad),
        polygons=tuple(move(polygon) for polygon in region.polygons),
    )


def _text(one: Piece) -> bool:
    return one.region.kind == "text"


def _repeats(one: Piece, taken: Sequence[Piece], boxes: np.ndarray) -> bool:
    """Whether a piece is one of the things that were taken, or a part of one.

    A part may be called otherwise than the whole (a wheel, for a car that the seam cut), so whatever lies inside a
    thing goes if a seam cut it.
    """
    if not taken:
        return False
    same = np.array([_text(one) or other.name == one.name for other in taken])
    if (same & (geometry.iou(one.box, boxes)[0] >= SAME_IOU)).any():
        return True
    if not any(one.cut) and not _text(one):
        return False
    areas = np.full(len(boxes), geometry.area(one.box)[0])
    if _text(one):
        areas = np.minimum(areas, geometry.area(boxes))
    return bool((geometry.intersection(one.box, boxes)[0] >= INSIDE * np.maximum(areas, 1e-9)).any())


# ---- pieces of one thing ----------------------------------------------------------------------------------------


def _joined(pieces: Sequence[Piece], size_wh: tuple[int, int]) -> list[Piece]:
    """The pieces, those of one thing joined into one."""
    out = list(pieces)
    while True:
        todo = [p for p in out if any(p.cut)]
        whole = [p for p in out if not any(p.cut)]
        count = len(out)
        while todo:
            one = todo.pop(0)
            for n, other in enumerate(todo):
                if _continues(one, other) or _continues(other, one):
                    del todo[n]
                    pair = (one, other) if _continues(one, other) else (other, one)
                    todo.insert(0, _join(*pair, size_wh))
                    break
            else:
                whole.append(one)
        out = whole
        if len(out) == count:
            return out


def _continues(first: Piece, second: Piece) -> bool:
    """Whether `second` goes on where its part's neighbour ended `first`, to the right or downwards."""
    if not _text(first) and first.name != second.name:
        return False
    if first.region.kind != second.region.kind or bool(first.region.polygons) != bool(second.region.polygons):
        return False
    return any(first.cut[low + 2] and second.cut[low] and _spans_band(first, second, low) for low in (LEFT, TOP))


def _spans_band(first: Piece, second: Piece, low: int) -> bool:
    """Whether both pieces fill the band that their parts share along one axis, and lie alike along the other."""
    high, other = low + 2, TOP if low == LEFT else LEFT
    start, end = second.part[low], first.part[high]
    slack = EDGE * (first.part[high] - first.part[low])
    if start >= end or first.part[low] >= start:
        return False  # no neighbours in this order
    if first.box[low] > start + slack or second.box[high] < end - slack:
        return False
    shared = min(first.box[other + 2], second.box[other + 2]) - max(first.box[other], second.box[other])
    union = max(first.box[other + 2], second.box[other + 2]) - min(first.box[other], second.box[other])
    return shared > 0 and shared >= ALIGNED * union


def _join(first: Piece, second: Piece, size_wh: tuple[int, int]) -> Piece:
    """Two pieces as one thing; its score is their mean, for both have to be right."""
    one, two = first.region, second.region
    a, b = first.box, second.box
    box = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
    part_a, part_b = first.part, second.part
    part = (min(part_a[0], part_b[0]), min(part_a[1], part_b[1]), max(part_a[2], part_b[2]), max(part_a[3], part_b[3]))
    across = first.cut[RIGHT] and second.cut[LEFT] and _spans_band(first, second, LEFT)
    scores = [region.score for region in (one, two) if region.score is not None]
    region = dataclasses.replace(one, box=box, score=sum(scores) / len(scores) if scores else None)
    if one.quad:
        region = dataclasses.replace(region, quad=_joined_quad(one.quad, two.quad, across))
    if one.polygons:
        mask = geometry.rasterize([*one.polygons, *two.polygons], size_wh)
        polygons = tuple(geometry.simplify(p, 0.75) for p in geometry.mask_polygons(mask))
        region = dataclasses.replace(region, polygons=polygons or one.polygons)
    name = first.name
    if _text(first):
        band = first.part[RIGHT] - second.part[LEFT]
        if across:
            name = joined_text(one.label, two.label, band / max(a[2] - a[0], 1e-9), band / max(b[2] - b[0], 1e-9))
        elif second.score > first.score:
            name = two.label  # an upper and a lower half of one line
        region = dataclasses.replace(region, label=name)
    cut = tuple(any(p.cut[side] for p in (first, second) if p.part[side] == part[side]) for side in range(4))
    return Piece(region, name, part, cut)  # type: ignore[arg-type]


def _joined_quad(one: Polygon, two: Polygon, across: bool) -> Polygon:
    """The outer corners of two quads, each clockwise from its top left: side by side, or one below the other."""
    return (*one[:2], *two[2:6], *one[6:]) if across else (*one[:4], *two[4:])


def joined_text(one: str, two: str, share_one: float, share_two: float) -> str:
    """Two readings of a line whose middle both hold: about the last `share_one` of the one, the first of the other.

    Laid over one another where most letters agree; the seam runs through the middle of what both hold, so that letters
    which an edge cut are taken from the other.
    """
    expected = max(1.0, (share_one * len(one) + share_two * len(two)) / 2)
    best, length = 0.0, 0
    for count in range(1, min(len(one), len(two), round(2 * expected) + 2) + 1):
        alike = sum(x == y for x, y in zip(one[-count:], two[:count])) / count
        value = alike - AWAY * abs(count - expected) / expected
        if alike >= AGREE and value > best:
            best, length = value, count
    middle = length - length // 2
    return one[: len(one) - length + middle] + two[middle:] if length else f"{one.rstrip()} {two.lstrip()}"

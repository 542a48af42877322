"""One picture asked about in four views, and the boxes of all of them made one answer.

As it is, mirrored, made smaller on grey ground, and its middle made larger. Boxes of one name that overlap are averaged
by their scores (weighted boxes fusion, arXiv 1910.13302); the score of the result is their mean, times the share of the
views that could see the place and agree. Knows pictures and regions, no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from florence2 import pixels
from florence2.geometry import as_boxes, intersection, iou
from florence2.labels import fold_label
from florence2.records import Box, Region

SMALLER = 0.8  # side of the picture in its smaller view, and of the window that the larger view shows
AGREE = 0.55  # IoU from which boxes of one name are one object
WHOLE = 0.95  # share of a box that a window has to show for the view to count
EDGE = 0.02  # a box that ends so near to where a window cuts the picture is a part of something


@dataclass(frozen=True)
class View:
    """The pixels of a view, how its boxes lie in the picture, and the window of the picture that it shows."""

    pixels: np.ndarray
    to_picture: Callable[[Box], Box]
    window: Box


def views_of(image: np.ndarray) -> list[View]:
    """The views of a picture (H, W, 3) uint8, the picture itself first; all of its size or smaller."""
    height, width = image.shape[:2]
    whole = (0.0, 0.0, float(width), float(height))
    small_wh = max(1, round(width * SMALLER)), max(1, round(height * SMALLER))
    left, top = (width - small_wh[0]) // 2, (height - small_wh[1]) // 2
    scale_x, scale_y = small_wh[0] / width, small_wh[1] / height
    ground = np.full_like(image, 128)
    ground[top : top + small_wh[1], left : left + small_wh[0]] = pixels.resize(image, small_wh)
    window = np.ascontiguousarray(image[top : top + small_wh[1], left : left + small_wh[0]])
    cut = (float(left), float(top), float(left + small_wh[0]), float(top + small_wh[1]))
    return [
        View(image, lambda b: b, whole),
        View(np.ascontiguousarray(image[:, ::-1]), lambda b: (width - b[2], b[1], width - b[0], b[3]), whole),
        View(
            ground,
            lambda b: (
                (b[0] - left) / scale_x, (b[1] - top) / scale_y, (b[2] - left) / scale_x, (b[3] - top) / scale_y,
            ),
            whole,
        ),
        View(window, lambda b: (b[0] + left, b[1] + top, b[2] + left, b[3] + top), cut),
    ]  # fmt: skip


def fused(views: Sequence[View], found: Sequence[Sequence[Region]]) -> list[Region]:
    """The objects of all views, `found[i]` those of views[i] in its own pixels; best first."""
    height, width = views[0].pixels.shape[:2]
    boxed = [
        (number, dataclasses.replace(region, box=_within(view.to_picture(region.box), width, height)))
        for number, (view, regions) in enumerate(zip(views, found))
        for region in regions
        if region.box is not None and not _cut_off(region.box, view, (width, height))
    ]
    order = sorted(boxed, key=lambda each: -(each[1].score or 0.0))
    out: list[Region] = []
    taken = [False] * len(order)
    for place, (number, leader) in enumerate(order):
        if taken[place]:
            continue
        cluster = {number: leader}
        for other, (of_view, region) in enumerate(order[place:], place):
            same = fold_label(region.label) == fold_label(leader.label) and of_view not in cluster
            if same and not taken[other] and float(iou([leader.box], [region.box])[0, 0]) >= AGREE:
                cluster[of_view] = region
                taken[other] = True
        taken[place] = True
        out.append(_merged(leader, list(cluster.values()), sum(_sees(view, leader.box) for view in views)))
    return sorted(out, key=lambda region: -(region.score or 0.0))


def _merged(leader: Region, cluster: Sequence[Region], seen_by: int) -> Region:
    scores = np.array([max(region.score or 0.0, 1e-3) for region in cluster])
    x1, y1, x2, y2 = (as_boxes([region.box for region in cluster]) * scores[:, None]).sum(0) / scores.sum()
    share = min(1.0, len(cluster) / max(seen_by, 1))
    box = (float(x1), float(y1), float(x2), float(y2))
    return dataclasses.replace(leader, box=box, score=round(float(scores.mean()) * share, 6))


def _sees(view: View, box: Box | None) -> bool:
    if box is None:
        return False
    shown = float(intersection([box], [view.window])[0, 0])
    return shown >= WHOLE * max((box[2] - box[0]) * (box[3] - box[1]), 1e-9)


def _cut_off(box: Box, view: View, size_wh: tuple[int, int]) -> bool:
    """Whether a box of a view ends where its window cuts the picture."""
    height, width = view.pixels.shape[:2]
    x1, y1, x2, y2 = view.window
    sides = ((x1 > 0, box[0], 0.0, width), (y1 > 0, box[1], 0.0, height))
    ends = ((x2 < size_wh[0], box[2], width, width), (y2 < size_wh[1], box[3], height, height))
    return any(inside and abs(at - edge) <= EDGE * side for inside, at, edge, side in (*sides, *ends))


def _within(box: Box, width: int, height: int) -> Box:
    """The box as far as it lies in the picture: a view's ground is none of it."""
    return (
        min(max(box[0], 0.0), width), min(max(box[1], 0.0), height),
        min(max(box[2], 0.0), width), min(max(box[3], 0.0), height),
    )  # fmt: skip

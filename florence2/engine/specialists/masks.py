"""Masks from boxes by OpenCV's GrabCut: no weights, a fair outline where object and background differ in colour.

Also what every mask-maker needs: the record of a mask that refines a box.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists.found_regions import refining
from florence2.engine.specialists.requirements import version_of
from florence2.geometry import encode_rle, mask_polygons
from florence2.records import Box, Parsed, Region, Result, Sample

ROUNDS = 3  # iterations of GrabCut
MARGIN = 0.5  # of the box's side: the surroundings that GrabCut learns the background from


class GrabCut:
    """For each object box a mask inside it; its score is the box's."""

    def __init__(self) -> None:
        version = version_of("opencv-python-headless", "grabcut", "demo")
        self.spec = Spec(
            "grabcut",
            version,
            produces=frozenset({"region_text/mask"}),
            requires=frozenset({"region_text/object"}),
        )
        self.config = {"rounds": ROUNDS, "margin": MARGIN}
        self.weights_sha256 = ""

    def setup(self, device: str) -> None:
        """One thread, since the runner has a process a core."""
        import cv2

        cv2.setNumThreads(1)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """The outline of each box's object."""
        results: list[Result] = []
        for sample, image in zip(samples, images):
            boxes = [
                r for r in sample.current().regions if r.kind == "object" and r.box and not r.refines and r.mask is None
            ]
            found = [mask_region(i, r, grab_cut(image, r.box), r.score) for i, r in enumerate(boxes) if r.box]
            results.append(Parsed(regions=tuple(r for r in found if r is not None)))
        return results

    def close(self) -> None:
        """Nothing to release."""


def grab_cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The mask (H, W) bool of the foreground inside a box (GrabCut, Rother et al. 2004)."""
    import cv2

    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    dx, dy = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left, top = max(int(x1 - dx), 0), max(int(y1 - dy), 0)
    right, bottom = min(int(x2 + dx) + 1, width), min(int(y2 + dy) + 1, height)
    window = np.ascontiguousarray(image[top:bottom, left:right])
    full = np.zeros((height, width), dtype=bool)
    inner = (slice(max(round(y1) - top, 0), round(y2) - top), slice(max(round(x1) - left, 0), round(x2) - left))
    labels = np.full(window.shape[:2], cv2.GC_BGD, dtype=np.uint8)
    labels[inner] = cv2.GC_PR_FGD
    if labels[inner].size < 16 or labels[inner].size == labels.size:  # only one class
        full[top:bottom, left:right] = labels != cv2.GC_BGD
        return full
    cv2.setRNGSeed(0)
    cv2.grabCut(window, labels, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    full[top:bottom, left:right] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return full


def mask_region(index: int, region: Region, mask: np.ndarray, score: float | None) -> Region | None:
    """A mask as the region that refines another; None where the mask is empty."""
    ys, xs = np.nonzero(mask)
    if not len(xs):
        return None
    box = float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)
    polygons = tuple(tuple(float(v) for v in polygon) for polygon in mask_polygons(mask))
    return refining(region, f"mask-{index}", score, box=box, polygons=polygons, mask=encode_rle(mask))

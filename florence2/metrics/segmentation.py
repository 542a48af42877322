"""mIoU and oIoU of masks: polygons drawn at the picture's own size, the parts of an answer united."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2 import geometry
from florence2.metrics.detection import ratio
from florence2.metrics.rows import table
from florence2.records import Region


def union_mask(regions: Sequence[Region], size_wh: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: all masks and polygons of `regions` in one; a region with neither is drawn as its box."""
    mask = np.zeros((size_wh[1], size_wh[0]), dtype=bool)
    for region in regions:
        if region.mask is not None:
            if (region.mask.width, region.mask.height) != tuple(size_wh):
                sizes = f"{region.mask.width} x {region.mask.height} for a picture of {size_wh[0]} x {size_wh[1]}"
                raise ValueError(f"mask of region {region.id!r}: {sizes}; draw it at the picture's size")
            mask |= geometry.decode_rle(region.mask)
        elif region.polygons:
            mask |= geometry.rasterize(region.polygons, size_wh)
        elif region.box is not None:
            mask |= geometry.rasterize([geometry.box_quad(region.box)], size_wh)
    return mask


class Segmentation:
    """mIoU, the mean over asks; oIoU, all shared pixels over all united ones. Nothing for nothing is an IoU of 1."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int]] = []  # pixels shared, pixels united

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, truth: Sequence[Region], found: Sequence[Region], size_wh: tuple[int, int]) -> None:
        """Add one ask about a picture of `size_wh`."""
        a, b = union_mask(truth, size_wh), union_mask(found, size_wh)
        self.rows.append((int((a & b).sum()), int((a | b).sum())))

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The scores over all updates, or over those named by `rows`."""
        shared, united = table(self.rows, rows, 2).T
        each = np.divide(shared, united, out=np.ones(len(shared)), where=united > 0)
        return {
            "mIoU": float(each.mean()) if len(each) else 0.0,
            "oIoU": ratio(shared.sum(), united.sum(), 1.0 if len(each) else 0.0),
        }

"""Where a region is, whatever it holds: a box, a quad, polygons, a mask."""

from __future__ import annotations

from florence2.geometry.polygons import box_quad, polygon_box
from florence2.geometry.rle import rle_box
from florence2.records import Box, Polygon, Region


def region_box(region: Region) -> Box | None:
    """The region's box, else the box around its quad, its polygons or its mask; None where it has no place."""
    if region.box is not None:
        return region.box
    if region.quad or region.polygons:
        return polygon_box(*([region.quad] if region.quad else region.polygons))
    return None if region.mask is None else rle_box(region.mask)


def region_quad(region: Region) -> Polygon:
    """The region's quad, else the corners of `region_box`, clockwise from the top left; () where it has no place."""
    if region.quad:
        return region.quad
    box = region_box(region)
    return () if box is None else box_quad(box)

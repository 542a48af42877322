"""Where a region is as targets have it, and in which order regions come. Knows records only."""

from __future__ import annotations

from collections.abc import Iterable

from florence2 import geometry
from florence2.records import Box, Polygon, Region


def polygons_of(region: Region) -> tuple[Polygon, ...]:
    """The region's polygons, else those around its mask, simplified to half a bin."""
    if region.polygons or region.mask is None:
        return region.polygons
    tolerance = max(region.mask.width, region.mask.height) / 2000
    parts = geometry.mask_polygons(geometry.decode_rle(region.mask))
    return tuple(tuple(map(float, geometry.simplify(part, tolerance))) for part in parts)


def by_area(regions: Iterable[Region]) -> list[Region]:
    """Largest box first; equal ones stay as they came."""
    return sorted(regions, key=lambda region: abs(geometry.box_area(region.box)), reverse=True)


def reading_order(regions: Iterable[Region]) -> list[Region]:
    """Lines from top to bottom, each from left to right; in a line all share half a height with its first region.

    Half of the larger height, so that a tall region beside several lines does not draw them into one.
    """

    def span(region: Region) -> Box:
        return geometry.region_box(region) or (0.0, 0.0, 0.0, 0.0)

    lines: list[list[Region]] = []
    for region in sorted(regions, key=lambda r: (span(r)[1] + span(r)[3], span(r)[0])):
        _, top, _, bottom = span(region)
        if lines:
            _, first_top, _, first_bottom = span(lines[-1][0])
            shared = min(bottom, first_bottom) - max(top, first_top)
            if 2 * shared >= max(bottom - top, first_bottom - first_top) > 0:
                lines[-1].append(region)
                continue
        lines.append([region])
    return [region for line in lines for region in sorted(line, key=lambda r: span(r)[0])]

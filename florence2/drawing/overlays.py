"""What is drawn of a record: for each region an outline, a colour and a caption. Knows no pixels and no HTML."""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from florence2 import geometry
from florence2.labels import fold_label
from florence2.records import Grounding, Parsed, Polygon, Region, Text


@dataclass(frozen=True)
class Overlay:
    """One region as it is drawn: closed outlines, filled or not; `rejected` is the reason why it was rejected.

    On a page `hint` is its whole story, shown on hover, `status` the class it is styled and hidden by, and `facets`
    what it is filtered by.
    """

    outlines: tuple[Polygon, ...]
    filled: bool
    caption: str
    color: tuple[int, int, int]
    rejected: str = ""
    hint: str = ""
    status: str = ""
    facets: str = ""


def color_of(label: str) -> tuple[int, int, int]:
    """A colour that is the same for a label in every picture and on every machine."""
    key = zlib.crc32(fold_label(label).encode("utf-8", "replace"))
    red, green, blue = colorsys.hls_to_rgb((key % 997) / 997, (0.42, 0.5, 0.36)[key // 997 % 3], 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def regions_of(shown: Parsed | Sequence[Region]) -> tuple[Region, ...]:
    """The regions of a Parsed, an Answer, a Sample or a plain list, named by their phrase where they have no label."""
    if isinstance(shown, (list, tuple)):
        return tuple(shown)
    groundings: Sequence[Grounding] = getattr(shown, "groundings", ())
    phrases = {i: grounding.phrase for grounding in groundings for i in grounding.region_ids}
    return tuple(
        replace(r, label=phrases[r.id]) if not (r.label or r.description) and r.id in phrases else r
        for r in shown.regions  # type: ignore[union-attr]
    )


def texts_of(shown: Parsed | Sequence[Region]) -> tuple[Text, ...]:
    """The texts about the whole picture."""
    return tuple(getattr(shown, "texts", ()))


def overlays_of(
    shown: Parsed | Sequence[Region], rejected: Mapping[str, str] | None = None, scores: bool = True
) -> list[Overlay]:
    """Overlays in drawing order: the largest first, so that the small stay visible."""
    overlays = []
    for region in sorted(regions_of(shown), key=lambda r: -_extent(r)):
        outlines, filled = _outlines(region)
        if outlines:
            name = region.label or region.description
            score = f"{region.score:.2f}" if scores and region.score is not None else ""
            reason = (rejected or {}).get(region.id, "")
            caption = " ".join(part for part in (name, score, f"({reason})" if reason else "") if part)
            overlays.append(Overlay(outlines, filled, caption, color_of(name), reason))
    return overlays


def _outlines(region: Region) -> tuple[tuple[Polygon, ...], bool]:
    if region.polygons:
        return tuple(p for p in region.polygons if len(p) >= 2), True
    if region.mask is not None:
        return tuple(geometry.mask_polygons(geometry.decode_rle(region.mask))), True
    if region.quad:
        return (region.quad,), False
    return ((geometry.box_quad(region.box),) if region.box is not None else ()), False


def _extent(region: Region) -> float:
    if region.box is not None:
        return float(geometry.area(region.box)[0])
    outlines, _ = _outlines(region)
    return float(geometry.area(geometry.polygon_box(*outlines))[0]) if outlines else 0.0

"""Regions as specialists report them: a box that a model detected, and a region that refines another."""

from __future__ import annotations

from typing import Any

from florence2.records import Region


def detected(index: int, box: Any, label: str, score: float) -> Region:
    """The region of a tensor (4,) in pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return Region(id=f"object-{index}", box=(x1, y1, x2, y2), label=label, score=score)


def refining(region: Region, id: str, score: float | None, **found: Any) -> Region:
    """What was found of a region, as the region that refines it; its place and label are the region's own."""
    own = {"kind": region.kind, "box": region.box, "label": region.label, "label_space": region.label_space}
    return Region(id=id, score=score, refines=region.id, **{**own, **found})

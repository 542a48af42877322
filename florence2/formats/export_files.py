"""What every writer does alike: name its pictures, put them in place, count what the format cannot hold."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from florence2.records import Region, Sample


class Names:
    """A file name for each picture, unique in one folder."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def of(self, sample: Sample) -> str:
        """The picture's own base name, numbered where another picture has it."""
        base = Path(sample.image.member or sample.image.uri or sample.image.id or sample.id).name or sample.id
        stem, suffix = os.path.splitext(base)
        name, count = base, 1
        while name in self.taken:
            name, count = f"{stem}_{count}{suffix}", count + 1
        self.taken.add(name)
        return name


def place_picture(sample: Sample, target: Path, lost: Counter[str]) -> None:
    """Link or copy a picture that is a plain file; one inside a tar or a table is counted as not placed."""
    source = Path(sample.image.uri)
    if sample.image.member or not sample.image.uri or not source.is_file():
        lost["picture_not_placed"] += 1
        return
    if target.exists():
        if not target.samefile(source):
            raise ValueError(f"{target}: exists already; name a new or empty folder")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def size_of(sample: Sample) -> tuple[int, int]:
    """The picture's width and height, which most formats need."""
    width, height = sample.image.size_wh
    if not width or not height:
        raise ValueError(f"sample {sample.id!r}: its picture's size is not known; read it with its picture in place")
    return width, height


def count_lost(sample: Sample, lost: Counter[str], kept: frozenset[str], words: bool = False) -> Sample:
    """The sample's current view as a format holds it; what it holds beside `kept` is counted as lost.

    `kept`: texts, regions, groundings, split, licence, source. What refines a region of its label (a mask its box)
    becomes part of it. Regions of text are kept where the format has `words`: elsewhere they would be categories.
    """
    hidden = len([d for d in sample.decisions if d.status != "kept"])
    if hidden:
        lost["rejected_or_superseded"] += hidden
    sample = sample.current()
    for kind in ("texts", "regions", "groundings"):
        items = getattr(sample, kind)
        if items and kind not in kept:
            lost[kind] += len(items)
    lost["split"] += bool(sample.split) and "split" not in kept
    lost["licence"] += bool(sample.image.licence) and "licence" not in kept
    regions = _whole(sample.regions, lost) if "regions" in kept else ()
    if not words:
        lost["regions_of_text"] += sum(region.kind == "text" for region in regions)
        regions = tuple(region for region in regions if region.kind != "text")
    if "source" not in kept:
        lost["source"] += sum(region.source is not None and region.source.kind != "import" for region in regions)
    return replace(sample, regions=regions)


def space_of(sample: Sample) -> str:
    """The label space of a sample's objects, or else one that its coverage speaks of."""
    named = next((region.label_space for region in sample.regions if region.label_space), "")
    return named or next((space for space in sample.coverage if space != "text"), "")


def count_coverage(sample: Sample, space: str, lost: Counter[str]) -> None:
    """Count what a format without coverage loses: all but that every object of its labels is there."""
    for name, states in sample.coverage.items():
        held = name == space and all(coverage.state == "exhaustive" for coverage in states)
        lost["coverage"] += 0 if held or name == "text" else len(states)


def _whole(regions: Sequence[Region], lost: Counter[str]) -> tuple[Region, ...]:
    """The regions without those that refine another: what they add is added to it, where it fits."""
    own = {region.id: region for region in regions if region.id}
    out = dict(own)
    for region in regions:
        base = out.get(region.refines)
        if base is None or region.refines == region.id or base.label != region.label and region.label:
            lost["refines"] += bool(region.refines)
            continue
        shape = base.polygons or base.quad or base.mask is not None
        more: dict[str, Any] = {} if shape else {"polygons": region.polygons, "mask": region.mask}
        lost["refinements"] += bool(shape and (region.polygons or region.mask is not None))
        out[base.id] = replace(base, description=base.description or region.description, **more)
        del out[region.id]
    return tuple(out.get(r.id, r) if r.id else r for r in regions if not r.id or r.id in out)

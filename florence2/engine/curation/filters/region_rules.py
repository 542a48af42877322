"""Rules for regions: score, size, aspect, whole-picture boxes, overlap, crowds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from florence2 import box_rules, geometry
from florence2.engine.curation.filters.verdicts import by_people, verdict
from florence2.records import Decision, Region, Sample


def score(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """A region without a score is not judged."""
    for region in _judged(sample):
        if region.score is None:
            continue
        name = region.source.name if region.source else ""
        floor = settings["labels"].get(region.label, settings["sources"].get(name, settings["min"]))
        yield verdict(region, region.score >= floor, region.score, floor)


def size(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The shorter side of the box, in pixels."""
    regions = _boxed(sample)
    for region, side in zip(regions, box_rules.shorter_side(_boxes(regions)).tolist()):
        yield verdict(region, side >= settings["min"], side, settings["min"])


def aspect(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The longer side over the shorter; a line of text may be long."""
    regions = _boxed(sample)
    for region, ratio in zip(regions, box_rules.aspect(_boxes(regions)).tolist()):
        limit = settings["text"] if region.kind == "text" else settings["max"]
        yield verdict(region, ratio <= limit, ratio, limit)


def whole_image(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The box's share of the picture; not judged: a picture of unknown size, a box that its source is sure of."""
    regions = [region for region in _boxed(sample) if region.kind == "object"]
    if sample.image.width * sample.image.height:
        for region, share in zip(regions, box_rules.picture_share(_boxes(regions), sample.image.size_wh).tolist()):
            yield verdict(region, share <= settings["max"] or _sure(region, settings), share, settings["max"])


def nms(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Within one source and kind; the value is the IoU with the winner, or the decayed score where it is soft."""
    for regions in _groups(sample, lambda r: (_source(r), r.kind)):
        scores = [1.0 if r.score is None else r.score for r in regions]
        labels = [r.label if settings["per_label"] else "" for r in regions]
        threshold = settings["floor"] if settings["soft"] else settings["max"]
        if settings["soft"]:
            found = box_rules.soft_nms(_boxes(regions), scores, settings["sigma"], threshold, labels)
        else:
            found = box_rules.nms(_boxes(regions), scores, threshold, labels)
        for region, kept, value, winner in zip(regions, *(column.tolist() for column in found)):
            yield verdict(region, kept, value, threshold, regions[winner].id if winner >= 0 else "")


def crowd(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The value is the region's rank by score among those of its label and source, from 1."""
    for regions in _groups(sample, lambda r: (_source(r), r.kind, r.label if r.kind == "object" else "")):
        limit = settings["text"] if regions[0].kind == "text" else settings["max"]
        ranked = sorted(regions, key=lambda r: -(1.0 if r.score is None else r.score))
        for rank, region in enumerate(ranked, start=1):
            yield verdict(region, rank <= limit or _sure(region, settings), float(rank), float(limit))


def _sure(region: Region, settings: Mapping[str, Any]) -> bool:
    """Whether its source is sure of it: then a size or a number alone is no evidence against it."""
    return region.score is not None and region.score >= settings["sure"]


def _judged(sample: Sample) -> Iterator[Region]:
    return (r for r in sample.regions if not by_people(r))


def _boxed(sample: Sample) -> list[Region]:
    return [region for region in _judged(sample) if region.box is not None]


def _boxes(regions: Sequence[Region]) -> np.ndarray:
    return geometry.as_boxes([region.box for region in regions])


def _groups(sample: Sample, key: Any) -> Iterator[list[Region]]:
    groups: dict[Any, list[Region]] = {}
    for region in _boxed(sample):
        if not region.refines:  # a mask lies on the box it refines
            groups.setdefault(key(region), []).append(region)
    yield from groups.values()


def _source(region: Region) -> tuple[str, str, int]:
    source = region.source
    return (source.kind, source.name, source.round) if source else ("", "", 0)

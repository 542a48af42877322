"""Rules for regions: score, size, aspect, whole-picture boxes, overlap, crowds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from florence2 import geometry
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
    for region, width, height in _boxed(sample):
        yield verdict(region, min(width, height) >= settings["min"], min(width, height), settings["min"])


def aspect(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The longer side over the shorter; a line of text may be long."""
    for region, width, height in _boxed(sample):
        limit = settings["text"] if region.kind == "text" else settings["max"]
        ratio = max(width, height) / max(min(width, height), 1e-6)
        yield verdict(region, ratio <= limit, ratio, limit)


def whole_image(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """The box's share of the picture; not judged: a picture of unknown size, a box that its source is sure of."""
    picture = sample.image.width * sample.image.height
    for region, width, height in _boxed(sample):
        if region.kind == "object" and picture:
            share = width * height / picture
            yield verdict(region, share <= settings["max"] or _sure(region, settings), share, settings["max"])


def nms(sample: Sample, settings: Mapping[str, Any]) -> Iterator[Decision]:
    """Within one source and kind; the value is the IoU with the winner, or the decayed score where it is soft."""
    for regions in _groups(sample, lambda r: (_source(r), r.kind)):
        boxes = np.array([r.box for r in regions], dtype=float)
        scores = np.array([1.0 if r.score is None else r.score for r in regions])
        labels = [r.label if settings["per_label"] else "" for r in regions]
        codes = np.unique(labels, return_inverse=True)[1]
        if settings["soft"]:
            order, decayed = geometry.soft_nms(boxes, scores, settings["sigma"], 0.0, labels)
            final = dict(zip((int(i) for i in order), (float(s) for s in decayed)))
            for i, region in enumerate(regions):
                best = _winner(geometry.iou(boxes[i], boxes)[0] * (codes == codes[i]), scores, i)
                keep = final.get(i, 0.0) >= min(settings["floor"], scores[i])
                by_id = "" if keep or best is None else regions[best].id
                yield verdict(region, keep, final.get(i, 0.0), settings["floor"], by_id)
            continue
        kept = geometry.nms(boxes, scores, settings["max"], labels)
        near, kept_set = geometry.neighbours(boxes[kept]), set(kept.tolist())
        for i, region in enumerate(regions):
            others = kept[near(boxes[i])]  # by descending score
            others = others[(others != i) & (codes[others] == codes[i])]
            overlaps = geometry.iou(boxes[i], boxes[others])[0]
            best = int(overlaps.argmax()) if len(others) else None
            value = float(overlaps[best]) if best is not None else 0.0
            keep = i in kept_set
            by_id = "" if keep or best is None else regions[int(others[best])].id
            yield verdict(region, keep, value, settings["max"], by_id)


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


def _boxed(sample: Sample) -> Iterator[tuple[Region, float, float]]:
    for region in _judged(sample):
        if region.box is not None:
            x1, y1, x2, y2 = region.box
            yield region, max(x2 - x1, 0.0), max(y2 - y1, 0.0)


def _groups(sample: Sample, key: Any) -> Iterator[list[Region]]:
    groups: dict[Any, list[Region]] = {}
    for region, _, _ in _boxed(sample):
        if not region.refines:  # a mask lies on the box it refines
            groups.setdefault(key(region), []).append(region)
    yield from groups.values()


def _source(region: Region) -> tuple[str, str, int]:
    source = region.source
    return (source.kind, source.name, source.round) if source else ("", "", 0)


def _winner(overlaps: np.ndarray, scores: np.ndarray, i: int) -> int | None:
    """The box that overlaps box `i` most, of those of no lower score; `overlaps` of `i` with each."""
    better = [k for k in np.flatnonzero((overlaps > 0) & (scores >= scores[i])).tolist() if k != i]
    return max(better, key=lambda k: overlaps[k]) if better else None

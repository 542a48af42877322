"""A specialist's answer, checked and clipped, with ids and the source attached."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2.engine.operator import annotation_ids
from florence2.labels import is_unicode
from florence2.records import Grounding, Item, Parsed, Region, Sample, Source, Text

STRINGS = {  # fields that must hold valid Unicode
    Region: ("id", "kind", "label", "label_space", "description"),
    Text: ("id", "text", "detail", "question"),
    Grounding: ("id", "phrase"),
}


def attach_provenance(parsed: Parsed, sample: Sample, source: Source, fingerprint: str) -> Sample:
    """The sample with only these items, checked, clipped, named and signed; ValueError says what is not valid."""
    items: list[Item] = [*parsed.regions, *parsed.texts, *parsed.groundings]
    for item in items:
        _check_strings(item)
    named = [item.id for item in items if item.id]
    if len(set(named)) != len(named):
        raise ValueError("two items of one answer have the same id")
    fresh = annotation_ids(sample.image.id, fingerprint, source.round, len(items))
    ids = {item.id: new for item, new in zip(items, fresh) if item.id}
    known = {item.id for item in sample.items()}

    def resolve(name: str) -> str:
        if name and name not in ids and name not in known:
            raise ValueError(f"an item refers to {name!r}, which is neither in the answer nor in the sample")
        return ids.get(name, name)

    texts = {text.id: text.text for text in (*sample.texts, *parsed.texts)}
    new = iter(fresh)
    regions = tuple(
        dataclasses.replace(
            region,
            **_checked_shapes(region, sample.image.size_wh),
            id=next(new),
            score=_checked_score(region),
            source=source,
            refines=resolve(region.refines),
            derived_from=tuple(map(resolve, region.derived_from)),
        )
        for region in parsed.regions
    )
    stamped = tuple(
        dataclasses.replace(text, id=next(new), score=_checked_score(text), source=source) for text in parsed.texts
    )
    groundings = tuple(
        dataclasses.replace(
            grounding,
            phrase=_checked_phrase(grounding, texts),
            id=next(new),
            score=_checked_score(grounding),
            source=source,
            text_id=resolve(grounding.text_id),
            region_ids=tuple(map(resolve, grounding.region_ids)),
        )
        for grounding in parsed.groundings
    )
    return dataclasses.replace(sample, regions=regions, texts=stamped, groundings=groundings, decisions=())


def _checked_shapes(region: Region, size_wh: tuple[int, int]) -> dict[str, Any]:
    """The region's box, quad and polygons with all coordinates inside the picture; ValueError where one is none."""
    if region.box is not None:
        _check_numbers(region, "box", region.box)
    if region.quad:
        _check_numbers(region, "quad", region.quad)
    for polygon in region.polygons:
        _check_numbers(region, "polygon", polygon)
    box = None
    if region.box is not None:
        if len(region.box) != 4:
            raise ValueError(
                f"region {region.label!r:.40}: expected a box x1, y1, x2, y2, got {len(region.box)} values"
            )
        x1, y1, x2, y2 = box = clipped(region.box, size_wh)
        if x2 < x1 or y2 < y1:
            raise ValueError(
                f"region {region.label!r:.40}: box {list(region.box)!r:.80} is inside out, not x1, y1, x2, y2"
            )
    if region.quad and len(region.quad) != 8:
        raise ValueError(f"region {region.label!r:.40}: expected a quad of 8 values, got {len(region.quad)}")
    if any(len(p) < 6 or len(p) % 2 for p in region.polygons):
        raise ValueError(f"region {region.label!r:.40}: a polygon needs three corners or more, as flat x, y pairs")
    quad = clipped(region.quad, size_wh) if region.quad else ()
    return {"box": box, "quad": quad, "polygons": tuple(clipped(polygon, size_wh) for polygon in region.polygons)}


def _checked_phrase(grounding: Grounding, texts: dict[str, str]) -> str:
    """The grounding's phrase, read from its text; ValueError where a span is not in it."""
    if not grounding.spans or not grounding.text_id:
        return grounding.phrase
    text = texts.get(grounding.text_id)
    if text is None:
        raise ValueError(f"phrase {grounding.phrase!r:.40}: its text {grounding.text_id!r} is not there")
    for start, end in grounding.spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"phrase {grounding.phrase!r:.40}: span {start}..{end} is not in a text of {len(text)} letters"
            )
    return " ".join(text[start:end] for start, end in grounding.spans)


def clipped(xy: Sequence[float], size_wh: tuple[int, int]) -> tuple[float, ...]:
    """Flat x, y values cut at the picture's edges, where its size is known."""
    if not all(size_wh):
        return tuple(map(float, xy))
    return tuple([float(min(max(v, 0.0), size_wh[i % 2])) for i, v in enumerate(xy)])


def _check_numbers(region: Region, name: str, values: Sequence[Any]) -> None:
    for v in values:
        if not isinstance(v, (float, int, np.number)) or not math.isfinite(v):
            raise ValueError(
                f"region {region.label!r:.40}: {name} {list(values)!r:.80} holds a value that is no number"
            )


def _check_strings(item: Item) -> None:
    """ValueError where a field holds what its column cannot."""
    if type(item) not in STRINGS:
        raise ValueError(f"expected Regions, Texts and Groundings, got {type(item).__name__}")
    for name in STRINGS[type(item)]:
        value = getattr(item, name)
        if not isinstance(value, str):
            raise ValueError(f"{type(item).__name__}.{name}: expected a string, got {value!r:.40}")
        if not value.isascii() and not is_unicode(value):
            raise ValueError(f"{type(item).__name__}.{name}: {value!r:.40} is not valid Unicode")


def _checked_score(item: Item) -> float | None:
    """The item's score as a plain float; ValueError where it is no number."""
    if item.score is None:
        return None
    if not isinstance(item.score, (float, int, np.number)) or not math.isfinite(item.score):
        raise ValueError(f"score {item.score!r:.40} is no number")
    return float(item.score)

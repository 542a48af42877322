"""Named filters of an answer's regions, off unless a call asks for them.

Each judges regions by the arithmetic of `box_rules`, which a store's filters use too, and only answers of the kinds
where leaving a region out does not change what the answer says: a phrase may name the whole picture, and two phrases
the same place. A rejected region leaves the answer, a phrase without regions with it; `Answer.decisions` says why.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from florence2 import box_rules, geometry
from florence2.predictor.confidence import without
from florence2.records import Decision, Parsed, Region

Size = tuple[int, int]
PLACED = ("labelled_boxes", "boxes", "open_boxes", "phrases", "quads", "polygons")
OBJECTS = ("labelled_boxes", "boxes", "open_boxes")


@dataclass(frozen=True)
class PostFilter:
    """One filter: what it rejects, its word for that, the answer kinds that it judges, and how."""

    says: str
    reason: str
    kinds: tuple[str, ...]
    judge: Callable[[Judged], Iterator[Decision]]


@dataclass(frozen=True)
class Judged:
    """The regions of an answer that have a place: boxes (N, 4), scores (N,), 1 where there is none, names."""

    regions: Sequence[Region]
    boxes: np.ndarray
    scores: np.ndarray
    labels: Sequence[str]
    size_wh: Size


def checked(names: Iterable[str], kinds: Iterable[str] = ()) -> tuple[str, ...]:
    """The filters' names in the order in which they judge; refused: an unknown one, one that judges none of `kinds`."""
    if isinstance(names, (str, bytes)) or not isinstance(names, Iterable):
        raise ValueError(
            f"filters: expected a list of names, got {names!r:.80}"
            + (f"; write ({names!r:.40},)" if names and isinstance(names, str) else "")
        )
    names, kinds = list(names), set(kinds)
    for name in names:
        if not isinstance(name, str) or name not in FILTERS:
            raise ValueError(f"filters: {name!r:.60}: expected some of {', '.join(FILTERS)}")
        if kinds and not kinds & set(FILTERS[name].kinds):
            judged = ", ".join(FILTERS[name].kinds)
            raise ValueError(f"filters: {name}: judges {judged}, and no ask of this call gives those; leave it out")
    return tuple(name for name in FILTERS if name in names)


def apply(parsed: Parsed, names: Sequence[str], kind: str, size_wh: Size) -> tuple[Parsed, tuple[Decision, ...]]:
    """The answer without the regions that these filters reject, one after another, and the verdicts on those."""
    decisions: list[Decision] = []
    for name in names:
        row = FILTERS[name]
        if kind in row.kinds:
            found = [dataclasses.replace(d, rule=name, reason=row.reason) for d in row.judge(_judged(parsed, size_wh))]
            parsed = without(parsed, {d.item_id for d in found})
            decisions += found
    return parsed, tuple(decisions)


def _judged(parsed: Parsed, size_wh: Size) -> Judged:
    phrases = {i: grounding.phrase for grounding in parsed.groundings for i in grounding.region_ids}
    placed = [(region, geometry.region_box(region)) for region in parsed.regions]
    regions = [region for region, box in placed if box is not None]
    return Judged(
        regions,
        geometry.as_boxes([box for _, box in placed if box is not None]),
        np.array([1.0 if region.score is None else region.score for region in regions]),
        [region.label or region.description or phrases.get(region.id, "") for region in regions],
        size_wh,
    )


def _rejected(region: Region, value: float, threshold: float, by: Region | None = None) -> Decision:
    return Decision(region.id, "rejected", "", "", float(value), float(threshold), by.id if by else "")


def _invalid(judged: Judged) -> Iterator[Decision]:
    for region, valid in zip(judged.regions, box_rules.is_valid(judged.boxes, judged.size_wh)):
        outlines = region.polygons or ((region.quad,) if region.quad else ())
        if not valid or (outlines and not any(geometry.polygon_area(outline) for outline in outlines)):
            yield _rejected(region, 0, 0)


def _whole_image(judged: Judged) -> Iterator[Decision]:
    for region, share in zip(judged.regions, box_rules.picture_share(judged.boxes, judged.size_wh)):
        if share > box_rules.WHOLE_IMAGE:
            yield _rejected(region, share, box_rules.WHOLE_IMAGE)


def _nms(judged: Judged, labels: Sequence[str] | None) -> Iterator[Decision]:
    kept, value, winner = box_rules.nms(judged.boxes, judged.scores, box_rules.NMS_IOU, labels)
    for place in np.flatnonzero(~kept).tolist():
        best = judged.regions[winner[place]]
        yield _rejected(judged.regions[place], value[place], box_rules.NMS_IOU, best)


def _containers(judged: Judged) -> Iterator[Decision]:
    counts = box_rules.contained_count(judged.boxes, judged.labels)
    for region, count in zip(judged.regions, counts.tolist()):
        if count >= box_rules.CONTAINS:
            yield _rejected(region, count, box_rules.CONTAINS)


FILTERS: Mapping[str, PostFilter] = MappingProxyType(
    {  # in the order in which they judge
        "invalid": PostFilter("regions without an area inside the picture", "invalid", PLACED, _invalid),
        "whole_image": PostFilter(
            f"boxes of more than {box_rules.WHOLE_IMAGE:.0%} of the picture", "whole_image", OBJECTS, _whole_image
        ),
        "nms": PostFilter(
            f"of regions of one label that overlap by an IoU above {box_rules.NMS_IOU}, all but the best scored",
            "overlap",
            PLACED,
            lambda judged: _nms(judged, judged.labels),
        ),
        "nms_all": PostFilter("the same, whatever the labels", "overlap", OBJECTS, lambda judged: _nms(judged, None)),
        "containers": PostFilter(
            f"boxes that hold {box_rules.CONTAINS} or more smaller ones of their label",
            "container",
            OBJECTS,
            _containers,
        ),
    }
)

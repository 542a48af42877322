"""What is known not to be there: what a person took away, and what a labelled set or a person leaves no room for.

What a later run says again of the same place is rejected. Knows samples only.
Only students that came after the person's verdict are meant: of two boxes that were there a person may have deleted
either one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from florence2.engine.curation.human_verdicts import PEOPLES_SPACES
from florence2.engine.session import HUMAN
from florence2.geometry import iou
from florence2.labels import fold_spaces
from florence2.records import Decision, Region, Sample, Text

REASON = "deleted_before"


@dataclass(frozen=True)
class Refusal:
    """An item that a person deleted or replaced, and the round of that verdict."""

    item: Union[Region, Text]
    round: int


def refusals(sample: Sample) -> list[Refusal]:
    """Of a sample with all items and verdicts what a person's last word took away."""
    last = {d.item_id: d for d in sorted(sample.decisions, key=lambda d: (d.round, d.seq))}
    items: tuple[Region | Text, ...] = (*sample.regions, *sample.texts)
    found = ((item, last.get(item.id)) for item in items)
    return [Refusal(i, d.round) for i, d in found if d is not None and d.rule == HUMAN and d.status != "kept"]


def said_again(
    sample: Sample,
    refused: Sequence[Refusal],
    since: Mapping[str, int],
    least: float,
    label_of: Callable[[str], str],
) -> list[Decision]:
    """Rejections of kept items that say what a person took away before.

    `since`: the round of verdicts in which each student's run came. `least`: the IoU from which two boxes are of one
    object. An item where a person has drawn or confirmed one of the same label is that object, and stays.
    """
    out = []
    for region in sample.regions if refused else ():
        if region.box is None or region.refines or _vouched(region):
            continue
        theirs = [r for r in sample.regions if _vouched(r) and r.box is not None and _alike(region, r, label_of)]
        if any(_overlap(region, other) >= least for other in theirs):
            continue
        before = [r.item for r in refused if isinstance(r.item, Region) and r.round < _first(region, since)]
        overlaps = [_overlap(region, r) for r in before if r.box is not None and _alike(region, r, label_of)]
        if (best := max(overlaps, default=0.0)) >= least:
            out.append(Decision(region.id, "rejected", "", REASON, best, least))
    for text in sample.texts if refused else ():
        before_it = (r.item for r in refused if isinstance(r.item, Text) and r.round < _first(text, since))
        if not _vouched(text) and any(_said(text) == _said(other) for other in before_it):
            out.append(Decision(text.id, "rejected", "", REASON))
    return out


def contradicted(
    sample: Sample,
    regions: Sequence[Region],
    refused: Sequence[Refusal],
    least: float,
    label_of: Callable[[str], str],
) -> list[Decision]:
    """Rejections of objects that a labelled set or a person says are not there: what the absence of a label means.

    `least`: the IoU from which two boxes are of one object.
    """
    states = [(space, c) for space, found in sample.coverage.items() for c in found]
    listed_by = {r.label_space for r in sample.regions if _vouched(r)}  # sets that list objects of this picture
    listed_by |= {r.item.label_space for r in refused if isinstance(r.item, Region)} | set(PEOPLES_SPACES)
    absent = {label_of(x) for _, c in states if c.state == "negatives" for x in c.labels}
    whole = {label_of(x) for s, c in states if c.state == "exhaustive" and s in listed_by for x in c.labels}
    listed: dict[str, list[Region]] = {}
    for region in sample.regions:
        if _vouched(region) and region.box is not None:
            listed.setdefault(label_of(region.label), []).append(region)
    out = []
    for region in regions:
        label = label_of(region.label)
        if _vouched(region) or region.kind != "object" or label not in absent | whole or label in absent & set(listed):
            continue
        known = listed.get(label, [])
        best = max((_covered(region, r) if r.ignore else _overlap(region, r) for r in known), default=0.0)
        if label in absent or best < least:
            reason = "verified_absent" if label in absent else "not_listed"
            out.append(Decision(region.id, "rejected", "", reason, best, least))
    return out


def _covered(region: Region, crowd: Region) -> float:
    """The share of a region that lies in a crowd, which represents any number of objects."""
    (x1, y1, x2, y2), (a1, b1, a2, b2) = region.box or (0.0,) * 4, crowd.box or (0.0,) * 4
    inside = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
    return inside / max((x2 - x1) * (y2 - y1), 1e-9)


def _vouched(item: Region | Text) -> bool:
    """Whether a person or a data set stands behind an item."""
    return item.source is not None and item.source.kind in (HUMAN, "import")


def _first(item: Region | Text, since: Mapping[str, int]) -> int:
    return since.get(item.source.run_id, -1) if item.source is not None else -1


def _alike(one: Region, other: Region, label_of: Callable[[str], str]) -> bool:
    return one.kind == other.kind and label_of(one.label) == label_of(other.label)


def _overlap(one: Region, other: Region) -> float:
    return float(iou([one.box], [other.box])[0, 0])


def _said(text: Text) -> tuple[str, str, str]:
    return text.detail, text.question, fold_spaces(text.text)

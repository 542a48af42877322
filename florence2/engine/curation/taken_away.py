"""What a person took away stays away: what a later run says again of the same place is rejected. Knows samples only.

Only students that came after the person's verdict are meant: of two boxes that were there a person may have deleted
either one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

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
    label_of: Callable[[Region], str],
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


def _vouched(item: Region | Text) -> bool:
    """Whether a person or a data set stands behind an item."""
    return item.source is not None and item.source.kind in (HUMAN, "import")


def _first(item: Region | Text, since: Mapping[str, int]) -> int:
    return since.get(item.source.run_id, -1) if item.source is not None else -1


def _alike(one: Region, other: Region, label_of: Callable[[Region], str]) -> bool:
    return one.kind == other.kind and label_of(one) == label_of(other)


def _overlap(one: Region, other: Region) -> float:
    return float(iou([one.box], [other.box])[0, 0])


def _said(text: Text) -> tuple[str, str, str]:
    return text.detail, text.question, fold_spaces(text.text)

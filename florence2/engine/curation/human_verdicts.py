"""What a person did to pictures, as rows of the store: annotations of kind `human`, verdicts of the rule `human`.

No later round undoes them: filters do not judge what they keep, nor reopen what they reject. A reviewer's file
(`reviewing`) and a correction on the page (`correcting`) both end here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Union

import numpy as np

from florence2 import geometry
from florence2.engine.execution.provenance import attach_provenance
from florence2.engine.session import HUMAN
from florence2.records import Decision, Parsed, Region, Sample, Source, Text
from florence2.store import Operator

AnyItem = Union[Region, Text]
REVIEWED, CORRECTED = "reviewed", "corrected"  # who brings a person's word: from a file, from the page
PEOPLES_SPACES = (REVIEWED, CORRECTED)  # the label spaces of what people say to be complete, where no set has the label
LEAST_AREA = 1e-6  # of a person's shape, in square pixels
OUTCOMES = ("deleted", "changed", "added", "confirmed")


@dataclasses.dataclass
class PictureChanges:
    """What a person did to one picture: new items, each perhaps in place of old ones; items deleted, and confirmed."""

    new: list[tuple[AnyItem, AnyItem | None]] = dataclasses.field(default_factory=list)
    deleted: list[Any] = dataclasses.field(default_factory=list)
    confirmed: list[Any] = dataclasses.field(default_factory=list)


class HumanRows:
    """What is written for some pictures of one unit: a person's annotations and verdicts.

    `name` is the source of what is new; `fingerprint` is what the ids of it are made of.
    """

    def __init__(self, operator: Operator, seq: int, name: str, fingerprint: str = "") -> None:
        self.operator, self.seq = operator, seq
        self.source = Source(HUMAN, name, operator.version, operator.round, operator.run_id)
        self.fingerprint = fingerprint or operator.fingerprint
        self.annotated: list[Sample] = []
        self.decisions: list[tuple[str, Decision]] = []
        self.counts: Counter[str] = Counter()
        self.images: list[str] = []

    def add(self, now: Sample, found: PictureChanges) -> list[str]:
        """Note what a person did to a picture; the ids of the new items, in order."""
        regions = tuple(_fresh(item, old, n) for n, (item, old) in enumerate(found.new) if isinstance(item, Region))
        texts = tuple(_fresh(item, old, n) for n, (item, old) in enumerate(found.new) if isinstance(item, Text))
        bare = Sample(now.id, now.image, now.texts, now.regions, now.groundings)  # what a new item may refer to
        signed = attach_provenance(Parsed(texts, regions), bare, self.source, self.fingerprint)
        self.images.append(now.image.id)
        self.annotated.append(signed)
        ids = {item.id: new.id for item, new in zip((*regions, *texts), signed.items())}
        verdicts = [Decision(item.id, "rejected", HUMAN, "deleted") for item in found.deleted]
        verdicts += [Decision(item.id, "kept", HUMAN, "confirmed") for item in found.confirmed]
        for n, (_, old) in enumerate(found.new):
            verdicts.append(Decision(ids[f"n{n}"], "kept", HUMAN, "added" if old is None else "changed"))
            if old is not None:
                verdicts.append(Decision(old.id, "superseded", HUMAN, "changed", by_id=ids[f"n{n}"]))
        same = {old.id for item, old in found.new if old is not None and _shape(item) == _shape(old)}
        verdicts += _details(now.current(), verdicts, same)
        self.counts.update(deleted=len(found.deleted), confirmed=len(found.confirmed))
        self.counts.update("added" if old is None else "changed" for _, old in found.new)
        self.judge(now.image.id, verdicts)
        return [ids[f"n{n}"] for n in range(len(found.new))]

    def judge(self, image_id: str, verdicts: Sequence[Decision]) -> None:
        """Note verdicts on a picture's items, as of now."""
        placed = (dataclasses.replace(verdict, round=self.operator.round, seq=self.seq) for verdict in verdicts)
        self.decisions += [(image_id, verdict) for verdict in placed]


def _fresh(item: Any, old: AnyItem | None, number: int) -> Any:
    """A person's item as it is stored: what it takes over from the one it replaces is its label space.

    A description of what is called otherwise now is no longer true.
    """
    more: dict[str, Any] = {}
    if isinstance(old, Region):
        more["label_space"] = old.label_space
        if item.label != old.label and item.description == old.description:
            more["description"] = ""
    return dataclasses.replace(item, id=f"n{number}", score=None, **more)


def has_area(outlines: Iterable[Sequence[float]]) -> bool:
    """Whether a shape that a person drew is one: together its outlines hold something."""
    return sum(map(geometry.convex_area, outlines)) >= LEAST_AREA


def _shape(item: AnyItem) -> Any:
    return (item.box, item.quad, item.polygons, item.mask) if isinstance(item, Region) else None


def _details(sample: Sample, verdicts: Sequence[Decision], renamed: Collection[str]) -> list[Decision]:
    """What refined an item that is gone goes with it: a mask its box.

    Where the item is only `renamed`, its outline stays, under the new label; a description, of the old one, goes.
    """
    gone = {verdict.item_id: verdict for verdict in verdicts if verdict.status != "kept"}
    return [
        dataclasses.replace(gone[region.refines], item_id=region.id)
        for region in sample.regions
        if region.refines in gone and region.id not in gone
        if region.refines not in renamed or (region.description and not region.polygons and region.mask is None)
    ]


def said_by(person: str, sample: Sample) -> list[AnyItem]:
    """What a person has entered about a picture, as far as it is kept."""
    now = sample.current()
    items: list[AnyItem] = [*now.regions, *now.texts]
    return [item for item in items if item.source and (item.source.kind, item.source.name) == (HUMAN, person)]


def take_same(items: list[AnyItem], wanted: AnyItem) -> AnyItem | None:
    """The first item that says the same of the same place, to the float32 that is stored, taken out of the list."""
    for place, item in enumerate(items):
        if _said(item) == _said(wanted):
            return items.pop(place)
    return None


def sent_before(sample: Sample, changes: Sequence[Any], confirming: Sequence[Any]) -> str:
    """The name of the correction that added all of this, where nobody has judged any of it since; "" without one.

    `confirming`: the changes, those that add what their person has added already as verdicts on it.
    """
    if any(change.verdict != "added" for change in changes):
        return ""
    last = last_verdicts(sample)
    verdicts = [last.get(change.ann_id) for change in confirming]
    if any(verdict is None or verdict.reason != "added" for verdict in verdicts):
        return ""
    names = {place_of(verdict) for verdict in verdicts}
    return names.pop() if len(names) == 1 else ""


def _said(item: AnyItem) -> Any:
    if isinstance(item, Text):
        return item.detail, item.text
    shapes = (item.box, item.quad, *item.polygons)
    return item.kind, item.label, [np.asarray(shape, np.float32).tolist() for shape in shapes]


def last_verdicts(sample: Sample) -> dict[str, Decision]:
    """The last verdict on each item that has one."""
    return {d.item_id: d for d in sorted(sample.decisions, key=lambda d: (d.round, d.seq))}


def place_of(decision: Decision | None) -> str:
    """ROUND.SEQ of a verdict, which is also the name of the correction that brought it; "" without one."""
    return f"{decision.round}.{decision.seq}" if decision is not None else ""

"""One pass over a snapshot for a report: labels, scores and sizes counted, where sources disagree, where examples are.

Reads group by group, in bounded memory. A place is (group, image id).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from florence2 import geometry
from florence2.labels import fold_label
from florence2.store import Store, UnitGroup

BINS = 20
STATUSES = ("kept", "superseded", "rejected")
EXAMPLES = 4  # pictures for each reason, where there is room
SAME = 0.5  # IoU from which two sources mean one object
COMPARED = 20_000  # pictures in which sources are compared
CROWDED = 300  # boxes of one picture beyond which they are not

Parts = dict[str, list[int]]


def _parts() -> Parts:
    return {name: [0] * BINS for name in STATUSES}


@dataclass
class Disagreement:
    """Two sources that name one object differently: how often, and the first picture where they do."""

    count: int
    picture: str


@dataclass
class Survey:
    """What was counted."""

    scores: dict[tuple[int, str], Parts] = field(default_factory=dict)
    sides: Parts = field(default_factory=_parts)  # of boxes: the root of their share of the picture
    labels: dict[str, Counter[str]] = field(default_factory=dict)  # label -> status -> count
    unnamed: Counter[str] = field(default_factory=Counter)  # boxes without a name, by source
    disagreements: dict[tuple[str, str, str, str], Disagreement] = field(default_factory=dict)
    shared: Counter[tuple[str, str]] = field(default_factory=Counter)  # boxes that two sources both found
    found: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # and all of each, in the same pictures
    compared: int = 0
    examples: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # reason -> a few places
    sizes: list[int] = field(default_factory=list)  # good pictures in each group


def survey(store: Store) -> Survey:
    """The newest snapshot, gone through once."""
    out = Survey()
    for number, group in enumerate(store.groups()):
        good = {picture.id: picture for picture in store.pictures(group)}
        out.sizes.append(len(good))
        _group(store, group, number, good, out)
    return out


def _group(store: Store, group: UnitGroup, number: int, good: Mapping[str, Any], out: Survey) -> None:
    boxes: dict[str, dict[str, list[tuple[str, Any]]]] = {}  # image -> source -> (label, box)
    for row in store.judged(group):
        _, image, family, kind, label, source, round_, score, box, parent, status, rule, reason = row
        status = status if status in STATUSES else "kept"
        if status != "kept" and image in good:
            places = out.examples.setdefault(reason or rule or status, [])
            if len(places) < EXAMPLES and (number, image) not in places:
                places.append((number, image))
        if score is not None and score == score:
            parts = out.scores.setdefault((round_ or 0, source or ""), _parts())
            parts[status][_bin(score)] += 1
        if family != "region_text" or kind == "text" or parent:
            continue
        if label:
            out.labels.setdefault(label, Counter())[status] += 1
        else:
            out.unnamed[source or ""] += 1
        if box is not None and image in good:
            width, height = good[image].width, good[image].height
            area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
            out.sides[status][_bin((area / max(1, width * height)) ** 0.5)] += 1
            boxes.setdefault(image, {}).setdefault(source or "", []).append((label or "", box))
    for image, by_source in boxes.items():
        if len(by_source) > 1 and out.compared < COMPARED:
            out.compared += 1
            _compare(by_source, str(good[image].uri).rsplit("/", 1)[-1], out)


def _compare(by_source: Mapping[str, list[tuple[str, Any]]], picture: str, out: Survey) -> None:
    """Count what each two sources of one picture both found, and where they name it differently."""
    for one, other in combinations(sorted(by_source), 2):
        ours, theirs = by_source[one], by_source[other]
        if len(ours) + len(theirs) > CROWDED:
            continue
        out.found[one, other, one] += len(ours)
        out.found[one, other, other] += len(theirs)
        overlap = geometry.iou(geometry.as_boxes([b for _, b in ours]), geometry.as_boxes([b for _, b in theirs]))
        while overlap.size and overlap.max() >= SAME:  # each with the one that it overlaps most
            i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
            out.shared[one, other] += 1
            a, b = ours[i][0], theirs[j][0]
            if a and b and fold_label(a) != fold_label(b):
                out.disagreements.setdefault((one, a, other, b), Disagreement(0, picture)).count += 1
            overlap[i, :], overlap[:, j] = -1, -1


def _bin(value: float) -> int:
    return min(BINS - 1, max(0, int(value * BINS)))

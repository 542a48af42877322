"""Which pictures are worth a person's minute: those where most is probably wrong, and such as nobody has looked at.

A picture's worth is about the number of its annotations that are probably to be corrected:

    doubtful    the sum of 1 - score over what is kept; 1/2 for what has no score
    disputed    objects that two sources name differently, and objects of one source that another, which knows the
                label, does not have
    uncertain   scores near the threshold of the rule that kept or rejected them: 1 at the threshold, 1/e at WIDTH off
    silent      1 for a picture on which nothing was found
    new         labels that are rare in the store: 1 / root of how often, for the rarest of the picture

WEIGHTS were chosen on drawn scenes (`benchmarks/review_order.py`, seed 0) and are checked there on others.
Pictures that a person went over, and those whose labels a data set states in full, are left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from florence2 import geometry
from florence2.labels import fold_label
from florence2.records import Decision, Region, Sample
from florence2.store import Store

WIDTH = 0.15  # of a score
THRESHOLD = 0.4  # where no rule states one
SAME = 0.5  # IoU from which two boxes are of one object
WEIGHTS: Mapping[str, float] = {"doubtful": 1.0, "disputed": 0.3, "uncertain": 0.3, "silent": 0.5, "new": 0.1}


@dataclass(frozen=True)
class ReviewPicture:
    """A picture, what a person's look at it is worth, and the parts of that sum."""

    image_id: str
    worth: float
    parts: Mapping[str, float]


def review_order(store: Store) -> list[ReviewPicture]:
    """The pictures of the newest snapshot that nobody has gone over, those worth most first.

    Reads the store three times, a group of units at a time.
    """
    seen: Counter[str] = Counter()
    known: dict[str, set[str]] = {}  # source -> the labels that it uses
    for group in store.groups():
        for sample in store.group_samples(group):
            for region in objects(sample):
                seen[fold_label(region.label)] += 1
    for group in store.groups():
        for sample in store.group_samples(group, "all"):
            for region in objects(sample):
                if not region.derived_from:
                    known.setdefault(_source(region), set()).add(fold_label(region.label))
    found = []
    for group in store.groups():
        for sample in store.group_samples(group, "all"):
            if not reviewed(sample):
                parts = worth(sample, seen, known)
                total = sum(WEIGHTS[name] * value for name, value in parts.items())
                found.append(ReviewPicture(sample.image.id, total, parts))
    return sorted(found, key=lambda one: (-one.worth, one.image_id))


def reviewed(sample: Sample) -> bool:
    """Whether all that the sample's labels mean is stated as complete: by a person, or by the set it came with."""
    return any(state.state == "exhaustive" for states in sample.coverage.values() for state in states)


def worth(sample: Sample, seen: Mapping[str, int], known: Mapping[str, set[str]]) -> dict[str, float]:
    """The parts of a picture's worth; `sample` holds rejected items and their verdicts too.

    `seen`: how often each folded label is in the store; `known`: the folded labels that each source uses.
    """
    kept = objects(sample.current())
    everything = objects(sample)
    last = {d.item_id: d for d in sorted(sample.decisions, key=lambda d: (d.round, d.seq))}
    uncertain = 0.0
    for region in everything:
        verdict = last.get(region.id)
        scored = verdict is not None and verdict.reason == "low_score" and verdict.threshold is not None
        threshold = verdict.threshold if scored and verdict is not None else THRESHOLD
        fused = verdict is not None and verdict.status == "superseded"
        if region.score is not None and not fused and threshold is not None:
            uncertain += math.exp(-abs(region.score - threshold) / WIDTH)
    rarest = min((seen.get(fold_label(region.label), 0) for region in kept), default=0)
    return {
        "doubtful": sum(0.5 if region.score is None else 1 - region.score for region in kept if _is_guess(region)),
        "disputed": float(len(_disputed(everything, known, last) & {region.id for region in kept})),
        "uncertain": uncertain,
        "new": 1 / math.sqrt(rarest) if rarest else 0.0,
        "silent": 0.0 if kept else 1.0,
    }


def _is_guess(region: Region) -> bool:
    """Whether no person and no data set vouches for a region."""
    return region.source is None or region.source.kind not in ("human", "import")


def objects(sample: Sample) -> list[Region]:
    """The boxes of objects that a sample names; parts and outlines of others are theirs."""
    return [r for r in sample.regions if r.kind == "object" and r.label and r.box is not None and not r.refines]


def _disputed(everything: Sequence[Region], known: Mapping[str, set[str]], last: Mapping[str, Decision]) -> set[str]:
    """The objects that sources name differently, or one of them lacks though it knows the label; their winners."""
    by_source: dict[str, list[Region]] = {}
    for region in everything:
        if not region.derived_from:  # what several sources agreed on is no source of its own
            by_source.setdefault(_source(region), []).append(region)
    disputed: set[str] = set()
    for one, other in combinations(sorted(known), 2):
        ours, theirs = by_source.get(one, []), by_source.get(other, [])
        overlap = geometry.iou(_boxes(ours), _boxes(theirs))
        for mine, yours, table, labels in (
            (ours, theirs, overlap, known[other]),
            (theirs, ours, overlap.T, known[one]),
        ):
            for region, row in zip(mine, table):
                label = fold_label(region.label)
                match = yours[int(row.argmax())] if row.size and row.max() >= SAME else None
                if (match is None and label in labels) or (match is not None and fold_label(match.label) != label):
                    disputed.add(_standing(region.id, last))
    return disputed


def _standing(name: str, last: Mapping[str, Decision]) -> str:
    """The item that replaced one that was superseded or suppressed."""
    passed = set()
    while name in last and last[name].status != "kept" and last[name].by_id and name not in passed:
        passed.add(name)
        name = last[name].by_id
    return name


def _boxes(regions: Sequence[Region]) -> np.ndarray:
    return geometry.as_boxes([region.box for region in regions if region.box is not None])


def _source(region: Region) -> str:
    return region.source.name if region.source is not None else ""

"""The methods, each alone: when an answer ends, the order of items, labels in doubt, several views of a picture."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claims_parts import setting, students
from claims_parts.controls import REPLAY, labels_of, tests_of
from claims_parts.setting import Results, Size
from florence2.geometry import iou
from florence2.labels import fold_label
from florence2.records import Sample


@dataclass(frozen=True)
class Method:
    """How a student is trained, and how it is asked."""

    name: str
    training: Mapping[str, Any] = field(default_factory=dict)
    asking: Mapping[str, Any] = field(default_factory=dict)
    by_capture: bool = False
    """Go on above half of the share of objects that the labels keep, by capture and recapture."""
    least: float = 0.0
    """The score below which answers are left out, as a filter would."""


def source(**keys: Any) -> dict[str, Any]:
    return {**REPLAY, "source": keys}


METHODS = (
    Method("replay", REPLAY),
    Method("replay; four views", REPLAY, {"views": True}),
    Method("replay; scores from 0.3", REPLAY, least=0.3),
    Method("replay; four views; scores from 0.3", REPLAY, {"views": True}, least=0.3),
    Method("replay; more above half of c", REPLAY, by_capture=True),
    Method("replay; more above 0.5", REPLAY, {"more_above": 0.5}),
    Method("replay; random order", source(item_order="random")),
    Method("replay; end not scored", source(open_end=True)),
    Method("replay; end not scored; more above half of c", source(open_end=True), by_capture=True),
    Method("replay; labels below 0.6 not scored", source(unsure_below=0.6)),
    Method("no replay"),
    Method("no replay; more above half of c", by_capture=True),
    Method("no replay; random order", {"source": {"item_order": "random"}}),
)


def run(results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]) -> None:
    """Every method, the first seed of each first."""
    for seed in seeds:
        for method in METHODS:
            if not more():
                return
            results.once("methods", method.name, seed, functools.partial(measured, method, folder, results.size, seed))


def measured(method: Method, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """One method; students of equal training are trained once."""
    labels, truth = labels_of("filtered", folder, size, seed)
    made, facts = students.trained(folder, labels, size.long, size.lr, size.batch, seed, **method.training)
    tests = tests_of(folder, size)
    asking = dict(method.asking)
    if method.by_capture:
        known = setting.truth_of(labels)
        share = captured(known, students.answers("nano", setting.truth_of(truth)))
        facts |= {"captured": round(share, 3), "true": round(captured(known, setting.truth_of(truth)), 3)}
        asking["more_above"] = share / 2
    found = students.answers(str(made), tests, **asking)
    kept = {
        name: dataclasses.replace(one, regions=tuple(r for r in one.regions if (r.score or 0) >= method.least))
        for name, one in found.items()
    }
    return {**facts, "counts": setting.counts(tests, kept)}


def captured(labels: Mapping[str, Sample], other: Mapping[str, Sample], sure: float = 0.5) -> float:
    """|A and B| / |B|: the share of another source's sure objects that the labels have, by name and place."""
    both = of_other = 0
    for name, sample in other.items():
        own = [r for r in labels[name].regions if r.kind == "object"]
        for region in sample.regions:
            if region.kind == "object" and (region.score is None or region.score >= sure):
                of_other += 1
                same = [r.box for r in own if fold_label(r.label) == fold_label(region.label)]
                both += bool(same) and float(iou([region.box], same).max()) >= 0.5
    return both / max(of_other, 1)

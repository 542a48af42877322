"""The methods, each alone: when an answer ends, the order of items, labels in doubt, several views of a picture."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from claims_parts import setting, students
from claims_parts.controls import REPLAY, labels_of, tests_of
from claims_parts.setting import Results, Size
from florence2.engine.specialists.simulated import Noise
from florence2.formats import jsonl
from florence2.geometry import iou
from florence2.labels import fold_label
from florence2.records import Region, Sample
from florence2.sources.splits import fold_of


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
    by_class: bool = False
    """Such a score of each label's own, from agreement with the labels of scenes that were not taught."""
    folds: bool = False
    """Names are not scored where the student of the other half says another one of the same box."""


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
    Method("replay; end not scored; four views; scores from 0.3", source(open_end=True), {"views": True}, least=0.3),
    Method("replay; end not scored; more above half of c", source(open_end=True), by_capture=True),
    Method("replay; labels below 0.6 not scored", source(unsure_below=0.6)),
    Method("replay; scores by label", REPLAY, by_class=True),
    Method("replay; names that the folds doubt not scored", source(unsure_names_below=0.01), folds=True),
    Method("replay; pull 0.3", {**REPLAY, "pull": 0.3}),
    Method("replay; end not scored, pulled", {**source(open_end=True), "pull_unscored": 1.0}),
    Method("replay; dense", {**REPLAY, "dense": 1.0}),
    Method("replay; dense; four views; scores from 0.3", {**REPLAY, "dense": 1.0}, {"views": True}, least=0.3),
    Method("no replay"),
    Method("no replay; pull 0.3", {"pull": 0.3}),
    Method("no replay; pull 0.7", {"pull": 0.7}),
    Method("no replay; end not scored, pulled", {"source": {"open_end": True}, "pull_unscored": 1.0}),
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
    if method.folds:
        labels = in_doubt(labels, truth, folder, size, seed)
    made, facts = students.trained(folder, labels, size.long, size.lr, size.batch, seed, **method.training)
    tests = tests_of(folder, size)
    asking = dict(method.asking)
    if method.by_capture:
        known = by_picture(labels)
        share = captured(known, students.answers("nano", setting.truth_of(truth)))
        facts |= {"captured": round(share, 3), "true": round(captured(known, setting.truth_of(truth)), 3)}
        asking["more_above"] = share / 2
    found = students.answers(str(made), tests, **asking)
    least = by_agreement(str(made), folder, size, seed) if method.by_class else {}
    kept = above(found, least or method.least)
    return {**facts, "counts": setting.counts(tests, kept)}


def by_picture(labels: Path) -> dict[str, Sample]:
    """Labels by the picture's name; their ids are those of the store that they came from."""
    return {Path(sample.image.uri).stem: sample for sample in jsonl.read(labels)}


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


def in_doubt(labels: Path, truth: Path, folder: Path, size: Size, seed: int) -> Path:
    """The labels with a score of 0 where the student of the other half of the pictures gives a box another name."""
    out = labels.parent / "doubted.jsonl"
    if out.is_file():
        return out
    known, pictures = list(jsonl.read(labels)), setting.truth_of(truth)
    said: dict[str, Sample] = {}
    for number in range(2):
        source = {"source": {"fold": (number, 2)}}
        made, _ = students.trained(folder, labels, size.long, size.lr, size.batch, seed, **REPLAY, **source)
        others = {Path(s.image.uri).stem for s in known if fold_of(s.image.id, 2) == number}
        said |= students.answers(str(made), {name: pictures[name] for name in pictures if name in others})
    jsonl.write((doubted(sample, said.get(Path(sample.image.uri).stem)) for sample in known), out)
    return out


def doubted(sample: Sample, other: Sample | None) -> Sample:
    """The sample with a score of 0 for objects that another source gives another name."""
    said = [r for r in other.regions if r.kind == "object"] if other else []

    def judged(region: Region) -> Region:
        near = [float(value) for value in iou([region.box], [r.box for r in said])[0]] if said else []
        best = max(range(len(near)), key=near.__getitem__, default=-1)
        if best < 0 or near[best] < 0.5 or fold_label(said[best].label) == fold_label(region.label):
            return dataclasses.replace(region, score=1.0)
        return dataclasses.replace(region, score=0.0)

    return dataclasses.replace(sample, regions=tuple(map(judged, sample.regions)))


def by_agreement(model: str, folder: Path, size: Size, seed: int) -> dict[str, float]:
    """Label -> the score from which answers agree best (F1) with filtered labels of scenes that were not taught."""
    root = folder / f"labels-{size.name}-{seed}-held"
    truth = setting.drawn(root / "scenes", setting.first_seed(seed) + 500_000, max(12, size.scenes // 4))
    known = setting.kept(setting.annotated(truth, root / "annotated", Noise(), seed))
    found = students.answers(model, setting.truth_of(truth))
    out: dict[str, float] = {}
    for label in {fold_label(r.label) for sample in known.values() for r in sample.regions if r.kind == "object"}:
        own, all_found = ({n: of_label(s, label) for n, s in each.items()} for each in (known, found))
        scores = sorted({round(r.score or 0, 2) for s in all_found.values() for r in s.regions})
        values = {
            least: float(setting.f1(np.asarray(setting.counts(own, above(all_found, least)), float).sum(0)))
            for least in (0.0, *scores)
        }
        out[label] = max(values, key=lambda least: (values[least], -least))
    return out


def of_label(sample: Sample, label: str) -> Sample:
    """The sample's objects of one label."""
    return dataclasses.replace(sample, regions=tuple(r for r in sample.regions if fold_label(r.label) == label))


def above(found: Mapping[str, Sample], least: float | Mapping[str, float]) -> dict[str, Sample]:
    """The objects scored so high, each label's own score where they are given."""

    def enough(region: Region) -> bool:
        own = least if isinstance(least, float) else least.get(fold_label(region.label), 0.0)
        return (region.score or 0) >= own

    return {name: dataclasses.replace(one, regions=tuple(filter(enough, one.regions))) for name, one in found.items()}

"""The controls: what labels, steps, rate and replay do to a student, before any method is tried."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claims_parts import setting, students
from claims_parts.setting import Results, Size
from florence2.engine.specialists.simulated import Noise
from florence2.formats import jsonl
from florence2.records import Sample

MISSES = Noise(jitter=0, wrong_label=0, invented=0)
NAMES = Noise(missed=0, jitter=0, invented=0)
JITTER = Noise(missed=0, wrong_label=0, invented=0)
SURE = 0.7  # answers of the start that are taught beside the labels


@dataclass(frozen=True)
class Arm:
    """A row of the table: labels, and how a student is trained on them."""

    name: str
    labels: str = ""
    """Empty: the start as it is."""
    long: bool = True
    rate: float = 1.0
    """Of the size's learning rate."""
    keys: Mapping[str, Any] = field(default_factory=dict)


REPLAY = {"replay_share": 0.5}
LORA = {"strategy": "lora", "lora": {"rank": 16, "alpha": 32.0}}
ARMS = (
    Arm("nano as it is"),
    Arm("filtered, short", "filtered", long=False),
    Arm("filtered, replay, long", "filtered", keys=REPLAY),
    Arm("filtered, long", "filtered"),
    Arm("truth, long", "truth"),
    Arm("truth, short", "truth", long=False),
    Arm("truth, replay, long", "truth", keys=REPLAY),
    Arm("filtered and the start's sure answers, long", "sure"),
    Arm("only misses, long", "misses"),
    Arm("only wrong names, long", "names"),
    Arm("only jitter, long", "jitter"),
    Arm("filtered, replay, flips and crops, long", "filtered", keys={**REPLAY, "flip": 0.5, "crop": 0.5}),
    Arm("filtered, replay, light, long", "filtered", keys={**REPLAY, "augment": "default"}),
    Arm("filtered, replay, long, 2.5 times the rate", "filtered", rate=2.5, keys=REPLAY),
    Arm("filtered, replay, long, half the rate", "filtered", rate=0.5, keys=REPLAY),
    Arm("filtered, frozen tower, long", "filtered", keys={"strategy": "frozen_vision"}),
    Arm("filtered, LoRA, long", "filtered", rate=5.0, keys=LORA),
    Arm("filtered, five times the pictures, long", "filtered x5"),
)  # fmt: skip


def labels_of(name: str, folder: Path, size: Size, seed: int) -> tuple[Path, Path]:
    """(the labels, the truth of their pictures) of a repetition."""
    many = 5 if name.endswith(" x5") else 1
    root = folder / f"labels-{size.name}-{seed}-{many}"
    truth = setting.drawn(root / "scenes", setting.first_seed(seed), size.scenes * many)
    out = truth.parent / f"{name.split()[0]}.jsonl"
    if out.is_file():
        return out, truth
    true = setting.truth_of(truth)
    if name == "truth":
        return setting.labels_file(out, list(true.values())), truth
    spoilt = {"misses": MISSES, "names": NAMES, "jitter": JITTER}
    if name in spoilt:
        specialist = setting.Numbered(str(truth), spoilt[name], seed, 0)
        return setting.labels_file(out, list(told(specialist, true))), truth
    kept = setting.kept(setting.annotated(truth, root / "annotated", Noise(), seed))
    if name == "sure":
        kept = with_sure(kept, students.answers("nano", true))
    return setting.labels_file(out, list(kept.values())), truth


def told(specialist: setting.Numbered, truth: Mapping[str, Sample]) -> Iterator[Sample]:
    """What a simulated specialist says of pictures, unjudged."""
    from florence2.engine.specialists.specialist_predictor import SpecialistPredictor

    found = SpecialistPredictor(specialist).annotate(list(truth.values()))
    yield from (one for one in found if isinstance(one, Sample))


def with_sure(labels: Mapping[str, Sample], answers: Mapping[str, Sample]) -> dict[str, Sample]:
    """The labels, and what the start is sure of where no label lies."""
    from florence2.geometry import iou

    out = {}
    for name, sample in labels.items():
        old = [r for r in sample.regions if r.kind == "object" and not r.refines]
        new = [r for r in answers[name].regions if (r.score or 0) >= SURE]
        free = [r for r in new if not old or float(iou([r.box], [o.box for o in old]).max()) < 0.5]
        regions = (*old, *(dataclasses.replace(r, id=f"sure-{n}") for n, r in enumerate(free)))
        out[name] = dataclasses.replace(sample, regions=regions)
    return out


def tests_of(folder: Path, size: Size) -> dict[str, Sample]:
    """The scenes that every student is asked about."""
    return setting.truth_of(setting.drawn(folder / f"tests-{size.name}", setting.first_seed(-1), size.tests))


def run(results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]) -> None:
    """Every arm, the first seed of each first."""
    for seed in seeds:
        for arm in ARMS:
            if not more():
                return
            results.once("controls", arm.name, seed, functools.partial(measured, arm, folder, results.size, seed))


def measured(arm: Arm, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """One arm: the counts of its answers on the tests."""
    tests = tests_of(folder, size)
    if not arm.labels:
        return {"counts": setting.counts(tests, students.answers("nano", tests))}
    labels, truth = labels_of(arm.labels, folder, size, seed)
    steps = size.long if arm.long else size.long // 5
    made, facts = students.trained(folder, labels, steps, size.lr * arm.rate, size.batch, seed, **arm.keys)
    found = setting.counts(tests, students.answers(str(made), tests))
    taught = {sample.id: sample for sample in jsonl.read(labels)}
    by_name = {Path(sample.image.uri).stem: sample for sample in taught.values()}
    return {**facts, "counts": found, "labels": setting.counts(setting.truth_of(truth), by_name)}

"""What pre-training teaches: tasks of which granularity, how many scenes, which parts are trained and started from.

The pattern of the paper's ablations on drawn scenes: models of equal samples, transferred to four tasks at once. All
start from one model warmed on captions, as the paper's start from a tower that saw image-level labels. The world is as
small as minutes of training ask for: one or two things of four kinds, 64 px, labels of places spread over their
neighbours. Where tasks are of regions, so is the auxiliary loss on the tower's map; a transfer has none.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import florence2
from claims_parts import students
from claims_parts.setting import Results, Size
from florence2 import scenes
from florence2.evaluation import evaluate
from florence2.training import train

IMAGE = {"CAPTION": 2.0, "DETAILED_CAPTION": 1.0, "MORE_DETAILED_CAPTION": 1.0}
REGION = {"OD": 3.0, "DENSE_REGION_CAPTION": 1.0, "REGION_TO_CATEGORY": 1.0, "CAPTION_TO_PHRASE_GROUNDING": 2.0}
PIXEL = {"REFERRING_EXPRESSION_SEGMENTATION": 1.0, "REGION_TO_SEGMENTATION": 1.0}
TRANSFER = ("CAPTION", "OD", "CAPTION_TO_PHRASE_GROUNDING", "REFERRING_EXPRESSION_SEGMENTATION")
STEPS = {"quick": (4, 6, 6), "small": (300, 800, 200), "full": (1000, 6000, 1000)}  # warming, pre-training, transfer
BATCH = 32
TESTS = {"quick": 4, "small": 100, "full": 100}
DRAWS = 200  # resamples of the test scenes
SCENES = "objects=1-2,min_side=0.3,max_side=0.7,repeats=0,clutter=0.1,signs=0,size=64,kinds=circle/star/house/fish"


@dataclass(frozen=True)
class Arm:
    """A pre-training: its tasks, its scenes, what it starts from and what is trained."""

    name: str
    tasks: Mapping[str, float]
    scenes: int = 100_000
    keys: Mapping[str, Any] = field(default_factory=dict)
    beside: str = ""
    """The arm that it is compared with."""
    transfer: bool = False
    """Whether it is transferred before it is asked."""
    start: str = ""
    """In place of the warmed model."""

    @property
    def folder(self) -> str:
        """Of the model before any transfer: that of the first arm that is trained alike."""
        trained = (self.tasks, self.scenes, self.keys, self.start)
        first = next(arm for arm in ARMS if (arm.tasks, arm.scenes, arm.keys, arm.start) == trained)
        return first.name.replace(" ", "-")


ALL = {**IMAGE, **REGION, **PIXEL}
UNBOUNDED = "all tasks, unbounded scenes"
ARMS = (
    Arm("image", IMAGE, transfer=True),
    Arm("image+region", {**IMAGE, **REGION}, transfer=True, beside="image"),
    Arm("image+region+pixel", ALL, transfer=True, beside="image+region"),
    Arm("all tasks, 30 scenes", ALL, 30, beside=UNBOUNDED),
    Arm("all tasks, 300 scenes", ALL, 300, beside=UNBOUNDED),
    Arm("all tasks, 3,000 scenes", ALL, 3000, beside=UNBOUNDED),
    Arm(UNBOUNDED, ALL),
    Arm("all tasks, frozen tower", ALL, keys={"strategy": "frozen_vision"}, beside=UNBOUNDED),
    Arm("all tasks, random start", ALL, start="new:nano", beside=UNBOUNDED),
    Arm("all tasks, the size small", ALL, start="new:small", beside="all tasks, random start"),
)
BESIDE = {arm.name: arm.beside for arm in ARMS if arm.beside}


def run(results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]) -> None:
    """Every arm, the first seed of each first."""
    for seed in seeds:
        for arm in ARMS:
            if not more():
                return
            results.once("pretraining", arm.name, seed, functools.partial(measured, arm, folder, results.size, seed))


def measured(arm: Arm, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """The main metrics of the four tasks on held-out scenes, and of resamples of them, the same ones for every arm."""
    warming, steps, transfer = STEPS[size.name]
    root = folder / "pretraining" / f"{size.name}-{seed}"
    model = str(root / arm.folder)
    start = arm.start or trained(root / "warmed", "new:nano", IMAGE, 100_000, warming, seed)
    regions = {"dense": 1.0} if "OD" in arm.tasks else {}
    trained(Path(model), start, arm.tasks, arm.scenes, steps, seed, **regions, **arm.keys)
    if arm.transfer:
        tasks = dict.fromkeys(TRANSFER, 1.0)
        model = trained(Path(f"{model}-transferred"), model, tasks, 2000, transfer, seed, first=500_000_000)
    opened = florence2.load(model)
    data = f"scenes:count={TESTS[size.name]},seed={scenes.TRAINING_SEEDS + 7_000_000},{SCENES}"
    metrics, draws = {}, {}
    for task in TRANSFER:
        scored = Path(f"{model}-scores/{task}")
        scores = evaluate(opened, data, task, scored, grey=False, resamples=DRAWS)
        main = scores["main"]
        metrics[task] = round(float(scores["metrics"][main]), 4)
        draws[task] = [round(v, 4) for v in json.loads((scored / "resamples.json").read_text())["scores"][main]]
    return {"steps": steps, "metrics": metrics, "draws": draws}


def trained(
    out: Path,
    start: str,
    tasks: Mapping[str, float],
    count: int,
    steps: int,
    seed: int,
    first: int = 0,
    **keys: Any,
) -> str:
    """A model's folder; found where it was trained before."""
    if not (out / "facts.json").is_file():
        data = {"path": f"scenes:count={count},seed={first},{SCENES}", "tasks": dict(tasks), "pairs": 2}
        own = {"model": start, "out": str(out), "seed": seed, "data": [data], "warmup_steps": max(1, steps // 20)}
        world = {"image_size": 64, "soft_locations": 10.0}
        how = {**students.recipe(steps, 1e-3, BATCH), "schedule": "trapezoid", "save_every": 500}
        new = {"vocab_size": 600} if start.startswith("new:") else {}
        result = train({**how, **own, **world, **new, **keys})
        if result.interrupted:
            raise KeyboardInterrupt
        (out / "facts.json").write_text(json.dumps({"loss": [result.loss_before, result.loss_after]}))
    return str(out)

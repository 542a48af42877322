"""One arm: a student trained by a recipe on labels, and what it answers on scenes outside of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence2.atomic_files import write_atomic
from florence2.engine.operator import digest
from florence2.engine.specialists.specialist_predictor import SpecialistPredictor
from florence2.engine.specialists.student import StudentSpecialist
from florence2.records import Sample
from florence2.training import train

REPLAY = "scenes:count=20000,seed=0,objects=1-3,min_side=0.15,signs=0"  # of nano's own training, seeds it may have seen


def recipe(steps: int, lr: float, batch: int) -> dict[str, Any]:
    """A student's training, in the fastest precision of this machine."""
    return {
        "steps": steps, "batch_size": batch, "lr": lr, "threads": 1, "warmup_steps": max(1, min(10, steps // 10)),
        "schedule": "linear", "dropout": 0.0, "precision": "bf16", "save_every": 100,
    }  # fmt: skip


def replayed() -> dict[str, Any]:
    """The source that is replayed."""
    return {"replay": {"path": REPLAY, "tasks": {"OD": 1.0}}}


def trained(
    folder: Path, labels: Path, steps: int, lr: float, batch: int, seed: int, start: str = "nano", **keys: Any
) -> tuple[Path, dict[str, Any]]:
    """The student's folder and what its training was; one that was trained so before is found."""
    asked = {
        "start": start,
        "labels": labels.parts[-3:],
        "steps": steps,
        "lr": lr,
        "batch": batch,
        "seed": seed,
        **keys,
    }
    out = folder / "students" / digest([str(value) for value in sorted(asked.items())])
    facts = out / "facts.json"
    if not facts.is_file():
        began = time.process_time()
        data = {"path": str(labels), "format": "jsonl", "tasks": {"OD": 1.0}, **keys.pop("source", {})}
        more = replayed() if "replay_share" in keys else {}
        run = {"model": start, "out": str(out), "seed": seed, "data": [data]}
        result = train({**recipe(steps, lr, batch), **run, **more, **keys})
        if result.interrupted:
            raise KeyboardInterrupt
        loss = [round(result.loss_before, 3), round(result.loss_after, 3)]
        made = {"steps": steps, "lr": lr, "loss": loss, "cpu_seconds": round(time.process_time() - began)}
        write_atomic(facts, json.dumps(made))
    return out, json.loads(facts.read_text())


def answers(model: str, truth: Mapping[str, Sample], **settings: Any) -> dict[str, Sample]:
    """What a model finds in the pictures, by picture name."""
    student = StudentSpecialist(model, ["OD"], 32, **settings)
    found = SpecialistPredictor(student).annotate(list(truth.values()))
    student.close()
    return {name: one for name, one in zip(truth, found) if isinstance(one, Sample)}

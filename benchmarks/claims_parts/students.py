"""One arm: a student trained by a recipe on labels, and what it answers on scenes outside of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import florence2
from florence2.engine.specialists.specialist_predictor import SpecialistPredictor
from florence2.engine.specialists.student import StudentSpecialist
from florence2.records import Sample
from florence2.training import train

REPLAY = "scenes:count=20000,seed=0,objects=1-3,min_side=0.15,signs=0"  # of nano's own training, seeds it may have seen


def trained(
    out: Path, labels: Path, steps: int, lr: float, batch: int, seed: int, start: str = "nano", **keys: Any
) -> tuple[Path, dict[str, Any]]:
    """The student's folder and what its training was; the fastest precision of this machine."""
    began = time.process_time()
    recipe: dict[str, Any] = {
        "model": start, "out": str(out), "steps": steps, "batch_size": batch, "lr": lr, "seed": seed, "threads": 1,
        "warmup_steps": max(1, min(10, steps // 10)), "schedule": "linear", "dropout": 0.0, "precision": "bf16",
        "data": [{"path": str(labels), "format": "jsonl", "tasks": {"OD": 1.0}}], "save_every": 100,
    }  # fmt: skip
    source = keys.pop("source", {})
    recipe["data"][0] |= source
    if share := keys.pop("replay_share", None):
        recipe |= {"replay": {"path": REPLAY, "tasks": {"OD": 1.0}}, "replay_share": share}
    result = train({**recipe, **keys})
    facts = {"steps": steps, "lr": lr, "loss": [round(result.loss_before, 3), round(result.loss_after, 3)]}
    return out, {**facts, "cpu_seconds": round(time.process_time() - began)}


def answers(model: str, truth: Mapping[str, Sample], **settings: Any) -> dict[str, Sample]:
    """What a model finds in the pictures, by picture name."""
    student = StudentSpecialist(model, ["OD"], 32, **settings)
    found = SpecialistPredictor(student).annotate(list(truth.values()))
    student.close()
    return {name: one for name, one in zip(truth, found) if isinstance(one, Sample)}


def discard(out: Path) -> None:
    """A student's folder is not kept: its answers are."""
    shutil.rmtree(out, ignore_errors=True)


__all__ = ["REPLAY", "answers", "discard", "florence2", "trained"]

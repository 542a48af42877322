"""Students of a store: trained once, kept whole under a name that says what they were trained on, found again.

`students/<key>/` holds the weights and `student.json`; the key is of the snapshot, the recipe, the fold, the weights it
started from and the seed. The same training gives other bits with other threads: a student found is not trained again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from florence2.engine.operator import digest
from florence2.engine.selectors import FoldSelector
from florence2.formats import documents
from florence2.records import Sample
from florence2.sources.splits import held_out
from florence2.store import Store, sha256_of
from florence2.structuring import structure

FACTS = "student.json"
LOCK = ".lock"
RESUME_ONLY = ("checkpoints", "dense.safetensors", LOCK)  # of a run: what only going on with it would need

# the student's training, for what a recipe does not say; keys are those of `train`
RECIPE: Mapping[str, Any] = {
    "steps": 200,
    "batch_size": 16,
    "lr": 2e-4,
    "warmup_steps": 10,
    "schedule": "linear",
    "dropout": 0.0,
}


class TrainSummary(Protocol):
    """What training says of itself."""

    @property
    def folder(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def loss_before(self) -> float: ...
    @property
    def loss_after(self) -> float: ...
    @property
    def weights_sha256(self) -> str: ...


TrainFunction = Callable[[dict[str, Any]], TrainSummary]  # the keys of `train`, plain values


@dataclass(frozen=True)
class TrainedStudent:
    """A trained student: where it is, what its training did, and which part of the pictures it never saw."""

    folder: str
    fold: int
    steps: int
    loss_before: float
    loss_after: float
    weights_sha256: str
    samples: int
    found: bool = False


def key_of(
    snapshot_sha256: str,
    recipe: Mapping[str, Any],
    fold: FoldSelector,
    start_sha256: str,
    seed: int,
    holdout: float = 0.0,
) -> str:
    """The name of a student's folder."""
    more = [holdout] if holdout else []
    return digest([snapshot_sha256, dict(recipe), fold.fold, fold.folds, start_sha256, seed, *more])


def train_student(
    store: Store,
    snapshot: int,
    fold: FoldSelector,
    start: str,
    start_sha256: str,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    train: TrainFunction | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    holdout: float = 0.0,
) -> TrainedStudent:
    """Train on what a snapshot keeps of the pictures outside `fold` (of all, where it is the only one), or find it.

    `holdout` is the share of pictures that no student is trained on.
    """
    settings = {**RECIPE, **(recipe or {})}
    key = key_of(store.snapshot(snapshot).sha256, settings, fold, start_sha256, seed, holdout)
    folder = store.student_folder(key)
    if not (folder / FACTS).is_file():
        aside = store.temporary_folder(f"student-{key}")
        with _alone(aside):
            if not (folder / FACTS).is_file():  # nor has another process trained it meanwhile
                source = _source(store, snapshot, fold, holdout)
                return _trained(store, source, start, settings, seed, train or _trainer(progress), aside, key)
            shutil.rmtree(aside, ignore_errors=True)
    facts = documents.read_object(folder / FACTS)
    stated = {**facts, "folder": str(folder), "fold": fold.fold, "found": True}
    return structure(TrainedStudent, stated, str(folder / FACTS))


@contextmanager
def _alone(folder: Path, wait: bool = True) -> Iterator[bool]:
    """Wait until no other process trains in a folder; one that was killed waits for nobody and is not waited for.

    False where one does and is not waited for.
    """
    import fcntl

    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = open(folder / LOCK, "w", encoding="utf-8")
        except FileNotFoundError:  # another process removed the folder meanwhile
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            if _is_at(file, folder / LOCK):
                yield True
                return


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still is the one at a path: its folder may have been removed and made again."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_empty(folder: Path) -> None:
    """Remove the folders of trainings in which nothing was made, and of which none goes on."""
    for each in folder.glob("student-*"):
        if {path.name for path in each.glob("*")} <= {LOCK}:
            with _alone(each, wait=False) as free:
                if free and {path.name for path in each.glob("*")} == {LOCK}:
                    shutil.rmtree(each, ignore_errors=True)


def _source(store: Store, snapshot: int, fold: FoldSelector, holdout: float) -> dict[str, Any]:
    """What a student is trained on, in the keys of a source of `train`."""
    source: dict[str, Any] = {"path": str(store.root), "format": "store", "snapshot": snapshot}
    if fold.folds > 1:
        source["fold"] = [fold.fold, fold.folds]
    return {**source, "holdout": holdout} if holdout else source


def _trained(
    store: Store,
    source: Mapping[str, Any],
    start: str,
    settings: dict[str, Any],
    seed: int,
    train: TrainFunction,
    aside: Path,
    key: str,
) -> TrainedStudent:
    """Train in the folder `aside` and keep what came out under its key."""
    number, folds = source.get("fold", (0, 1))
    fold, snapshot, holdout = FoldSelector(number, folds), source["snapshot"], source.get("holdout", 0.0)
    taught = (s for s in store.samples(snapshot) if (folds == 1 or not fold(s)) and not held_out(s.image.id, holdout))
    samples = sum(map(_has_truth, taught))
    if not samples:
        raise ValueError(f"{store.root}: snapshot {snapshot} keeps nothing to train fold {number} on; see its filters")
    more = settings.pop("data", [])
    run = aside / "run"
    data = [{**source, **settings.pop("source", {})}, *more]
    result = train({**settings, "model": start, "out": str(run), "seed": seed, "data": data})
    made = Path(result.folder)
    for name in RESUME_ONLY:
        path = made / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    facts: dict[str, Any] = {
        "steps": result.steps,
        "loss_before": result.loss_before,
        "loss_after": result.loss_after,
        "weights_sha256": _weights_sha256(made) or result.weights_sha256,
        "samples": samples,
    }
    (made / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    store.keep_student(key, made)
    shutil.rmtree(aside, ignore_errors=True)
    _remove_empty(aside.parent)
    return TrainedStudent(str(store.student_folder(key)), number, **facts)


def _weights_sha256(folder: Path) -> str:
    """Of the file that the student's source is named after."""
    files = sorted(folder.glob("*.safetensors"))
    return sha256_of(files[0]) if len(files) == 1 else ""


def _has_truth(sample: Sample) -> bool:
    return bool(sample.regions or sample.texts or sample.groundings)


def _trainer(progress: Callable[[str, int, int], None] | None) -> TrainFunction:
    """The project's own training, each step shown."""

    def trainer(config: dict[str, Any]) -> TrainSummary:
        from florence2.training import train

        def step(line: Mapping[str, Any]) -> None:
            if progress:
                progress("training", line["step"], config["steps"])

        result = train(config, step)
        if result.interrupted:
            raise KeyboardInterrupt
        return result

    return trainer

"""A real set: its labels thinned and spoilt as drawn ones are, and a student of them beside them on its test part.

The student starts from nano_256, by the recipe `detection`: nothing of nano's own training is like such pictures, so
nothing is replayed. Beside it a student of the true labels; both are asked as students of drawn scenes are. The labels
of the test part are made by the same specialist and filters.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims_parts import setting, students
from claims_parts.methods import above
from claims_parts.noise import ASKED
from claims_parts.setting import Results, Size
from florence2 import sources
from florence2.engine.specialists.simulated import Noise
from florence2.formats import jsonl
from florence2.records import Sample
from florence2.sources.files import path_of

RECIPE = {"dense": 1.0, "augment": "default", "crop": 0.7, "weight_decay": 0.05, "schedule": "cosine"}
RATE = 1e-3
BATCH = 8
STEPS = {"quick": 10, "small": 200, "full": 500}
FLIPPED = {"bccd": 0.5}  # what has letters is not mirrored


def run(
    sets: Mapping[str, str], results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]
) -> None:
    """Of every real set (its name and path): labels, a student of them, a student of the truth."""
    for seed in seeds:
        for name, data in sets.items():
            for arm, make in ARMS.items():
                if not more():
                    return
                given = functools.partial(make, name, data, folder, results.size, seed)
                results.once("real", f"{name}: {arm}", seed, given)


def truth_of(name: str, data: str, folder: Path, split: str) -> Path:
    """A part of the set as a folder of pictures with its truth in JSON Lines."""
    root = folder / "real" / name / split
    out = root / "truth.jsonl"
    if not out.is_file():
        (root / "images").mkdir(parents=True, exist_ok=True)
        samples = list(sources.open(data, split))
        for sample in samples:
            here = root / "images" / Path(sample.image.uri).name
            if not here.exists():
                here.symlink_to(path_of(sample.image.uri))
        jsonl.write(map(setting.objects_only, samples), out)
    return out


def true(name: str, data: str, folder: Path, split: str = "test") -> dict[str, Sample]:
    """The truth by picture name."""
    return {Path(one.image.uri).stem: one for one in jsonl.read(truth_of(name, data, folder, split))}


def said(name: str, data: str, folder: Path, seed: int, split: str) -> dict[str, Sample]:
    """What the specialist and the filters leave of a part, by picture name."""
    truth = truth_of(name, data, folder, split)
    return setting.kept(setting.annotated(truth, truth.parent / f"annotated-{seed}", Noise(), seed))


def labels(name: str, data: str, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """The specialist's labels of the test part."""
    return {"counts": setting.counts(true(name, data, folder), said(name, data, folder, seed, "test"))}


def student(
    asked: tuple[dict[str, Any], float],
    name: str,
    data: str,
    folder: Path,
    size: Size,
    seed: int,
    of_truth: bool = False,
) -> dict[str, Any]:
    """A student of the specialist's labels, or of the truth, on the test part."""
    file = truth_of(name, data, folder, "train")
    taught = true(name, data, folder, "train") if of_truth else said(name, data, folder, seed, "train")
    if not of_truth:
        file = setting.labels_file(file.parent / f"filtered-{seed}.jsonl", list(taught.values()))
    keys = {**RECIPE, "flip": FLIPPED.get(name, 0.0)}
    made, facts = students.trained(folder, file, STEPS[size.name], RATE, BATCH, seed, "nano_256", **keys)
    tests, (how, least) = true(name, data, folder), asked
    found = above(students.answers(made.as_posix(), tests, **how), least)
    return {**facts, "counts": setting.counts(tests, found)}


ARMS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "labels": labels,
    **{
        f"a student of {what}{how}": functools.partial(student, asked, of_truth=of_truth)
        for what, of_truth in {"them": False, "the truth": True}.items()
        for how, asked in ASKED.items()
    },
}

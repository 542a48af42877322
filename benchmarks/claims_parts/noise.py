"""Three kinds of errors, and what refinement makes of each: errors that are independent average out by construction.

The labels of the tests are made by the same specialists as those that students are taught, and judged by the same
filters, so that both are measured on the same pictures. A student alone is asked about the tests: as it is, judged by
its score as filters judge a source, and in four views besides; beside it one that was taught the labels without the
ends of their lists, which may go on, and one of the truth of the same pictures. After a round the two of its folds
count together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from claims_parts import setting, students
from claims_parts.controls import REPLAY, tests_of
from claims_parts.methods import above
from claims_parts.setting import NOISES, Results, Size
from florence2.engine.specialists.simulated import Noise
from florence2.refinement import refine
from florence2.refinement.stopping import agreement_of, ending, stop_of
from florence2.store import Store

ROUNDS = 2
LEAST = 0.3  # a floor such as filters set; theirs is 0.4
ASKED: Mapping[str, tuple[dict[str, Any], float]] = {
    "": ({}, 0.0),
    ", scores from 0.3": ({}, LEAST),
    ", four views, scores from 0.3": ({"views": True}, LEAST),
}  # how, and the score below which an answer is left out
OPEN = {"source": {"open_end": True}}  # the end of a list that may go on is not scored


def run(results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]) -> None:
    """Every kind of errors: first one student of all labels, then the rounds; the first seed of each first."""
    taught: Mapping[str, dict[str, Any]] = {
        "them": {}, "them, ends not scored": {"keys": OPEN}, "the truth": {"of_truth": True},
    }  # fmt: skip
    alone = {
        f"a student of {what}{how}": functools.partial(one_student, asked, **kind)
        for what, kind in taught.items()
        for how, asked in ASKED.items()
        if how or what == "them"
    }
    for seed in seeds:
        for name, noise in NOISES.items():
            for arm, make in {"labels": labels, **alone}.items():
                if not more():
                    return
                given = functools.partial(make, name, noise, folder, results.size, seed)
                results.once("noise", f"{name}: {arm}", seed, given)
    for seed in seeds:
        for name, noise in NOISES.items():
            for number in range(1, ROUNDS + 1):
                for how, asked in ASKED.items():
                    if not more():
                        return
                    make = functools.partial(after_round, asked, name, noise, folder, results.size, seed, number)
                    results.once("noise", f"{name}: students of round {number}{how}", seed, make)


def labelled(name: str, noise: Noise, folder: Path, size: Size, seed: int, tests: bool = False) -> tuple[Store, Path]:
    """The store of a kind of errors, and the truth of its pictures."""
    root = folder / f"labels-{size.name}-{seed}-1"
    truth = setting.drawn(root / "scenes", setting.first_seed(seed), size.scenes)
    if tests:
        tests_of(folder, size)
        truth = folder / f"tests-{size.name}" / "truth.jsonl"
    which = "tests-annotated" if tests else "annotated"
    suffix = "" if name == "independent" and not tests else f"-{name.replace(' ', '-')}"
    return setting.annotated(truth, root / f"{which}{suffix}", noise, seed), truth


def labels(name: str, noise: Noise, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """What the specialists and filters say of the tests."""
    store, _ = labelled(name, noise, folder, size, seed, tests=True)
    return {"counts": setting.counts(tests_of(folder, size), setting.kept(store))}


def one_student(
    asked: tuple[dict[str, Any], float],
    name: str,
    noise: Noise,
    folder: Path,
    size: Size,
    seed: int,
    of_truth: bool = False,
    keys: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """A student of all the labels, or of the truth of their pictures, by the default recipe; trained once."""
    store, truth = labelled(name, noise, folder, size, seed)
    kept = setting.truth_of(truth) if of_truth else setting.kept(store)
    file = "truth" if of_truth else "filtered" if name == "independent" else f"filtered-{name.replace(' ', '-')}"
    taught = truth.parent / f"{file}.jsonl"
    if not of_truth:
        setting.labels_file(taught, list(kept.values()))
    made, facts = students.trained(folder, taught, size.long, size.lr, size.batch, seed, **REPLAY, **keys)
    tests = tests_of(folder, size)
    how, least = asked
    found = setting.counts(tests, above(students.answers(str(made), tests, **how), least))
    return {**facts, "counts": found, "labels": setting.counts(setting.truth_of(truth), kept)}


def after_round(
    asked: tuple[dict[str, Any], float], name: str, noise: Noise, folder: Path, size: Size, seed: int, number: int
) -> dict[str, Any]:
    """The students of a round on the tests, and the merged labels of the store's own pictures."""
    store, truth = labelled(name, noise, folder, size, seed)
    recipe = {
        **students.recipe(size.long, size.lr, size.batch), **REPLAY, "source": {"tasks": {"OD": 1.0}},
    }  # fmt: skip
    refine(store, number, recipe={**recipe, **students.replayed()}, seed=seed, workers=0, holdout=0.1)
    ended = ending(store, store.snapshot(), number)
    if ended is None:
        return {"counts": None, "stopped": stop_of(store.snapshot())}
    tests, (how, least) = tests_of(folder, size), asked
    folders = [str(store.student_folder(key)) for key in ended.phase["students"]]
    each = [setting.counts(tests, above(students.answers(one, tests, **how), least)) for one in folders]
    held = agreement_of(ended)
    return {
        "counts": [[sum(values) for values in zip(*rows)] for rows in zip(*each)],
        "agreement": held and held.value,
        "stopped": stop_of(ended),
        "labels": setting.counts(setting.truth_of(truth), setting.kept(store, ended.number)),
        "filtered": setting.counts(setting.truth_of(truth), setting.kept(store)),
    }

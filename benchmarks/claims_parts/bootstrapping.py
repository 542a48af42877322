"""What no specialist makes: learnt from a few examples by a model that knows the pictures, and by one that does not.

A text that counts what is there and describes each thing: a style that nano was never shown. Counted are words: those
that answer and truth share, those of the answer, those of the truth. And outlines of things that have boxes alone,
every third picture's of kinds that nano was never shown: counted are pixels likewise, so that F1 is Dice's coefficient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import florence2
from claims_parts import setting, students
from claims_parts.controls import tests_of
from claims_parts.setting import Results, Size
from florence2.formats import jsonl
from florence2.metrics.segmentation import union_mask
from florence2.records import Ask, Sample, Text

TASK = "MORE_DETAILED_CAPTION"
OUTLINES = "REGION_TO_SEGMENTATION"
EXAMPLES = (20, 60, 200)
STARTS = {"nano": "nano", "nothing": "new:nano"}


def run(results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]) -> None:
    """Every number of examples from either start; quick: the smallest alone."""
    kinds: dict[str, Callable[..., dict[str, Any]]] = {"examples": measured, "pictures with outlines": outlined}
    for seed in seeds:
        for what, of_kind in kinds.items():
            for count in EXAMPLES[:1] if results.size.name == "quick" else EXAMPLES:
                for name, start in STARTS.items():
                    if not more():
                        return
                    make = functools.partial(of_kind, start, count, folder, results.size, seed)
                    results.once("bootstrapping", f"{count} {what}, started from {name}", seed, make)
            if what != "examples" and more():
                make = functools.partial(outlined, "nano", 0, folder, results.size, seed)
                results.once("bootstrapping", f"0 {what}, started from nano", seed, make)


def text_of(sample: Sample) -> str:
    """The text of the new kind, from the truth."""
    objects = sorted((r for r in sample.regions if r.kind == "object"), key=lambda r: r.box or ())
    return f"In all {len(objects)}: " + "; ".join(r.description for r in objects) + "."


def taught(sample: Sample) -> Sample:
    text = Text("t", text_of(sample), "more_detailed")
    return dataclasses.replace(sample, texts=(text,), regions=(), groundings=(), decisions=())


def measured(start: str, count: int, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """One training on the examples alone, and its words on the tests."""
    root = folder / f"labels-{size.name}-{seed}-1"
    truth = setting.drawn(root / "scenes", setting.first_seed(seed), size.scenes)
    examples = truth.parent / f"texts-{count}.jsonl"
    if not examples.is_file():
        seen = [s for i, s in enumerate(setting.truth_of(truth).values()) if i % setting.EVERY]
        jsonl.write(map(taught, seen[:count]), examples)
    steps, keys = size.long // 2, {"source": {"tasks": {TASK: 1.0}}}
    rate = size.lr if start == "nano" else 1e-3
    made, facts = students.trained(folder, examples, steps, rate, size.batch, seed, start, **keys)
    model, rows = florence2.load(str(made)), []
    tests = tests_of(folder, size)
    answers = model.predict_many([s.image for s in tests.values()], f"<{TASK}>", batch_size=32)
    for sample, answer in zip(tests.values(), answers):
        said, true = (Counter(text.lower().split()) for text in (_words(answer), text_of(sample)))
        rows.append([(said & true).total(), said.total(), true.total()])
    return {**facts, "counts": rows}


def _words(answer: Any) -> str:
    return " ".join(text.text for text in getattr(answer, "texts", ()))


def outlined(start: str, count: int, folder: Path, size: Size, seed: int) -> dict[str, Any]:
    """One training on pictures with outlines, and the pixels of its outlines of the tests; 0: the start as it is."""
    facts: dict[str, Any] = {}
    if count:
        truth = setting.drawn(folder / f"labels-{size.name}-{seed}-1" / "scenes", setting.first_seed(seed), size.scenes)
        examples = truth.parent / f"outlines-{count}.jsonl"
        if not examples.is_file():
            samples = list(setting.truth_of(truth).values())[:count]
            jsonl.write((dataclasses.replace(s, texts=(), groundings=(), decisions=()) for s in samples), examples)
        keys = {"source": {"tasks": {OUTLINES: 1.0}, "pairs": 2}}
        rate = size.lr if start == "nano" else 1e-3
        made, facts = students.trained(folder, examples, size.long // 2, rate, size.batch, seed, start, **keys)
        start = str(made)
    model, tests = florence2.load(start), tests_of(folder, size)
    objects = {name: [r for r in sample.regions if r.kind == "object"] for name, sample in tests.items()}
    asked = [(tests[name].image, [Ask(OUTLINES, region=r.box) for r in each]) for name, each in objects.items()]
    rows = []
    for (name, each), answers in zip(objects.items(), model.predict_many(asked, batch_size=32)):
        row = np.zeros(3, int)
        for region, answer in zip(each, answers):
            size_wh = tests[name].image.size_wh
            said, true = (union_mask(found, size_wh) for found in (getattr(answer, "regions", ()), [region]))
            row += [(said & true).sum(), said.sum(), true.sum()]
        rows.append(row.tolist())
    return {**facts, "counts": rows}

"""A kind of text that no specialist writes: learnt from a few examples by a model that knows the pictures, and by none.

The text counts what is there and describes each thing: a style that nano was never shown. Counted are words: those that
answer and truth share, those of the answer, those of the truth.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import florence2
from claims_parts import setting, students
from claims_parts.controls import tests_of
from claims_parts.setting import Results, Size
from florence2.formats import jsonl
from florence2.records import Sample, Text

TASK = "MORE_DETAILED_CAPTION"
EXAMPLES = (20, 60, 200)
STARTS = {"nano": "nano", "nothing": "new:nano"}


def run(results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]) -> None:
    """Every number of examples from either start; quick: the smallest alone."""
    for seed in seeds:
        for count in EXAMPLES[:1] if results.size.name == "quick" else EXAMPLES:
            for name, start in STARTS.items():
                if not more():
                    return
                make = functools.partial(measured, start, count, folder, results.size, seed)
                results.once("bootstrapping", f"{count} examples, started from {name}", seed, make)


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

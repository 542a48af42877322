"""A data set before it is trained on: every problem named with its record, and what the model will see of each pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence2 import geometry, sources
from florence2.codec.answers import encode, parse
from florence2.codec.tasks import Task, prompt_text
from florence2.codec.tokenizer import Tokenizer
from florence2.drawing.picture import draw
from florence2.formats.problems import ReadProblems
from florence2.labels import is_visible
from florence2.pixels import BadImage, read_size, resize
from florence2.records import Ask, Sample
from florence2.sources import files
from florence2.training.datasets import same_size, sized
from florence2.training.examples import LeftOut, Limits, TaskMixture, fitted, sound


@dataclass(frozen=True)
class Problem:
    """One fault of a data set: `reason` is one word that can be counted."""

    id: str
    image: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Preview:
    """One pair as the model sees it: the picture at its size, the prompt, the target and its ids with <s> and </s>."""

    sample: Sample
    prompt: str
    target: str
    target_ids: tuple[int, ...]
    task: Task
    ask: Ask

    def row(self) -> dict[str, Any]:
        """The line of `data show --json`."""
        image = self.sample.image.member or self.sample.image.uri or self.sample.image.id
        return {
            "id": self.sample.id,
            "image": image,
            "prompt": self.prompt,
            "target": self.target,
            "target_ids": list(self.target_ids),
        }


def problems(
    samples: Iterator[Sample], tasks: TaskMixture, tokenizer: Tokenizer, limits: Limits, unread: ReadProblems
) -> Iterator[Problem]:
    """What would be refused or left out in training: records that the reader of `samples` refuses, which it collects in
    `unread`, then what is wrong by sample."""
    reported = 0
    going = True
    while going:
        sample = None
        try:
            sample = next(samples)
        except StopIteration:
            going = False
        except ValueError as error:  # nothing after it can be read
            unread.refused.append(str(error))
            going = False
        yield from (Problem("", "", "unreadable", line) for line in unread.refused[reported:])
        reported = len(unread.refused)
        if sample is None:
            continue
        name = sample.image.member or sample.image.uri or sample.image.id
        for reason, detail in _faults(sample, tasks, tokenizer, limits):
            yield Problem(sample.id, name, reason, detail)


def pairs(samples: Iterator[Sample], task: Task, tokenizer: Tokenizer) -> Iterator[Preview]:
    """Every pair of the task in the data set's order."""
    only = TaskMixture({task.token: 1.0}, {task.token: task})
    for sample in samples:
        for ask, answer in task.truths(sound(sample, only)[0]):
            size_wh = _size(sample)
            ids = encode(answer, task, tokenizer, size_wh, ask)
            whole = (tokenizer.bos, *ids, tokenizer.eos)
            yield Preview(
                sample, prompt_text(ask, size_wh, {task.token: task}), tokenizer.decode(ids), whole, task, ask
            )


def drawn(preview: Preview, size_wh: tuple[int, int]) -> np.ndarray:
    """The picture at the model's size with the target drawn on it, places as their tokens say them."""
    return draw(
        resize(sources.pixels(preview.sample.image), size_wh), parse(preview.target, preview.task, size_wh, preview.ask)
    )


def _faults(sample: Sample, tasks: TaskMixture, tokenizer: Tokenizer, limits: Limits) -> Iterator[tuple[str, str]]:
    try:
        width, height = _size(sample)
        if not sample.image.uri.startswith("scenes:"):
            array = sources.pixels(sample.image)
            same_size(sample, (array.shape[1], array.shape[0]))
    except BadImage as error:
        yield error.reason, str(error)
        return
    for region in sample.current().regions:
        box = geometry.region_box(region)
        if box is None:
            continue
        x1, y1, x2, y2 = box
        if x1 < -0.5 or y1 < -0.5 or x2 > width + 0.5 or y2 > height + 0.5:
            yield "outside", f"region {region.id!r}: box {box} leaves the picture of {width}x{height}"
        elif x2 <= x1 or y2 <= y1:
            yield "flat", f"region {region.id!r}: box {box} has no area"
    for text in sample.current().texts:
        if not is_visible(text.text):
            yield "empty", f"text {text.id!r}: holds no letters"
    sample, _ = sound(sample, tasks)
    truths = tasks.truths(sample)
    if not truths:
        name = tasks.tasks[0].name if len(tasks.weights) == 1 else "any task"
        yield "no_truth", f"holds nothing that {name} could be trained on"
    sample = sized(sample)
    for truth in truths:
        found = fitted(sample, truth, tokenizer, limits, tasks)
        if isinstance(found, LeftOut):
            yield found.reason, f"{found.task}: {found.detail}"


def _size(sample: Sample) -> tuple[int, int]:
    image = sample.image
    return image.size_wh if image.width and image.height else read_size(_file(sample))


def _file(sample: Sample) -> str | bytes:
    """The picture's file, or its bytes where it lies in an archive."""
    return files.plain_path(sample.image) or files.read_bytes(sample.image)

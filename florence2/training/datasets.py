"""Where the pictures and pairs of a run come from: samples that are there, or scenes drawn when they are asked for.

A dataset numbers its pictures and each picture's asks. What it gives for a number never changes within an epoch.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from florence2 import pixels as loader
from florence2 import sources
from florence2.codec.tasks import Task
from florence2.codec.tokenizer import Tokenizer
from florence2.records import Ask, Parsed, Sample
from florence2.scenes import draw
from florence2.sources.scenes import PREFIX, parse
from florence2.training.config import DataSource
from florence2.training.examples import Example, example, pairs_of, sample_tasks

HELD_OUT = 2**31  # scenes from this seed on are never trained on
CACHE_BYTES = 512 * 2**20

LoadedPairs = tuple[np.ndarray, Sample, list[Example]]  # pixels at the model's size, the truth, the pairs asked for


class TrainingSource(Protocol):
    """Numbered pictures and their asks; `pairs` of them stand side by side. The tokenizer may come later."""

    pairs: int
    tokenizer: Tokenizer | None

    def active(self, epoch: int) -> bool: ...
    def pictures(self, epoch: int) -> Sequence[int]: ...
    def name(self, index: int) -> str: ...
    def asks(self, index: int, rng: random.Random) -> Sequence[int]: ...
    def load(self, index: int, asks: Sequence[int], rng: random.Random) -> LoadedPairs: ...
    def samples(self, most: int) -> list[Sample]: ...


def open_source(source: DataSource, tasks: Mapping[str, float], size_wh: tuple[int, int]) -> TrainingSource:
    """The dataset of a source, pictures brought to `size_wh`."""
    kind = SceneSource if source.path.startswith(PREFIX) else SampleSource
    return kind(source, tasks, size_wh)


class SampleSource:
    """A data set: every (sample, ask) once an epoch, more or less often by the weights of source and task."""

    def __init__(self, source: DataSource, tasks: Mapping[str, float], size_wh: tuple[int, int]) -> None:
        opened = sources.open(source.path, source.split or None, source.format or None, None, source.images or None)
        self.source, self.tasks, self.size_wh = source, dict(tasks), size_wh
        self.pairs = source.pairs
        self.tokenizer: Tokenizer | None = None
        self._samples = [_sized(sample) for sample in opened]
        if not self._samples:
            raise ValueError(f"data: {source.path}: holds no sample; check the path and split {source.split!r}")
        self._pairs: dict[int, list[tuple[Task, Ask, Parsed]]] = {}
        self._pixels: dict[int, np.ndarray] = {}

    def active(self, epoch: int) -> bool:
        return _within(self.source, epoch)

    def pictures(self, epoch: int) -> Sequence[int]:
        return range(len(self._samples))

    def name(self, index: int) -> str:
        return self._samples[index].id

    def asks(self, index: int, rng: random.Random) -> Sequence[int]:
        numbers: list[int] = []
        for number, (task, _, _) in enumerate(self._truths(index)):
            times = self.source.weight * self.tasks[task.token]
            numbers += [number] * (int(times) + (rng.random() < times % 1))
        rng.shuffle(numbers)
        return numbers

    def load(self, index: int, asks: Sequence[int], rng: random.Random) -> LoadedPairs:
        assert self.tokenizer is not None
        sample, truths = self._samples[index], self._truths(index)
        examples = []
        for number in asks:
            task, ask, parsed = truths[number]
            examples.append(example(sample, ask, parsed, task, self.tokenizer))
        return self._picture(index), sample, examples

    def samples(self, most: int) -> list[Sample]:
        return self._samples[:most]

    def _truths(self, index: int) -> list[tuple[Task, Ask, Parsed]]:
        if index not in self._pairs:
            self._pairs[index] = pairs_of(self._samples[index], self.tasks)
        return self._pairs[index]

    def _picture(self, index: int) -> np.ndarray:
        if index in self._pixels:
            return self._pixels[index]
        array = sources.pixels(self._samples[index].image)
        if (array.shape[1], array.shape[0]) != self.size_wh:
            array = loader.resize(array, self.size_wh)
        if (len(self._pixels) + 1) * array.nbytes <= CACHE_BYTES:
            self._pixels[index] = array
        return array


class SceneSource:
    """`scenes:count=20000,seed=0,objects=1-3`: so many new scenes an epoch, `pairs` asks each, tasks by weight."""

    def __init__(self, source: DataSource, tasks: Mapping[str, float], size_wh: tuple[int, int]) -> None:
        options = parse(source.path)
        self.count, self.first = options.pop("count", 10000), options.pop("seed", 0)
        if options.pop("pages", False):
            raise ValueError(f"data: {source.path}: pages are not drawn on the fly; write them to a folder first")
        self.options = {"size": size_wh, **options}
        self.source, self.tasks, self.pairs = source, dict(tasks), source.pairs
        self.tokenizer: Tokenizer | None = None

    def active(self, epoch: int) -> bool:
        return _within(self.source, epoch)

    def pictures(self, epoch: int) -> Sequence[int]:
        start = self.first + epoch * self.count
        if start + self.count > HELD_OUT:
            raise ValueError(f"data: {self.source.path}: epoch {epoch} would draw held-out seeds (2**31 and above)")
        return range(start, start + self.count)

    def name(self, index: int) -> str:
        return f"scene-{index}"

    def asks(self, index: int, rng: random.Random) -> Sequence[int]:
        return range(self.pairs)

    def load(self, index: int, asks: Sequence[int], rng: random.Random) -> LoadedPairs:
        assert self.tokenizer is not None
        pixels, sample = self._draw(index)
        chosen = sample_tasks(sample, self.tasks, self.pairs, rng)
        picked = [chosen[ask] for ask in asks if ask < len(chosen)]
        return pixels, sample, [example(sample, ask, parsed, task, self.tokenizer) for task, ask, parsed in picked]

    def samples(self, most: int) -> list[Sample]:
        return [self._draw(self.first + i)[1] for i in range(min(most, self.count))]

    def _draw(self, seed: int) -> tuple[np.ndarray, Sample]:
        try:
            return draw(seed, **self.options)
        except ValueError:  # a wide sign left no room for the least thing: without it there is always room
            return draw(seed, **{**self.options, "signs": 0})


def _within(source: DataSource, epoch: int) -> bool:
    return source.epochs is None or source.epochs[0] <= epoch <= source.epochs[1]


def _sized(sample: Sample) -> Sample:
    """The sample with its picture's size, read from the file where the record does not hold it."""
    if sample.image.width and sample.image.height:
        return sample
    width, height = loader.read_size(sample.image.uri)
    return dataclasses.replace(sample, image=dataclasses.replace(sample.image, width=width, height=height))

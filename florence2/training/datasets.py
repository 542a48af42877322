"""Where the pictures and pairs of a run come from: samples that are there, or scenes drawn when they are asked for.

A source numbers its pictures. The main process plans (`plan`: which asks of a picture, its record), the processes that
make batches load (`load`: pixels and token ids); what comes for a number never changes within an epoch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import PurePosixPath
from typing import Any, Protocol, Union

import numpy as np

from florence2 import pixels as loader
from florence2 import sources
from florence2.codec.tokenizer import Tokenizer
from florence2.formats.problems import ReadProblems
from florence2.pixels import BadImage
from florence2.records import ImageRef, Sample
from florence2.scenes import TRAINING_SEEDS, draw
from florence2.sources import files
from florence2.sources.negatives import SURVEYED, Negatives
from florence2.sources.scenes import PREFIX, parse
from florence2.sources.splits import fold_of, held_out, in_split
from florence2.training.config import DataSource
from florence2.training.examples import Example, LeftOut, Limits, TaskMixture, fitted, left_out, sample_tasks, sound
from florence2.training.moves import Move, MoveSettings, allowed, drawn_move, moved
from florence2.training.samples import open_samples

CACHE_BYTES = 512 * 2**20
STILL = MoveSettings()

# pixels at the model's size (None where they are not needed), the truth, its pairs
Loaded = tuple[Union[np.ndarray, None], Sample, list["Example | LeftOut"]]


@dataclasses.dataclass(frozen=True)
class PlannedPicture:
    """A picture to be trained on: its name, the numbers of its asks in order, its record where it has one."""

    name: str
    asks: Sequence[int]
    sample: Sample | None = None
    move: Move | None = None
    """Which window of the picture, mirrored or not, the record is of."""


class TrainingSource(Protocol):
    """Numbered pictures and their asks; `pairs` of them are in one group. The tokenizer may come later."""

    source: DataSource
    pairs: int
    tasks: TaskMixture
    tokenizer: Tokenizer | None
    limits: Limits

    def active(self, epoch: int) -> bool: ...
    def count(self, epoch: int) -> int: ...
    def plan(self, number: int, epoch: int, seed: int) -> PlannedPicture | LeftOut | None: ...
    def load(self, planned: PlannedPicture, asks: Sequence[int], rng: random.Random, seen: bool = True) -> Loaded: ...
    def samples(self, most: int) -> list[Sample]: ...
    def repeat(self, times: float) -> None: ...


def open_source(
    source: DataSource,
    tasks: TaskMixture,
    size_wh: tuple[int, int],
    on_error: str = "skip",
    moves: MoveSettings = STILL,
    letters: bool = False,
) -> TrainingSource:
    """The dataset of a source, pictures brought to `size_wh`, moved as often as `moves` says; `letters`: those in the
    picture are trained on whatever is asked."""
    opened: TrainingSource
    if source.path.startswith(PREFIX):
        opened = SceneSource(source, tasks, size_wh, moves, letters)
    else:
        opened = SampleSource(source, tasks, size_wh, None, on_error, moves, letters)
    if source.negatives:
        found = Negatives.of(opened.samples(SURVEYED), source.negatives)
        opened.tasks = dataclasses.replace(tasks, negatives=found)
    return opened


class SampleSource:
    """A data set: every (sample, ask) once an epoch, more or less often by the weights of source and task."""

    def __init__(
        self,
        source: DataSource,
        tasks: TaskMixture,
        size_wh: tuple[int, int],
        samples: Sequence[Sample] | None = None,
        on_error: str = "skip",
        moves: MoveSettings = STILL,
        letters: bool = False,
    ) -> None:
        self.source, self.tasks, self.size_wh = source, tasks, size_wh
        self.moves, self.letters = moves, letters
        self.pairs = source.pairs
        self.tokenizer: Tokenizer | None = None
        self.limits = Limits(2**31, 2**31)
        self.unread = ReadProblems(skip=on_error == "skip")
        """Records, and items of records, that the reader refuses."""
        self._samples = open_samples(source, self.unread, tasks.table) if samples is None else samples
        self._held_out: Callable[[Sample], bool] | None = None
        self._pixels: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._held = 0  # bytes of them
        refused = self.refused = self.unread.refused
        """What was refused when the source was opened; what a record read later loses is in `unread` again."""
        self.unread.refused = []
        if not len(self._samples):
            why = f" that can be read: {refused[0]} ({len(refused)} refused)" if refused else ""
            raise ValueError(f"data: {source.path}: holds no sample{why}; check the path")

    def __getstate__(self) -> dict[str, Any]:
        """What a process that makes batches needs: it is given the records and reads none."""
        return {**self.__dict__, "_samples": (), "_held_out": None, "_pixels": OrderedDict(), "_held": 0}

    def active(self, epoch: int) -> bool:
        return _within(self.source, epoch)

    def count(self, epoch: int) -> int:
        return len(self._samples)

    def repeat(self, times: float) -> None:
        """Let every pair come so many times as often."""
        self.source = dataclasses.replace(self.source, weight=self.source.weight * times)

    def reweigh(self, times: Mapping[str, float]) -> None:
        """Let the pairs of each task come so many times as often."""
        self.tasks = self.tasks.reweighed(times)

    def give(self, samples: Sequence[Sample]) -> None:
        """Hold these records in place of its own."""
        self._samples = samples

    def hold_out(self, held_out: Callable[[Sample], bool]) -> None:
        """Keep samples out of training from now on."""
        self._held_out = held_out

    def trained(self, sample: Sample) -> bool:
        """Whether a sample is of the source's split, of no fold left out, and not held out for validation."""
        if self.source.split and not in_split(sample, self.source.split):
            return False
        if self.source.fold and fold_of(sample.image.id, self.source.fold[1]) == self.source.fold[0]:
            return False
        if self.source.holdout and held_out(sample.image.id, self.source.holdout):
            return False
        return self._held_out is None or not self._held_out(sample)

    def sample(self, number: int) -> Sample | LeftOut:
        """A record by its number, or why it cannot be read."""
        try:
            return self._samples[number]
        except ValueError as error:
            return LeftOut("unreadable", f"{self.source.path}#{number}", "", "", str(error))

    def plan(self, number: int, epoch: int, seed: int) -> PlannedPicture | LeftOut | None:
        sample = self.sample(number)
        self.unread.refused.clear()  # reported when the data were examined
        if isinstance(sample, LeftOut):
            return sample
        if not self.trained(sample):
            return None
        sample, _ = sound(sample, self.tasks)  # what it leaves out was counted when the data were examined
        sample, move = self._moved(sample, random.Random(f"{seed}:{epoch}:{sample.id}:move"))
        rng = random.Random(f"{seed}:{epoch}:{sample.id}:asks")
        asks: list[int] = []
        for ask, (task, _, _) in enumerate(self.tasks.truths(sample)):
            times = self.source.weight * self.tasks.weights[task.token]
            asks += [ask] * (int(times) + (rng.random() < times % 1))
        rng.shuffle(asks)
        return PlannedPicture(sample.id, asks, sample, move)

    def _moved(self, sample: Sample, rng: random.Random) -> tuple[Sample, Move | None]:
        """The sample as this epoch shows it, and what was done to it."""
        if not self.moves.any:
            return sample, None
        try:
            sample = sized(sample)
        except BadImage:  # reported when it is loaded
            return sample, None
        move = drawn_move(sample, allowed(sample, self.tasks, self.letters), self.moves, rng)
        if move is None:
            return sample, None
        there = moved(sample, move, self.moves.keep)
        return (there, move) if self.tasks.truths(there) else (sample, None)

    def load(self, planned: PlannedPicture, asks: Sequence[int], rng: random.Random, seen: bool = True) -> Loaded:
        assert self.tokenizer is not None and planned.sample is not None
        array = self._picture(planned.sample, planned.move) if seen else None
        sample = sized(planned.sample)
        truths = self.tasks.truths(sample)
        limits, tasks = self.limits, self.tasks
        return array, sample, [fitted(sample, truths[ask], self.tokenizer, limits, tasks, rng) for ask in asks]

    def samples(self, most: int) -> list[Sample]:
        """The first `most` records that are trained and can be read, each with its picture's size."""
        found = []
        for number in range(min(most, len(self._samples))):
            sample = self.sample(number)
            if not isinstance(sample, LeftOut) and self.trained(sample):
                with contextlib.suppress(BadImage):
                    found.append(sized(sample))
        return found

    def _picture(self, sample: Sample, move: Move | None) -> np.ndarray:
        """The picture, or a window of it, at the model's size."""
        image = sample.image
        whole = move is not None and move.window != (0, 0, *move.size_wh)  # a window is cut before it is made smaller
        key = (image.uri, image.member, image.offset, image.frame, whole)
        array = self._pixels.get(key)
        if array is None:
            array = sources.pixels(image)
            stated = sample if move is None else with_size(sample, move.size_wh)
            same_size(stated, (array.shape[1], array.shape[0]))
            array = array if whole else resized(array, self.size_wh)
            self._pixels[key] = array
            self._held += array.nbytes
            while self._held > CACHE_BYTES and len(self._pixels) > 1:
                self._held -= self._pixels.popitem(last=False)[1].nbytes
        self._pixels.move_to_end(key)
        if move is not None and whole:
            return resized(move.pixels(array), self.size_wh)
        return np.ascontiguousarray(array[:, ::-1]) if move is not None else array


class SceneSource:
    """`scenes:count=20000,seed=0,objects=1-3`: so many new scenes an epoch, `pairs` asks each, tasks by weight."""

    def __init__(
        self,
        source: DataSource,
        tasks: TaskMixture,
        size_wh: tuple[int, int],
        moves: MoveSettings = STILL,
        letters: bool = False,
    ) -> None:
        self.moves, self.letters = moves, letters
        options = parse(source.path)
        self._count, self.first = options.pop("count", 10000), options.pop("seed", 0)
        if options.pop("pages", False):
            raise ValueError(f"data: {source.path}: pages are not drawn on the fly; write them to a folder first")
        self.options, self.size_wh = {"size": size_wh, **options}, size_wh
        self.source, self.tasks, self.pairs = source, tasks, source.pairs
        self.tokenizer: Tokenizer | None = None
        self.limits = Limits(2**31, 2**31)

    def active(self, epoch: int) -> bool:
        return _within(self.source, epoch)

    def count(self, epoch: int) -> int:
        if self.first + (epoch + 1) * self._count > TRAINING_SEEDS:
            raise ValueError(f"data: {self.source.path}: epoch {epoch} would draw held-out seeds (2**31 and above)")
        return self._count

    def repeat(self, times: float) -> None:
        """Draw so many times as many scenes an epoch."""
        self._count = max(1, round(self._count * times))

    def plan(self, number: int, epoch: int, seed: int) -> PlannedPicture:
        return PlannedPicture(f"scene-{self.first + epoch * self._count + number}", range(self.pairs))

    def load(self, planned: PlannedPicture, asks: Sequence[int], rng: random.Random, seen: bool = True) -> Loaded:
        assert self.tokenizer is not None
        array, sample = self._draw(int(planned.name.removeprefix("scene-")))
        if self.moves.any:
            move = drawn_move(sample, allowed(sample, self.tasks, self.letters), self.moves, rng)
            if move is not None:
                array, sample = resized(move.pixels(array), self.options["size"]), moved(sample, move, self.moves.keep)
        truths = sample_tasks(sample, self.tasks, self.pairs, rng)
        chosen = [truths[ask] for ask in asks if ask < len(truths)]
        if (array.shape[1], array.shape[0]) != self.size_wh:  # the source names a size of its own
            array = loader.resize(array, self.size_wh)
        return array, sample, [fitted(sample, t, self.tokenizer, self.limits, self.tasks, rng) for t in chosen]

    def samples(self, most: int) -> list[Sample]:
        return [self._draw(self.first + i)[1] for i in range(min(most, self._count))]

    def _draw(self, seed: int) -> tuple[np.ndarray, Sample]:
        try:
            return draw(seed, **self.options)
        except ValueError:  # a wide sign left no room for the smallest object: without it there is always room
            return draw(seed, **{**self.options, "signs": 0})


def place_of(image: ImageRef) -> str:
    """Where a picture lies, however its path is spelt."""
    uri = image.uri if "://" in image.uri else os.path.abspath(image.uri)
    return "|".join(map(str, (uri, image.member, image.offset, image.frame)))


def validation_place(sample: Sample) -> float:
    """A number in [0, 1) that only the picture's base name decides, another one than the split's."""
    name = PurePosixPath((sample.image.member or sample.image.uri or sample.image.id).replace("\\", "/")).name
    return int.from_bytes(blake2b(f"validation:{name}".encode(), digest_size=8).digest(), "big") / 2**64


def unreadable(sample: Sample, error: BadImage, pairs: int) -> LeftOut:
    """All pairs of a sample whose picture cannot be used."""
    return left_out(error.reason, sample, str(error), pairs=pairs)


def resized(array: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """A picture at a size, itself where it has it."""
    return array if (array.shape[1], array.shape[0]) == size_wh else loader.resize(array, size_wh)


def with_size(sample: Sample, size_wh: tuple[int, int]) -> Sample:
    """The sample with another size of its picture stated."""
    width, height = size_wh
    return dataclasses.replace(sample, image=dataclasses.replace(sample.image, width=width, height=height))


def sized(sample: Sample) -> Sample:
    """The sample with its picture's size, read from the file where the record does not hold it."""
    image = sample.image
    if image.width and image.height:
        return sample
    return with_size(sample, loader.read_size(files.plain_path(image) or files.read_bytes(image), files.name_of(image)))


def same_size(sample: Sample, size_wh: tuple[int, int]) -> None:
    """BadImage where the record states another size than the file has: its places would be wrong."""
    image = sample.image
    if image.width and image.height and image.size_wh != size_wh:
        detail = f"the record says {image.width}x{image.height}, the file is {size_wh[0]}x{size_wh[1]}"
        raise BadImage(files.name_of(image), "other_size", detail)


def _within(source: DataSource, epoch: int) -> bool:
    return source.epochs is None or source.epochs[0] <= epoch <= source.epochs[1]

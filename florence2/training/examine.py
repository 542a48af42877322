"""Examines the data before the first step: what of it the model will see, and a refusal where that is under half."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from florence2 import sources as files_of
from florence2.codec.tasks import RAW
from florence2.pixels import BadImage, read_size
from florence2.records import Sample
from florence2.sources import files
from florence2.sources.image_pixels import refuse_absent
from florence2.training.datasets import SampleSource, SceneSource, TrainingSource, place_of, same_size, sized
from florence2.training.examples import Example, LeftOut, Truth, fitted, left_out, sound
from florence2.training.reader_losses import ReaderLosses, of_places

WHOLE = 10_000  # samples of a set up to which all are examined
DRAWN = 1_000  # of a larger one so many
DECODED = 200  # pictures of a set up to which all are decoded, of a larger one so many drawn ones
SCENES = 16
OF_TEXT = ("too_long", "long_prompt", "empty", "unwritable")  # reasons that no picture has
NAMED = 3  # of each reason so many are named

ADVICE = {
    "too_long": "raise max_target or leave out the task",
    "long_prompt": "shorten the prompts",
    "other_size": "correct the sizes of the records",
    "unwritable": "see florence2 data check",
    "empty": "fill in the answers",
    "unreadable": "mend the records",
    "no_truth": "mend the labels that were left out",
}


@dataclass
class Tally:
    """Counts of what is left out, by reason, with names."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def add(self, lost: LeftOut) -> None:
        """Count one loss."""
        self.counts[lost.reason] += lost.pairs
        names = self.names.setdefault(lost.reason, [])
        name = (lost.image or lost.id).rsplit("/", 1)[-1]
        if name not in names and len(names) < NAMED:
            names.append(name)
        self.details.setdefault(lost.reason, lost.detail)

    def __str__(self) -> str:
        return "; ".join(
            f"{count} {reason} ({', '.join(self.names[reason])}{', ...' if count > len(self.names[reason]) else ''}: "
            f"{self.details[reason][:160]})"
            for reason, count in self.counts.most_common()
        )

    def advice(self) -> str:
        """What to do about the most frequent reason."""
        return ADVICE.get(next(iter(dict(self.counts.most_common())), ""), "mend or remove the pictures")


@dataclass
class Examination:
    """The result: pairs that were examined and fit, what is left out, how many an epoch of each source has
    (estimated from those examined where a set is large)."""

    pairs: int = 0
    fit: int = 0
    likely: float = 0.0
    """Of `fit` those whose pictures decode, estimated from the decoded ones where a set has more than DECODED."""
    pairs_by_source: list[float] = field(default_factory=list)
    pairs_by_task: list[dict[str, float]] = field(default_factory=list)
    """The same by source and task; of scenes, which are drawn by the tasks' weights, nothing."""
    lost: Tally = field(default_factory=Tally)
    records: list[LeftOut] = field(default_factory=list)
    """What no batch will come upon again: what the reader refused when the source was opened, pictures without any
    truth that is left, and, counted as no pair, regions and texts that samples lost."""
    longest_prompt: int = 0
    longest_target: int = 0
    unsound: Tally = field(default_factory=Tally)
    """Regions and texts that are left out of their samples."""
    evaluated: Set[str] = frozenset()
    """The places of the pictures that are evaluated."""
    both: int = 0
    """Pictures among those examined that are trained on and evaluated."""
    questions: int = 0
    """Answered questions of sources that name no tasks: which prompt they are asked with is not known."""

    def lose_items(self, lost: Sequence[LeftOut]) -> None:
        """Count and note regions and texts that samples lost, which are no pairs."""
        for one in lost:
            self.unsound.add(one)
            self.records.append(replace(one, pairs=0))

    def add(self, result: Example | LeftOut) -> None:
        """Count a pair, or what is left out."""
        if isinstance(result, LeftOut):
            self.pairs += result.pairs
            self.lost.add(result)
            return
        self.pairs += 1
        self.fit += 1
        self.longest_prompt = max(self.longest_prompt, len(result.prompt_ids))
        self.longest_target = max(self.longest_target, len(result.target_ids))


def examine(
    sources: Sequence[TrainingSource], on_error: str = "skip", evaluated: Set[str] = frozenset()
) -> Examination:
    """Examine all pairs, of large sets a random sample; ValueError where nothing or under half could be trained on.

    With `on_error` raise every picture is opened, and the first that cannot be used is refused. `evaluated`: the places
    of pictures that had better not be trained on.
    """
    found = Examination(evaluated=evaluated)
    for number, source in enumerate(sources):
        before = found.pairs
        if isinstance(source, SceneSource):
            examined_count, truths = _scenes(source, found), True
        else:
            examined_count = _samples(source, found, on_error)
            truths = bool(found.pairs_by_task[-1])
        if found.pairs == before or not truths:
            named = ", ".join(task.name for task in source.tasks.tasks)
            where = source.source.path
            raise ValueError(
                f"data[{number}]: {where}: {examined_count} samples hold no pair for {named[:200]}"
                f"{': ' + str(found.lost) if found.lost.counts else ''}; check the path, the split and the tasks"
            )
    if 2 * found.likely < found.pairs or not found.fit:
        about = "about " if found.likely < found.fit else ""
        left = (
            f"only {about}{round(found.likely)} of {found.pairs} pairs are left" if found.likely else "no pair is left"
        )
        raise ValueError(f"data: {left}, the others cannot be trained on: {found.lost}; {found.lost.advice()}")
    return found


def _samples(source: TrainingSource, found: Examination, on_error: str) -> int:
    assert isinstance(source, SampleSource)
    count = source.count(0)
    numbers: Sequence[int] = range(count)
    if count > WHOLE and on_error != "raise":
        numbers = sorted(random.Random(0).sample(numbers, DRAWN))
    check = _decoded if on_error == "raise" else _opened
    an_epoch: dict[str, float] = defaultdict(float)
    examined_count = 0
    losses = ReaderLosses(source)
    bare: list[LeftOut] = []
    fits: dict[int, int] = {}
    source.unread.refused.clear()  # of what was read before
    for number in numbers:
        sample = source.sample(number)
        if isinstance(sample, LeftOut):
            if on_error == "raise":
                raise ValueError(f"data: {sample.detail}; mend the record, or train with on_error: skip")
            found.add(sample)
            continue
        items, source.unread.refused = source.unread.refused, []
        labels = losses.of(sample)
        if not source.trained(sample):
            continue
        examined_count += 1
        unread = [LeftOut("unreadable", line.partition(": ")[0], "", "", line) for line in items]
        unread += [left_out("unreadable", sample, line) for line in labels]
        whole, (sample, unsound) = sample, sound(sample, source.tasks)
        found.lose_items([*unread, *unsound])
        truths = source.tasks.truths(sample)
        if not truths:
            bare += _bare(whole, source, unread, unsound, losses)
        found.both += bool(truths) and place_of(sample.image) in found.evaluated
        if not source.source.tasks and RAW.token not in source.tasks.weights:
            found.questions += sum(text.detail == "answer" for text in sample.current().texts)
        before = found.fit
        for result in examined(sample, truths, source, check):
            if isinstance(result, LeftOut) and on_error == "raise" and result.reason not in OF_TEXT:
                raise ValueError(f"data: {result.detail}; mend it, or train with on_error: skip")
            found.add(result)
        if found.fit > before:
            fits[number] = found.fit - before
        for task, _, _ in truths:
            an_epoch[task.token] += source.source.weight * source.tasks.weights[task.token]
    share = len(numbers) / count if count else 1.0
    _add_refused(losses, found, share)
    each = max(1, round(sum(fits.values()) / max(1, len(fits))))
    for lost in bare:
        lost = lost if lost.pairs else replace(lost, pairs=each)
        found.add(lost)
        found.records.append(lost)
    found.likely += sum(fits.values()) if on_error == "raise" else _decode(source, fits, found)
    found.pairs_by_task.append({token: pairs / share for token, pairs in an_epoch.items()})
    found.pairs_by_source.append(sum(an_epoch.values()) / share)
    return examined_count


def _bare(
    sample: Sample,
    source: SampleSource,
    unread: Sequence[LeftOut],
    unsound: Sequence[LeftOut],
    losses: ReaderLosses,
) -> list[LeftOut]:
    """The pairs of a sample that has none left, as it lost labels or texts that these tasks ask for; of 0 pairs where
    how many it had is not known. Nothing of one that never had any."""
    pairs = len(source.tasks.truths(sample)) if unsound else 0
    of_texts = any(not losses.is_part(lost.detail) for lost in unread)
    if not pairs and not of_texts and not (unread and any(map(of_places, source.tasks.tasks))):
        return []
    why = f"nothing that is asked for is left: {(*unread, *unsound)[0].detail}"
    return [left_out("no_truth", sample, why, pairs=pairs)]


def _add_refused(losses: ReaderLosses, found: Examination, share: float) -> None:
    """Count what the reader refused of no sample that was examined; of whole records the share that was examined."""
    lines = losses.rest(share == 1)
    lost = [LeftOut("unreadable", line.partition(": ")[0], "", "", line) for line in lines]
    found.lose_items([one for one in lost if losses.is_part(one.detail)])
    records = [one for one in lost if not losses.is_part(one.detail)]
    found.records += records
    for one in random.Random(0).sample(records, round(len(records) * share)):
        found.add(one)


def _decode(source: SampleSource, fits: Mapping[int, int], found: Examination) -> float:
    """Decode the pictures of samples that fit, of many a random part; how many pairs are left of all of `fits`."""
    good = bad = 0
    for number in sorted(random.Random(1).sample(sorted(fits), min(DECODED, len(fits)))):
        sample = source.sample(number)
        if isinstance(sample, LeftOut):
            continue
        try:
            _decoded(sample)
            good += fits[number]
        except BadImage as error:
            if error.reason == files.NO_ANSWER:  # it may be good
                raise
            found.fit -= fits[number]
            found.lost.add(left_out(error.reason, sample, str(error), pairs=fits[number]))
            bad += fits[number]
    source.unread.refused.clear()
    return sum(fits.values()) * good / (good + bad) if good + bad else float(sum(fits.values()))


def examined(
    sample: Sample, truths: Sequence[Truth], source: TrainingSource, check: Callable[[Sample], Sample]
) -> Iterator[Example | LeftOut]:
    """Each pair of a sample as ids, or why it is left out."""
    assert source.tokenizer is not None
    if not truths:
        return
    try:
        sample = check(sample)
    except BadImage as error:
        yield left_out(error.reason, sample, str(error), pairs=len(truths))
        return
    for truth in truths:
        yield fitted(sample, truth, source.tokenizer, source.limits, source.tasks)


def _opened(sample: Sample) -> Sample:
    """The sample with its size, the header of a local picture file read."""
    path = files.plain_path(sample.image)
    if not path:
        refuse_absent(sample.image)
        return sized(sample)
    same_size(sample, read_size(path, files.name_of(sample.image)))
    return sized(sample)


def _decoded(sample: Sample) -> Sample:
    """The sample with its size, its picture decoded."""
    array = files_of.pixels(sample.image)
    same_size(sample, (array.shape[1], array.shape[0]))
    return sized(sample)


def _scenes(source: SceneSource, found: Examination) -> int:
    examined_count, before = min(SCENES, source.count(0)), found.fit
    for number in range(examined_count):
        planned = source.plan(number, 0, 0)
        for result in source.load(planned, planned.asks, random.Random(number))[2]:
            found.add(result)
    found.likely += found.fit - before
    found.pairs_by_source.append(float(source.count(0) * source.pairs))
    found.pairs_by_task.append({})
    return examined_count

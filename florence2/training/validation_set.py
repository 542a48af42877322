"""What is evaluated while a run trains: its samples, kept out of training, and their scores by the field's metrics."""

from __future__ import annotations

import random
import shutil
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Union

import torch

from florence2.codec.tasks import PROMPT, Task, task_of
from florence2.evaluation import evaluate
from florence2.evaluation.eval_items import eval_items_of
from florence2.evaluation.metric_specs import ERRORS, metric_names, metric_spec_of
from florence2.model.model_config import ModelConfig
from florence2.pixels import BadImage
from florence2.predictor.florence2 import Florence2
from florence2.records import Sample
from florence2.sources import in_split
from florence2.training.config import BestConfig, DataSource, TrainConfig
from florence2.training.datasets import SampleSource, TrainingSource, sized, validation_place
from florence2.training.examples import LeftOut, TaskMixture

SHARE = 0.05  # of a source that has no val part
WHOLE = 10_000  # samples of a set up to which exactly that share is taken
FOLDER = "evaluations"
LOSS = "loss"
VAL = "val"

HeldOut = Union[str, float, None]
"""What a source keeps out of training: its val part ("val"), a share of the numbers in [0, 1) that names give, None."""


@dataclass
class Validation:
    """The samples that are evaluated, by source with its tasks, and which score is the best."""

    sources: list[SampleSource]
    tasks: list[Task]
    best: BestConfig
    unread: Sequence[str] = ()
    """Why samples that would have been evaluated cannot be read."""
    unanswered: tuple[int, int] = (0, 0)
    """Asks of the last evaluation that could not be answered, as their picture cannot be read; all of its asks."""

    @property
    def samples(self) -> list[Sample]:
        """All samples, each once."""
        return [sample for source in self.sources for sample in source.samples(source.count(0))]

    @property
    def metric(self) -> str:
        """The key by which an evaluation is the best."""
        if self.best.metric:
            return self.best.metric
        return metric_spec_of(self.tasks[0]).main if len(self.tasks) == 1 else LOSS

    @property
    def names(self) -> list[str]:
        """The metrics' keys, those of several tasks with the task's name before them."""
        return [f"{self._prefix(task)}{key}" for task in self.tasks for key in metric_names(task)]

    def _prefix(self, task: Task) -> str:
        return f"{task.name or PROMPT}." if len(self.tasks) > 1 else ""

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value of the metric is better than another."""
        name = self.metric.rsplit(".", 1)[-1]
        lowest = self.best.mode == "min" or (not self.best.mode and (name == LOSS or name in ERRORS))
        return value < than if lowest else value > than

    def scores(
        self, model: Florence2, folder: Path, most_tokens: int, progress: Callable[[int, int], None] | None = None
    ) -> dict[str, float]:
        """The metrics of every task, `OD.AP` where there are several; predictions and scores go below `folder`."""
        shutil.rmtree(folder, ignore_errors=True)  # of other weights, where a run was cut back
        samples = self.samples
        out: dict[str, float] = {}
        failures, asks = 0, 0
        for task in self.tasks:
            report = evaluate(
                model,
                samples,
                task.name,
                folder / (task.name or PROMPT),
                grey=False,
                resamples=0,
                decoding={"max_new_tokens": most_tokens},
                progress=progress,
            )
            out |= {f"{self._prefix(task)}{key}": value for key, value in report["metrics"].items()}
            failures, asks = failures + report["failures"], asks + report["asks"]
        self.unanswered = failures, asks
        return out


def held_out_of(
    config: TrainConfig, sources: Sequence[TrainingSource], remembered: Sequence[HeldOut] | None
) -> list[HeldOut]:
    """What each source keeps out of training; `remembered`: what it was at the run's start, which then holds."""
    evaluated = bool(config.evaluation_interval[0]) and config.validation is None
    if remembered is None:
        return [_rule(s) if evaluated and isinstance(s, SampleSource) else None for s in sources]
    if evaluated and not any(remembered):
        raise ValueError(
            f"evaluate_every: {config.out}: was begun without evaluations and trains on all of its samples; "
            "name others by `validation`, or begin anew with --restart"
        )
    return list(remembered)


def validation_of(
    config: TrainConfig,
    sources: Sequence[TrainingSource],
    held_out: Sequence[HeldOut],
    tasks: Mapping[str, Task],
    shape: ModelConfig,
) -> Validation | None:
    """What a config's `validation` names; else what each source keeps out of training, which it does from now on.
    None where nothing is evaluated."""
    limit, unread = config.validation_limit, list[str]()
    found = [
        _kept_out(source, rule, limit, unread)
        for source, rule in zip(sources, held_out)
        if rule is not None and isinstance(source, SampleSource)
    ]
    if not config.evaluation_interval[0]:
        return None
    if config.validation is not None:
        found = []
        for source in config.validation:
            weights = source.tasks or _all_tasks(sources)
            mixture = TaskMixture({task_of(name, tasks).token: 1.0 for name in weights}, tasks)
            whole = SampleSource(source, mixture, shape.image_size_wh)
            chosen = _first(whole, limit, whole.trained, unread)
            if not chosen:
                raise ValueError(
                    f"validation: {source.path}: split {source.split!r} holds no sample; check path and split"
                )
            found.append(_of(whole, chosen))
    if not found:
        raise ValueError("evaluate_every: scenes drawn on the fly have no part to hold out; name `validation`")
    _tell_apart(found)
    tokens = dict.fromkeys(token for source in found for token in source.tasks.weights)
    samples = [sample for source in found for sample in source.samples(source.count(0))]
    every = [task_of(token, tasks) for token in tokens]
    asked = [task for task in every if eval_items_of(samples, task)]
    if not asked:
        raise ValueError(f"validation: {len(samples)} samples hold no truth for {', '.join(tokens)}; name others")
    validation = Validation(found, asked, config.best, unread)
    names = [*validation.names, LOSS]
    if validation.metric not in names:
        raise ValueError(f"best.metric: {validation.metric}: expected one of {', '.join(names)}")
    return validation


def _all_tasks(sources: Sequence[TrainingSource]) -> list[str]:
    return list(dict.fromkeys(token for source in sources for token in source.tasks.weights))


def _rule(source: SampleSource) -> HeldOut:
    """What a source is to keep out of training: its val part if it has one, else a share."""
    own = source.source
    if own.split == VAL:
        raise ValueError(f"evaluate_every: {own.path}: split val is trained; name `validation`")
    if _first(source, 1, _in_val, []):
        return VAL
    if source.count(0) > WHOLE:
        return SHARE
    numbers = range(source.count(0))
    samples = (s for s in map(source.sample, numbers) if isinstance(s, Sample))
    places = sorted(validation_place(s) for s in samples if _candidate(source, s))
    if len(places) < 2:
        raise ValueError(
            f"evaluate_every: {own.path}: {len(places)} samples are too few to hold one out; name `validation`"
        )
    share = places[max(1, round(SHARE * len(places)))]
    if share == places[0]:  # pictures of one name go together, all or none
        share = next((place for place in places if place > share), share)
    if not 0 < bisect_left(places, share) <= max(1, len(places) // 4):
        raise ValueError(
            f"evaluate_every: {own.path}: {len(places)} samples have {len(set(places))} names of pictures, "
            "by which a share is held out, too few for it; name `validation`"
        )
    return share


def _kept_out(source: SampleSource, rule: HeldOut, limit: int, unread: list[str]) -> SampleSource:
    """A source of the samples that a source keeps out of training from now on, never of its test part."""
    if rule == VAL:
        held_out = _in_val
        chosen = _first(source, limit, held_out, unread)
    else:
        share = float(rule or 0)

        def held_out(sample: Sample) -> bool:
            return validation_place(sample) < share and sample.split != "test"

        chosen = _first(source, limit, lambda sample: held_out(sample) and _candidate(source, sample), unread)
    if not chosen:
        raise ValueError(
            f"evaluate_every: {source.source.path}: no sample can be held out"
            + (f" ({unread[0]})" if unread else " by its picture's name")
            + "; name `validation`"
        )
    source.hold_out(held_out)
    return _of(source, chosen)


def _in_val(sample: Sample) -> bool:
    return bool(sample.split) and in_split(sample, VAL)


def _candidate(source: SampleSource, sample: Sample) -> bool:
    return source.trained(sample) and sample.split != "test" and bool(source.tasks.truths(sample))


def _first(source: SampleSource, limit: int, wanted: Callable[[Sample], bool], unread: list[str]) -> list[Sample]:
    """The first `limit` samples wanted, each with its picture's size, of a large set in random order; why others cannot
    be read goes to `unread`."""
    count = source.count(0)
    numbers: Sequence[int] = range(count)
    if count > WHOLE:
        numbers = random.Random(0).sample(numbers, min(count, WHOLE))
    out: list[Sample] = []
    for number in numbers:
        sample = source.sample(number)
        if isinstance(sample, LeftOut) or not wanted(sample):
            continue
        try:
            out.append(sized(sample))
        except BadImage as error:
            unread.append(str(error))
        if len(out) == limit:
            break
    return out


def _tell_apart(sources: Sequence[SampleSource]) -> None:
    """Give pictures that are called alike, of one source or of several, names by which answers can be matched."""
    seen: Counter[str] = Counter()
    for source in sources:
        samples = []
        for sample in source.samples(source.count(0)):
            name = sample.image.id or sample.id
            seen[name] += 1
            if seen[name] > 1:
                sample = replace(sample, image=replace(sample.image, id=f"{name}#{seen[name]}"))
            samples.append(sample)
        source.give(samples)


def _of(source: SampleSource, samples: Sequence[Sample]) -> SampleSource:
    """A source of these very samples, each pair once."""
    plain = DataSource(path=source.source.path)
    weights = TaskMixture(dict.fromkeys(source.tasks.weights, 1.0), source.tasks.table)
    return SampleSource(plain, weights, source.size_wh, samples)


@torch.no_grad()
def validation_loss(step: torch.nn.Module, batches: Any) -> float:
    """Mean sequence loss over batches, without dropout."""
    loss, tokens = 0.0, 0
    step.eval()
    for batch in batches:
        if batch.tokens:
            _, counted, parts = step(batch)
            loss, tokens = loss + float(parts["sequence"]), tokens + counted
    return loss / max(1, tokens)

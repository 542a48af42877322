"""What is evaluated while a run trains: its samples, kept out of training, and their scores by the field's metrics."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florence2.codec.tasks import Task, task_of
from florence2.evaluation import evaluate
from florence2.evaluation.eval_items import eval_items_of
from florence2.evaluation.metric_specs import ERRORS, metric_spec_of
from florence2.model.config import ModelConfig
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


@dataclass
class Validation:
    """The samples that are evaluated, by source with its tasks, and which score is the best."""

    sources: list[SampleSource]
    tasks: list[Task]
    best: BestConfig

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
        for task in self.tasks:
            report = evaluate(
                model,
                samples,
                task.name,
                folder / task.name,
                grey=False,
                resamples=0,
                decoding={"max_new_tokens": most_tokens},
                progress=progress,
            )
            prefix = f"{task.name}." if len(self.tasks) > 1 else ""
            out |= {f"{prefix}{key}": value for key, value in report["metrics"].items()}
        return out


def validation_of(
    config: TrainConfig, sources: Sequence[TrainingSource], tasks: Mapping[str, Task], shape: ModelConfig
) -> Validation:
    """What a config's `validation` names; else each source's own val part or a share of it, held out from now on."""
    found: list[SampleSource] = []
    if config.validation is not None:
        for source in config.validation:
            weights = source.tasks or _all_tasks(sources)
            mixture = TaskMixture({task_of(name, tasks).token: 1.0 for name in weights}, tasks)
            whole = SampleSource(source, mixture, shape.image_size_wh)
            chosen = _first(whole, config.validation_limit, whole.trained)
            if not chosen:
                raise ValueError(
                    f"validation: {source.path}: split {source.split!r} holds no sample; check path and split"
                )
            found.append(_of(whole, chosen))
    else:
        found = [_held_out(s, config.validation_limit) for s in sources if isinstance(s, SampleSource)]
    if not found:
        raise ValueError("evaluate_every: scenes drawn on the fly have no part to hold out; name `validation`")
    tokens = dict.fromkeys(token for source in found for token in source.tasks.weights)
    samples = [sample for source in found for sample in source.samples(source.count(0))]
    asked = [tasks[token] for token in tokens if eval_items_of(samples, tasks[token])]
    if not asked:
        raise ValueError(f"validation: {len(samples)} samples hold no truth for {', '.join(tokens)}; name others")
    return Validation(found, asked, config.best)


def _all_tasks(sources: Sequence[TrainingSource]) -> list[str]:
    return list(dict.fromkeys(token for source in sources for token in source.tasks.weights))


def _held_out(source: SampleSource, limit: int) -> SampleSource:
    """The val part of a source or a share of it by hash, never of its test part; training leaves it out from now on."""
    own = source.source
    if own.split == "val":
        raise ValueError(f"evaluate_every: {own.path}: split val is trained; name `validation`")

    def val(sample: Sample) -> bool:
        return bool(sample.split) and in_split(sample, "val")

    chosen = _first(source, limit, val)
    if chosen:
        source.hold_out(val)
        return _of(source, chosen)

    def candidate(sample: Sample) -> bool:
        return source.trained(sample) and sample.split != "test" and bool(source.tasks.truths(sample))

    if source.count(0) > WHOLE:
        share: float = SHARE
    else:
        numbers = range(source.count(0))
        places = sorted(
            validation_place(s) for s in map(source.sample, numbers) if isinstance(s, Sample) and candidate(s)
        )
        if len(places) < 2:
            raise ValueError(
                f"evaluate_every: {own.path}: {len(places)} samples are too few to hold one out; name `validation`"
            )
        share = places[max(1, round(SHARE * len(places)))]

    def held_out(sample: Sample) -> bool:
        return validation_place(sample) < share and sample.split != "test"

    chosen = _first(source, limit, lambda sample: candidate(sample) and held_out(sample))
    source.hold_out(held_out)
    return _of(source, chosen)


def _first(source: SampleSource, limit: int, wanted: Callable[[Sample], bool]) -> list[Sample]:
    """The first `limit` samples wanted, of a large set in random order."""
    count = source.count(0)
    numbers: Sequence[int] = range(count)
    if count > WHOLE:
        numbers = random.Random(0).sample(numbers, min(count, WHOLE))
    out: list[Sample] = []
    for number in numbers:
        sample = source.sample(number)
        if not isinstance(sample, LeftOut) and wanted(sample):
            out.append(sample)
            if len(out) == limit:
                break
    return out


def _of(source: SampleSource, samples: Sequence[Sample]) -> SampleSource:
    """A source of these very samples, each pair once."""
    plain = DataSource(path=source.source.path)
    weights = TaskMixture(dict.fromkeys(source.tasks.weights, 1.0), source.tasks.table)
    return SampleSource(plain, weights, source.size_wh, [sized(sample) for sample in samples])


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

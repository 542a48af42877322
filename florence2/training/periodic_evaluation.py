"""When a run is evaluated, which evaluation was the best, and when to stop for want of a better one."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from florence2.metrics.coco_ap import UNDEFINED
from florence2.predictor.florence2 import Florence2
from florence2.training.order import Cursor, PairOrder
from florence2.training.run_folder import EVALUATIONS, JsonLinesWriter, RunFolder, read_lines
from florence2.training.setup import TrainingJob
from florence2.training.trainer import Trainer
from florence2.training.validation_set import FOLDER, LOSS

MORE_TOKENS = 16  # that an answer may be longer than the longest target


class Stopped(Exception):
    """A stop was asked for in the middle of an evaluation."""


class Evaluations:
    """The evaluations of a run; OUT/evaluations.jsonl holds them."""

    def __init__(
        self, job: TrainingJob, trainer: Trainer, folder: RunFolder, on_message: Callable[[str], None]
    ) -> None:
        self.job, self.trainer, self.folder, self.on_message = job, trainer, folder, on_message
        self.every, self.unit = job.config.evaluation_interval

    def due(self, step: int) -> bool:
        """Whether a step is followed by an evaluation: the last one is, and each that completes an interval."""
        if not self.every:
            return False
        size = self.job.config.batch_size * self.job.config.accumulate
        scale = size / sum(self.job.found.pairs_by_source) if self.unit == "epochs" else 1.0
        done = [math.floor(number * scale / self.every + 1e-9) for number in (step - 1, step)]
        return step == self.job.steps or done[1] > done[0]

    def missing(self, step: int, ended: bool = False) -> bool:
        """Whether a step that should have been evaluated was not: the run was stopped in it, or its data `ended`."""
        if not self.every or not step or not (ended or self.due(step)):
            return False
        return all(row["step"] != step for row in read_lines(self.folder.path / EVALUATIONS))

    def evaluate(
        self, step: int, epoch: float, save: Callable[[], Path | None], stop: Callable[[], bool]
    ) -> str | None:
        """Evaluate, keep the checkpoint where it is the best; why the run is to stop now, None where it goes on."""
        result = ""
        if self.job.ranks.first:
            try:
                result = self._evaluate(step, epoch, save, stop)
            except Stopped:
                result = "interrupted"
        for why in ("interrupted", "patience"):
            if self.job.ranks.any(result == why):
                return why
        return None

    def _evaluate(self, step: int, epoch: float, save: Callable[[], Path | None], stop: Callable[[], bool]) -> str:
        validation, job = self.job.validation, self.job
        assert validation is not None

        def progress(done: int, count: int) -> None:
            if stop():
                raise Stopped

        with self.trainer.averaged() as model:
            predictor = Florence2(model, job.tokenizer, job.tasks)
            most = min(job.order.sources[0].limits.target, job.found.longest_target + MORE_TOKENS)
            folder = self.folder.path / FOLDER / f"step-{step:08d}"
            metrics = validation.scores(predictor, folder, most, progress)
            metrics[LOSS] = self._loss()
        failures, asks = validation.unanswered
        if failures:
            self.on_message(
                f"step {step}: {failures} of {asks} validation asks cannot be answered, as their picture cannot be "
                "read; they count as empty answers"
            )
        if validation.metric not in metrics:  # no question of its kind was asked
            raise ValueError(f"best.metric: {validation.metric}: expected one of {', '.join(metrics)}")
        value = metrics[validation.metric]
        best = self.folder.best_facts()
        better = value != UNDEFINED and (not best or validation.is_better(value, best["value"]))
        how = "the best" if better else f"best {best['value']:.4f}" if best else "undefined: no object is held out"
        self.on_message(f"step {step}: {validation.metric} {value:.4f} ({how})")
        if better:
            checkpoint = save()
            assert checkpoint is not None
            self.folder.keep_best(checkpoint, {"step": step, "metric": validation.metric, "value": value})
        board = self.folder.path / "tensorboard" / "validation" if job.config.tensorboard else None
        with closing(
            JsonLinesWriter(self.folder.path / EVALUATIONS, board)
        ) as journal:  # last: until then it is missing
            journal.write({"step": step, "epoch": epoch, "metrics": metrics})
        return "patience" if self.out_of_patience() else ""

    def out_of_patience(self) -> bool:
        """Whether so many evaluations have brought nothing better that the run is to stop."""
        patience = self.job.config.patience
        if not patience or not self.folder.best_facts():
            return False
        best = self.folder.best_facts()["step"]
        return sum(row["step"] > best for row in read_lines(self.folder.path / EVALUATIONS)) >= patience

    def _loss(self) -> float:
        """Mean sequence loss over the validation's pairs by the weights at hand, in the run's precision."""
        validation, maker = self.job.validation, self.job.maker
        assert validation is not None
        for source in validation.sources:
            source.tokenizer, source.limits = self.job.tokenizer, self.job.order.sources[0].limits
        order = PairOrder(validation.sources, 0)
        plain = maker.of(validation.sources, maker.features)
        batches = (plain[planned] for planned in order.batches(self.job.config.batch_size, Cursor(), 1))
        return self.trainer.probe(batches)

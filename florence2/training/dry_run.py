"""A run before its first step: the plan, the first batch as the model sees it, what it will take of memory and time.

Memory is predicted from the config and the batch; a forward and backward is made and timed, of a part of the batch
where the whole would take long. Nothing is written but pictures where a folder is named for them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florence2.codec.answers import parse_ids
from florence2.codec.tasks import task_of
from florence2.drawing.picture import draw
from florence2.pixels import encode
from florence2.training import optim, products
from florence2.training import ranks as processes
from florence2.training.batches import Batch
from florence2.training.config import TrainConfig
from florence2.training.memory import Shapes, of_larger
from florence2.training.order import Cursor
from florence2.training.pull import pull_of
from florence2.training.run_folder import RunFolder
from florence2.training.setup import TrainingJob, prepare
from florence2.training.step import TrainingStep

GB = 1e9
MOST = 32  # pairs that are shown, and measured at once
LONGEST = 20.0  # seconds that a measured step may take


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    strategy: str
    steps: int
    resumes_at: str
    pairs_an_epoch: int
    epochs: float
    parameters: int
    trained: int
    left_out: str
    longest_prompt: int
    longest_target: int
    validation: str
    first_batch: tuple[dict[str, Any], ...]
    memory_gb: dict[str, float]
    seconds_a_step: float
    hours: float
    seconds_a_picture: float = 0.0
    """Once, before its features are kept; 0: the tower is part of each step."""
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        once = f" and {self.seconds_a_picture:.2f} s a picture once" if self.seconds_a_picture else ""
        long = f"{self.hours:.1f} h" if self.hours >= 1 else f"{60 * self.hours:.1f} min"
        memory = ", ".join(f"{name} {value:.2f}" for name, value in self.memory_gb.items())
        lines = [
            f"strategy   {self.strategy}: {self.trained:,} of {self.parameters:,} parameters are trained",
            f"steps      {self.steps} ({self.epochs:.2f} epochs of {self.pairs_an_epoch} pairs){self.resumes_at}",
            f"longest    prompt {self.longest_prompt}, target {self.longest_target} tokens",
            f"left out   {self.left_out or 'nothing'}",
            f"evaluated  {self.validation}",
            f"memory     about {sum(self.memory_gb.values()):.2f} GB on one rank at the peak ({memory})",
            f"time       about {self.seconds_a_step:.2f} s a step{once}, {long} in all, without evaluations",
            *self.notes,
            f"of the first batch {len(self.first_batch)} pairs:",
        ]
        for row in self.first_batch:
            lines += [f"  {row['id']}", f"    prompt  {row['prompt']}", f"    target  {row['target']}"]
            lines += [f"    ids     {' '.join(map(str, row['target_ids']))}"]
        return "\n".join(lines)


def dry_run(config: TrainConfig, folder: str | Path | None = None, restart: bool = False) -> Plan:
    """The plan of a run; with a folder, its first batch drawn there. `restart`: as if OUT were moved aside."""
    run = RunFolder(config.out)
    if not restart:
        run.refuse_another(config)
    newest = None if restart else run.newest()
    job = prepare(config, processes.Ranks(device=processes.device_of(config.device)), newest)
    job.maker.features = None
    some = min(MOST, config.batch_size)
    batch = job.maker[next(job.order.batches(some, Cursor()))]
    pictures = sum(source.count(0) for source in job.order.sources)
    memory = of_larger(config, job.model.config, Shapes.of(batch), config.batch_size / some, pictures, job.head)
    with products.float32_products(config.fast_fp32, job.model.device, config.precision):
        seconds, look = measured(job, config.batch_size)
    pairs = sum(job.found.pairs_by_source)
    each = config.batch_size * config.accumulate
    validation = job.validation
    trained = optim.trainable(job.model)
    optim.groups(trained, config)  # refuses a group of no parameter
    if folder is not None:
        _draw(job, batch, Path(folder))
    return Plan(
        strategy=config.strategy,
        steps=job.steps,
        resumes_at=f", goes on from {newest.name}" if newest else "",
        pairs_an_epoch=round(pairs),
        epochs=job.steps * each / pairs if pairs else 0.0,
        parameters=sum(p.numel() for p in job.model.parameters()),
        trained=sum(p.numel() for p in trained.values()),
        left_out="; ".join(filter(None, (str(job.found.lost), str(job.found.unsound)))),
        longest_prompt=job.found.longest_prompt,
        longest_target=job.found.longest_target,
        validation=f"{len(validation.samples)} samples by {validation.metric}" if validation else "nothing",
        first_batch=tuple(_row(job, e.sample_id, e.prompt, e.target_ids) for e in batch.examples),
        memory_gb={name: round(size / GB, 4) for name, size in memory.items()},
        seconds_a_step=round(seconds * config.accumulate, 3),
        hours=round((seconds * config.accumulate * job.steps + look * pictures) / 3600, 3),
        seconds_a_picture=round(look, 4),
        notes=tuple(job.notes),
    )


def measured(job: TrainingJob, size: int) -> tuple[float, float]:
    """Seconds of a forward and backward of so many pairs, and of a picture whose features are kept (else 0).

    Two pairs are measured first; all are where that takes no longer than LONGEST, else the time is in proportion.
    """
    weights = optim.Weights(job.model, job.config.precision, 0.0)
    pull = pull_of(job.config, weights.compute_model)
    step = TrainingStep(weights.compute_model, job.head, job.loss, pull=pull).train()
    pairs = min(2, size)
    seconds, look = _seconds(job, step, pairs)
    if size > pairs and seconds * size / pairs < LONGEST and size <= MOST:
        pairs = size
        seconds, look = _seconds(job, step, pairs)
    return seconds * size / pairs, look


def _seconds(job: TrainingJob, step: TrainingStep, pairs: int) -> tuple[float, float]:
    batch = job.maker[next(job.order.batches(pairs, Cursor()))]
    look = 0.0
    if job.features is not None:
        started = time.monotonic()
        step.frozen.encode(batch.pictures)
        look = (time.monotonic() - started) / batch.picture_count
    started = time.monotonic()
    loss, tokens, _ = step(batch)
    if loss.requires_grad:
        (loss / max(1, tokens)).backward()
    for parameter in step.parameters():
        parameter.grad = None
    return max(1e-4, time.monotonic() - started - look * batch.picture_count), look


def _row(job: TrainingJob, name: str, prompt: str, ids: tuple[int, ...]) -> dict[str, Any]:
    return {"id": name, "prompt": prompt, "target": job.tokenizer.decode(ids[1:-1]), "target_ids": list(ids)}


def _draw(job: TrainingJob, batch: Batch, folder: Path) -> None:
    """Each pair's picture with its target drawn on it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (example, place) in enumerate(zip(batch.examples, batch.pictures_of)):
        array = batch.pictures[place].numpy()
        task = task_of(example.ask.task, job.tasks)
        size_wh = (array.shape[1], array.shape[0])
        parsed, _ = parse_ids(list(example.target_ids[1:-1]), job.tokenizer, task, size_wh, example.ask)
        (folder / f"{number:05d}.png").write_bytes(encode(draw(array, parsed)))

"""A run before its first step: the plan, the first batch as the model sees it, what it will take of memory and time.

One forward and backward is made and measured; nothing is written but pictures where a folder is named for them.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from florence2.codec.answers import parse_ids
from florence2.codec.tasks import task_of
from florence2.drawing.picture import draw
from florence2.pixels import encode
from florence2.training import optim, products
from florence2.training import ranks as processes
from florence2.training.batches import Batch
from florence2.training.config import TrainConfig
from florence2.training.run_folder import RunFolder
from florence2.training.setup import TrainingJob, prepare
from florence2.training.step import TrainingStep, attention

GB = 1e9


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
            f"memory     about {sum(self.memory_gb.values()):.2f} GB ({memory})",
            f"time       about {self.seconds_a_step:.2f} s a step{once}, {long} in all, without evaluations",
            *self.notes,
            "the first batch:",
        ]
        for row in self.first_batch:
            lines += [f"  {row['id']}", f"    prompt  {row['prompt']}", f"    target  {row['target']}"]
            lines += [f"    ids     {' '.join(map(str, row['target_ids']))}"]
        return "\n".join(lines)


def dry_run(config: TrainConfig, folder: str | Path | None = None) -> Plan:
    """The plan of a run; with a folder, its first batch drawn there."""
    run = RunFolder(config.out)
    run.refuse_another(config)
    newest = run.newest()
    job = prepare(config, processes.Ranks(device=processes.device_of(config.device)), newest)
    job.maker.features = None
    (batch,) = job.first(1)
    with products.float32_products(config.fast_fp32, job.model.device, config.precision):
        memory, seconds, look = measured(job, batch)
    pictures = sum(source.count(0) for source in job.order.sources) if look else 0
    pairs = sum(job.found.pairs_by_source)
    each = config.batch_size * config.accumulate
    validation = job.validation
    if folder is not None:
        _draw(job, batch, Path(folder))
    return Plan(
        strategy=config.strategy,
        steps=job.steps,
        resumes_at=f", goes on from {newest.name}" if newest else "",
        pairs_an_epoch=round(pairs),
        epochs=job.steps * each / pairs if pairs else 0.0,
        parameters=sum(p.numel() for p in job.model.parameters()),
        trained=sum(p.numel() for p in optim.trainable(job.model).values()),
        left_out=str(job.found.lost),
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


def measured(job: TrainingJob, batch: Batch) -> tuple[dict[str, int], float, float]:
    """Bytes by kind of a step on this batch, its seconds, and those of a picture whose features are kept (else 0)."""
    weights = optim.Weights(job.model, job.config.precision, job.config.ema)
    step = TrainingStep(weights.compute_model, job.head, job.loss).train()
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    look = _seconds_a_picture(step, batch) if job.features is not None else 0.0
    own = {p.untyped_storage().data_ptr() for p in step.parameters()}
    started = time.monotonic()
    with attention(job.model.device):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss, tokens, _ = step(batch)
        if loss.requires_grad:
            (loss / max(1, tokens)).backward()
    seconds = time.monotonic() - started - look * batch.picture_count
    for parameter in step.parameters():
        parameter.grad = None
    trained = sum(p.nbytes for p in optim.trainable(job.model).values())
    copy = sum(p.nbytes for p in weights.compute_model.parameters()) if weights.compute_model is not job.model else 0
    return (
        {
            "weights": sum(p.nbytes for p in job.model.parameters())
            + copy
            + sum(t.nbytes for t in weights.average.values()),
            "gradients": trained,
            "moments": 2 * trained,
            "activations": sum(size for place, size in kept.items() if place not in own),
        },
        seconds,
        look,
    )


def _seconds_a_picture(step: TrainingStep, batch: Batch) -> float:
    started = time.monotonic()
    step.frozen.encode(batch.pictures)
    return (time.monotonic() - started) / batch.picture_count


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

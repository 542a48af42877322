"""The test that runs by itself after the last save: what OUT holds is what was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from florence2.predictor import checkpoints
from florence2.training.order import Cursor
from florence2.training.setup import TrainingJob
from florence2.training.step import TrainingStep
from florence2.training.trainer import Trainer
from florence2.training.validation_set import validation_loss

NEAR = 1e-3  # relative difference of the loss of a merged adapter


def check_reload(folder: Path, trainer: Trainer, job: TrainingJob) -> None:
    """Open OUT as `load` does and compare: every weight to the bit, with an adapter the loss of a batch."""
    found = checkpoints.find(folder)
    model, tokenizer, _ = checkpoints.open_parts(found, trainer.model.dtype, trainer.device)
    if tokenizer.vocab_size != job.tokenizer.vocab_size:
        raise ValueError(f"{found.home}: the saved tokenizer is not the one that was trained with; check the disk")
    if found.adapter is None:
        saved = trainer.weights.to_save()
        wrong = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, saved[name])]
        if wrong:
            raise ValueError(f"{folder}: {wrong[0]}: what was saved is not what was trained; check the disk")
        return
    planned = next(job.order.batches(min(4, job.config.batch_size), Cursor()))
    batch = job.maker.of(job.order.sources)[planned]
    with trainer.averaged() as trained:
        expected = validation_loss(TrainingStep(trained), [batch])
    loss = validation_loss(TrainingStep(model), [batch])
    if abs(loss - expected) > NEAR * max(1.0, abs(expected)):
        raise ValueError(f"{folder}: the adapter opened again gives a loss of {loss:.4f}, trained {expected:.4f}")

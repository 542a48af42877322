"""What a step changes: the weights, the optimiser, the averages; and how they are saved and gone on from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from florence2.codec.tasks import save_tasks
from florence2.model.checkpoint import save_model
from florence2.model.florence import Florence
from florence2.model.tensor_files import check_finite
from florence2.store import sha256_of
from florence2.structuring import parse_json
from florence2.training import dense, lora, optim
from florence2.training.batches import Batch
from florence2.training.order import Cursor
from florence2.training.pull import pull_of
from florence2.training.run_folder import PROGRESS, STATE, progress_of
from florence2.training.setup import TrainingJob
from florence2.training.step import PART, TrainingStep
from florence2.training.validation_set import validation_loss

MOMENTS = ("exp_avg", "exp_avg_sq")
MET = "met"  # pairs of a step, without those in the place of others
COUNTS = "steps"  # of each parameter, in the parameters' order


class NotFinite(ValueError):
    """A loss or a gradient that is no number."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: its steps, its place in the data, the loss before its first step."""

    step: int = 0
    cursor: Cursor = Cursor()
    loss_before: float = 0.0


class Trainer:
    """The weights, what changes them, and how much."""

    def __init__(self, job: TrainingJob) -> None:
        self.job, self.config, self.ranks = job, job.config, job.ranks
        self.model: Florence = job.model
        self.weights = optim.Weights(self.model, self.config.precision, self.config.ema)
        computing = self.weights.compute_model
        pull = pull_of(self.config, computing)
        self.module = TrainingStep(computing, job.head, job.loss, job.features, pull)
        self.wrapped = self.ranks.wrap(self.module)
        self.parameters = optim.trainable(self.model)
        if job.head is not None:
            self.parameters |= {f"dense.{name}": p for name, p in job.head.named_parameters()}
        self.optimiser = optim.optimiser(self.parameters, self.config)
        self.device = self.model.device

    def step(self, number: int, batches: Sequence[Batch]) -> dict[str, Any]:
        """One step over the accumulated batches of all ranks; the line for metrics.jsonl, and MET beside it.

        NotFinite where the loss or the gradient is no number: the weights then are those of the step before.
        """
        config = self.config
        torch.manual_seed(
            config.seed * 1_000_003 + number + 7_919_000_003 * self.ranks.rank
        )  # resuming changes nothing
        own = {"left_out": float(sum(lost.pairs for batch in batches for lost in batch.left_out))}
        own |= {"pairs": float(sum(batch.pairs for batch in batches))}
        own |= {MET: float(sum(batch.pairs for batch in batches if not batch.spare))}
        own |= {"pictures": float(sum(batch.picture_count for batch in batches if batch.pairs))}
        for batch in batches:
            for name, value in batch.counts().items():
                own[name] = own.get(name, 0.0) + value
        counts = self.ranks.sum(own)
        sums = self.ranks.sum(self._backward(batches, counts))
        tokens = max(1.0, counts["tokens"])
        loss = sums.pop(PART) / tokens
        parts = (
            {f"dense_{name}": value / max(1.0, counts[name]) for name, value in sums.items()} if config.dense else {}
        )
        self.weights.copy_gradients()
        for name, rows in self.job.own_rows.items():
            leave_rows(self.parameters[name].grad, rows)
        norm = optim.clip(self.parameters.values(), config.clip)
        if not math.isfinite(loss + sum(parts.values()) + norm):
            raise NotFinite(f"step {number}: the loss is {loss}, the gradient's length {norm}")
        factor = optim.rate_factor(config, number, self.job.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        if counts["tokens"]:  # else nothing was asked: no decay either
            self.optimiser.step()
            self.weights.publish(number)
        self.optimiser.zero_grad(set_to_none=True)
        return {
            "step": number,
            "loss": loss,
            "tokens": int(counts["tokens"]),
            "pairs": int(counts["pairs"]),
            MET: int(counts[MET]),
            "pictures": int(counts["pictures"]),
            "left_out": int(counts["left_out"]),
            **parts,
            "lr": config.lr * factor,
            "gradient_norm": norm,
        }

    def _backward(self, batches: Sequence[Batch], counts: dict[str, float]) -> dict[str, float]:
        """Gradients of the step's loss; this rank's sums of each part of it."""
        sums = dict.fromkeys((PART, *dense.PARTS), 0.0)
        self.module.train()
        for place, batch in enumerate(batches):
            last = place == len(batches) - 1
            with contextlib.nullcontext() if last or self.ranks.count == 1 else self.wrapped.no_sync():  # type: ignore[operator]
                total, _, parts = self.wrapped(batch)
                loss = total / max(1.0, counts["tokens"])
                for name, value in parts.items():
                    sums[name] += float(value.detach())
                    if name != PART:
                        loss = loss + self.config.dense * value / max(1.0, counts[name])
                if loss.requires_grad:
                    (loss * self.ranks.count).backward()  # the ranks' mean is taken, the sum is meant
        return sums

    @torch.no_grad()
    def probe(self, batches: Iterator[Batch]) -> float:
        """Mean sequence loss over batches by the weights at hand, without dropout."""
        return validation_loss(self.module, batches)

    # what is saved

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Florence]:
        """The model and its lower copy with the weights that are saved, for as long as the context lasts."""
        training = self.model.training
        own = {n: p.detach().clone() for n, p in self.parameters.items() if n in self.weights.average}
        self._assign(self.weights.average)
        try:
            yield self.model
        finally:
            self._assign(own)
            self.model.train(training)

    @torch.no_grad()
    def _assign(self, tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.parameters[name].copy_(tensor)
        if tensors:
            self.weights.publish_masters()

    def write(self, folder: Path, progress: Progress) -> None:
        """The weights as a checkpoint that `load` opens, and the state to go on from."""
        with self.averaged() as model:
            self._refuse_grown(progress.step)
            if self.config.lora is not None:
                lora.write(model, folder, self.config, self.job.start, self.job.own_rows)
            else:
                save_model(model, folder)
        self.job.tokenizer.save(folder)
        save_tasks(self.job.tasks, folder)
        if self.job.head is not None:
            dense.save_head(self.job.head, folder)
        state = folder / STATE
        state.mkdir()
        with _alone():
            dcp.save(self._state(), checkpoint_id=state, no_dist=True)
        files = {path.name: sha256_of(path) for path in sorted(state.iterdir())}
        facts = {**dataclasses.asdict(progress), "parameters": list(self.parameters), "files": files}
        (state / PROGRESS).write_text(json.dumps(facts) + "\n", encoding="utf-8")

    def _refuse_grown(self, step: int) -> None:
        """NotFinite where a weight has grown so large that no checkpoint could be opened again."""
        for name, parameter in self.parameters.items():
            try:
                check_finite(parameter.detach(), name)
            except ValueError as error:
                what = str(error).partition("; ")[0]
                raise NotFinite(f"step {step}: {what}; it is not saved; lower lr or clip") from None

    def resume(self, checkpoint: Path) -> Progress:
        """Take over the state of a checkpoint, saved by any number of ranks."""
        folder = checkpoint / STATE
        if not (folder / PROGRESS).is_file():
            raise ValueError(f"{checkpoint}: holds no state to go on from; --restart moves the run aside")
        facts = _whole(folder)
        if facts.pop("parameters") != list(self.parameters):
            raise ValueError(f"{folder}: holds another run (its parameters differ); choose another out")
        state = self._state()
        with _alone():
            dcp.load(state, checkpoint_id=folder, no_dist=True)
        with torch.no_grad():
            for (name, parameter), count in zip(self.parameters.items(), state[COUNTS]):
                parameter.copy_(state[f"parameter.{name}"])
                own = {key: state[f"{key}.{name}"].clone() for key in MOMENTS}
                self.optimiser.state[parameter] = {"step": count.clone().to(self.device), **own}
            for name in self.weights.average:
                self.weights.average[name].copy_(state[f"average.{name}"])
        self.weights.publish_masters()
        _, met = progress_of(checkpoint, self.config.batch_size * self.config.accumulate)
        return Progress(facts["step"], Cursor(**{**facts["cursor"], "met": met}), facts["loss_before"])

    def _state(self) -> dict[str, Tensor]:
        """Every tensor that a resumed run needs, by name; moments that are not there yet are zeros."""
        out: dict[str, Tensor] = {}
        counts = []
        for name, parameter in self.parameters.items():
            out[f"parameter.{name}"] = parameter.detach()
            own = self.optimiser.state.get(parameter, {})
            counts.append(float(own.get("step", 0.0)))
            for key in MOMENTS:
                out[f"{key}.{name}"] = own.get(key, torch.zeros_like(parameter))
        out[COUNTS] = torch.tensor(counts)
        return out | {f"average.{name}": tensor for name, tensor in self.weights.average.items()}


def leave_rows(gradient: Tensor | None, rows: slice) -> None:
    """Keep of a matrix's gradient only those rows: gradient and moments of the others are then always zero."""
    if gradient is not None:
        gradient[: rows.start] = 0
        gradient[rows.stop :] = 0


def _whole(folder: Path) -> dict[str, Any]:
    """What progress.json says of a state whose files are as they were written; ValueError names the one that is not."""
    again = "its weights can be the model of another out, or --restart moves the run aside"  # older ones have no state
    try:
        facts = parse_json((folder / PROGRESS).read_text(encoding="utf-8"))
        files = facts.pop("files", {})  # a run begun before they were counted has none
        damaged = [
            name for name, sha in files.items() if not (folder / name).is_file() or sha256_of(folder / name) != sha
        ]
    except (ValueError, AttributeError, TypeError):
        raise ValueError(f"{folder / PROGRESS}: damaged; {again}") from None
    if damaged:
        raise ValueError(f"{folder / damaged[0]}: damaged or gone: it is not what was saved; {again}")
    return facts


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process saves and every process loads by itself, which torch would warn of. OSError where a file cannot be
    written or read: torch's own exception is no `Exception`, and holds that of each rank."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is")
        try:
            yield
        except CheckpointException as error:
            cause = next((failure[0] for failure in error.failures.values()), error)
            raise OSError(str(cause).strip().split("\n")[0] or type(cause).__name__) from None


def keep_batches(folder: Path, number: int, batches: Sequence[Batch], rank: int) -> Path:
    """Write the batches of a step for inspection: tensors in a .pt, prompts and targets beside it as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"step-{number:08d}-rank{rank}.pt"
    plain = [{"pictures": b.pictures, "parts": [vars(part) for part in b.parts]} for b in batches]
    torch.save(plain, file)
    rows = [
        {"id": e.sample_id, "task": e.ask.task, "prompt": e.prompt, "target_ids": list(e.target_ids)}
        for batch in batches
        for e in batch.examples
    ]
    file.with_suffix(".json").write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return file


def now() -> float:
    """The wall clock in seconds, to a millisecond."""
    return round(time.time(), 3)

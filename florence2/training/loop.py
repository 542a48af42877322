"""The one training loop. It knows a model, batches and a folder; what the pairs are about is decided elsewhere.

OUT is a checkpoint that `load` opens at any time: config.json, model.safetensors, the tokenizer. Beside it: state.pt
(what a resumed run goes on from), metrics.jsonl (a line a step), config.yaml, dense.safetensors (the auxiliary head).
Every file is written under another name and renamed, so a run killed in mid-save leaves the last good ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from florence2.model.checkpoint import save_model
from florence2.model.florence import Florence
from florence2.training import dense, optim
from florence2.training.batches import Batch, Batches, PaddedPairs
from florence2.training.config import TrainConfig
from florence2.training.setup import TrainingJob, prepare

STATE = "state.pt"
METRICS = "metrics.jsonl"
PROBE = 4  # batches whose loss is measured before and after


@dataclass(frozen=True)
class TrainResult:
    """What a run did: a run that did nothing shows equal losses."""

    folder: str
    steps: int
    loss_before: float
    loss_after: float
    weights_sha256: str
    seconds: float = 0.0
    interrupted: bool = False


def run(config: TrainConfig, progress: Callable[[dict[str, Any]], None] | None = None) -> TrainResult:
    """Train as the config says, going on from OUT's state where there is one; `progress` gets each metrics line."""
    if config.threads:
        torch.set_num_threads(config.threads)
    started = time.monotonic()
    torch.manual_seed(config.seed)
    job = prepare(config)
    trainer = Trainer(config, job)
    folder = Path(config.out)
    step, before = trainer.resume(folder / STATE)
    if not step:
        before = trainer.probe(job.batches)
    cut_back(folder / METRICS, step)
    with _stop_asked() as stop, open(folder / METRICS, "a", encoding="utf-8") as metrics:
        for batches in job.stream(step):
            if stop():
                break
            step += 1
            line = trainer.step(step, batches)
            metrics.write(json.dumps(line) + "\n")
            if progress is not None:
                progress(line)
            if step % config.save_every == 0 and step < config.steps:
                metrics.flush()
                trainer.save(folder, step, before)
    trainer.save(folder, step, before)
    after = trainer.probe(job.batches)
    return TrainResult(
        str(folder),
        step,
        before,
        after,
        sha256(trainer.weights.to_save()),
        time.monotonic() - started,
        step < config.steps,
    )


class Trainer:
    """The weights, what changes them, and how much."""

    def __init__(self, config: TrainConfig, job: TrainingJob) -> None:
        self.config, self.job = config, job
        self.model: Florence = job.model
        parameters = dict(optim.trainable(self.model, config.strategy))
        self.weights = optim.Weights(self.model, config.precision, config.ema)
        self.head = job.head
        if self.head is not None:
            parameters |= {f"dense.{name}": p for name, p in self.head.named_parameters()}
        self.parameters = parameters
        self.optimiser = optim.optimiser(parameters, config)
        self.device = self.model.device

    def step(self, step: int, batches: Sequence[Batch]) -> dict[str, Any]:
        """One step over the accumulated batches; the line for metrics.jsonl. A loss that is no number stops the run."""
        started = time.monotonic()
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout depends on the step alone: resuming changes nothing
        tokens = sum(batch.tokens for batch in batches)
        self.weights.compute_model.train()
        total = 0.0
        means: dict[str, float] = {}
        with attention(self.device):
            for batch in batches:
                loss, parts = self.losses(batch, tokens)
                total += loss
                for name, value in parts.items():
                    means[name] = means.get(name, 0.0) + value / len(batches)
        if not math.isfinite(total + sum(means.values())):
            raise ValueError(f"step {step}: the loss is {total}; lower lr or clip; {config.out} holds the last save")
        self.weights.copy_gradients()
        norm = optim.clip(self.parameters.values(), config.clip)
        rate = optim.learning_rate(config, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.weights.publish(step)
        return {
            "step": step,
            "loss": total,
            "tokens": tokens,
            "pairs": sum(batch.pairs for batch in batches),
            "pictures": sum(len(batch.pictures) for batch in batches),
            "left_out": sum(batch.left_out for batch in batches),
            **{f"dense_{name}": value for name, value in means.items()},
            "lr": rate,
            "gradient_norm": norm,
            "seconds": time.monotonic() - started,
        }

    def losses(self, batch: Batch, tokens: int) -> tuple[float, dict[str, float]]:
        """Forward and backward; the sequence loss over the step's `tokens`, and the parts of the dense loss."""
        model, smoothing = self.weights.compute_model, self.config.label_smoothing
        feature_map = model.vision_tower(self.pixels(batch))
        features = model.projector(feature_map)
        total = torch.zeros((), device=self.device)
        plain = 0.0
        for part in batch.parts:
            labels = part.labels.to(self.device)
            logits = self.logits(model, features, part).float()
            nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
            plain += float(nll.detach())
            if smoothing:
                rest = -logits.log_softmax(-1).mean(-1)[labels >= 0].sum()
                nll = (1 - smoothing) * nll + smoothing * rest
            total = total + nll / tokens
        parts: dict[str, float] = {}
        if self.head is not None and self.config.dense and batch.cells:
            cells = {name: tensor.to(self.device) for name, tensor in batch.cells.items()}
            extra, parts = self.head.loss(feature_map.float(), cells)
            total = total + self.config.dense * extra / self.config.accumulate
        if total.requires_grad:
            total.backward()
        return plain / max(1, tokens), parts

    def pixels(self, batch: Batch) -> Tensor:
        """(B, 3, H, W) as the tower takes them: scaled and normalised by the model's own statistics."""
        x = batch.pictures.to(self.device).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(self.model.config.image_mean, device=self.device)[:, None, None]
        std = torch.tensor(self.model.config.image_std, device=self.device)[:, None, None]
        return ((x - mean) / std).to(self.weights.compute_model.dtype)

    def logits(self, model: Florence, features: Tensor, part: PaddedPairs) -> Tensor:
        picture = part.picture.to(self.device)
        return model(features[picture], part.prompt_ids, part.prompt_mask, part.decoder_ids)

    @torch.no_grad()
    def probe(self, batches: Batches) -> float:
        """Mean sequence loss of the first batches of the run by the weights at hand, without dropout."""
        model = self.weights.compute_model.eval()
        loss, tokens = 0.0, 0
        for number in range(min(PROBE, len(batches))):
            batch = batches[number]
            features = model.projector(model.vision_tower(self.pixels(batch)))
            for part in batch.parts:
                logits = self.logits(model, features, part).float()
                labels = part.labels.to(self.device).flatten()
                loss += float(F.cross_entropy(logits.flatten(0, 1), labels, ignore_index=-100, reduction="sum"))
                tokens += part.tokens
        return loss / max(1, tokens)

    def save(self, folder: Path, step: int, before: float) -> None:
        """The weights as a checkpoint, then the state to go on from."""
        best = self.weights.to_save()
        master = (
            {name: tensor.clone() for name, tensor in self.model.state_dict().items()} if self.weights.average else {}
        )
        if master:
            self.model.load_state_dict(best)
        save_model(self.model, folder)
        if master:
            self.model.load_state_dict(master)
        self.job.tokenizer.save(folder)
        if self.head is not None:
            dense.save_head(self.head, folder)
        state = {
            "step": step,
            "loss_before": before,
            "model": self.model.state_dict(),
            "head": self.head.state_dict() if self.head is not None else {},
            "average": self.weights.average,
            "optimiser": self.optimiser.state_dict(),
            "names": list(self.parameters),
        }
        torch.save(state, folder / (STATE + ".part"))
        (folder / (STATE + ".part")).replace(folder / STATE)

    def resume(self, file: Path) -> tuple[int, float]:
        """Step and first loss of the state, its weights taken over; (0, 0) where the run is new."""
        if not file.is_file():
            return 0, 0.0
        state = torch.load(file, map_location="cpu", weights_only=True)
        if state["names"] != list(self.parameters):
            raise ValueError(f"{file}: holds another run (model, strategy or dense differ); choose another out")
        self.model.load_state_dict(state["model"])
        if self.head is not None:
            self.head.load_state_dict(state["head"])
        if self.weights.average:
            self.weights.average = {name: tensor.to(self.device) for name, tensor in state["average"].items()}
        self.optimiser.load_state_dict(state["optimiser"])
        if self.weights.compute_model is not self.model:
            self.weights.compute_model.load_state_dict(self.model.state_dict())
        return int(state["step"]), float(state["loss_before"])


@contextlib.contextmanager
def attention(device: torch.device) -> Iterator[None]:
    """On a CPU plain matrix products beat the fused kernel on short sequences: its backward is slow (bf16: 2 times)."""
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext():
        yield


def sha256(state: dict[str, Tensor]) -> str:
    """A name for these very weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def cut_back(file: Path, step: int) -> None:
    """Leave only the lines of steps up to `step`."""
    if file.is_file():
        lines = file.read_text(encoding="utf-8").splitlines()[:step]
        file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@contextlib.contextmanager
def _stop_asked() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask the loop to stop after its step; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the caller's to stop
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

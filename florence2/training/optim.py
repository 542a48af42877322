"""What turns gradients into better weights: parameter groups, schedule, clipping, master weights, a running average."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from florence2.model.florence import Florence
from florence2.training.config import TrainConfig


def trainable(model: nn.Module, strategy: str) -> dict[str, nn.Parameter]:
    """The parameters that a strategy changes, by name; all others are frozen for real (requires_grad)."""
    chosen = {}
    for name, parameter in model.named_parameters():
        tower = name.startswith("vision_tower.")
        decoder = name.startswith("language.decoder.layers.")
        parameter.requires_grad_(strategy == "full" or (strategy == "decoder" and decoder) or
                                 (strategy == "frozen_vision" and not tower))  # fmt: skip
        if parameter.requires_grad:
            chosen[name] = parameter
    return chosen


def groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[dict]:
    """Matrices and kernels decay; norms, biases, embeddings and position tables do not."""
    embeddings = ("embedding", "positions", "rows", "columns")
    decays = {n for n, p in parameters.items() if p.ndim >= 2 and n.split(".")[-2] not in embeddings}
    return [
        {"params": [p for n, p in parameters.items() if n in decays], "weight_decay": weight_decay},
        {"params": [p for n, p in parameters.items() if n not in decays], "weight_decay": 0.0},
    ]


def optimiser(parameters: dict[str, nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; the second moment forgets faster than the default, as small batches ask for."""
    return torch.optim.AdamW(groups(parameters, config.weight_decay), lr=config.lr, betas=(0.9, 0.98), fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step counted from 1: linear warm-up, then the schedule down to zero after the last step."""
    if step <= config.warmup_steps:
        return config.lr * step / config.warmup_steps
    progress = (step - 1 - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.lr * (1 - progress)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "trapezoid":  # its length can be decided while it runs (Hägele et al., arXiv 2405.18392)
        return config.lr * min(1.0, (1 - progress) / 0.3)
    return config.lr


class Weights:
    """The weights being trained: fp32 masters, and where the precision asks for it a bf16 copy that does the work."""

    def __init__(self, model: Florence, precision: str, ema: float) -> None:
        self.master = model
        self.compute_model: Florence = copy.deepcopy(model).to(torch.bfloat16) if precision == "bf16" else model
        self.decay = ema
        self.average = {n: p.detach().clone() for n, p in model.named_parameters()} if ema else {}
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        masters, copies = dict(model.named_parameters()), dict(self.compute_model.named_parameters())
        self._pairs = [(masters[n], copies[n]) for n in names] if self.compute_model is not model else []

    def copy_gradients(self) -> None:
        """Hand the compute model's gradients to the masters."""
        for master, copied in self._pairs:
            master.grad = None if copied.grad is None else copied.grad.float()
            copied.grad = None

    @torch.no_grad()
    def publish(self, step: int) -> None:
        """Bring the compute model and the average up to date after a step of the optimiser."""
        for master, copied in self._pairs:
            copied.copy_(master)
        if self.average:
            decay = min(self.decay, (1 + step) / (10 + step))  # the first steps count for little
            trained = [(n, p) for n, p in self.master.named_parameters() if p.requires_grad]
            torch._foreach_lerp_([self.average[n] for n, _ in trained], [p for _, p in trained], 1 - decay)

    def to_save(self) -> dict[str, Tensor]:
        """The weights to save: the average where there is one."""
        state = dict(self.master.state_dict())
        state.update(self.average)
        return state


def clip(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scale all gradients so that their norm is at most `most` (0: leave them); returns the norm before."""
    return float(nn.utils.clip_grad_norm_(list(parameters), most if most > 0 else math.inf))

"""What turns gradients into better weights: parameter groups, schedule, clipping, master weights, a running average."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from florence2.model.florence import Florence
from florence2.training.config import TrainConfig

LOWER = {"bf16": torch.bfloat16}  # precisions that compute in a copy


def choose_trainable(model: Florence, strategy: str, freeze_stages: int = 0) -> None:
    """Let a strategy's parameters be trained and freeze all others for real: no gradient, no drop path, no decay."""
    stages = len(model.vision_tower.stages)
    if freeze_stages > stages:
        raise ValueError(f"freeze_stages: the tower has {stages} stages, got {freeze_stages}")
    if strategy == "lora":  # the adapter's own, chosen where it was put in
        model.vision_tower.frozen = 0 if _has_adapter(model.vision_tower) else stages
    else:
        for name, parameter in model.named_parameters():
            decoder = name.startswith("language.decoder.layers.")
            parameter.requires_grad_(strategy != "decoder" or decoder)
        model.vision_tower.frozen = freeze_stages if strategy == "full" else stages
        for stage in model.vision_tower.stages[: model.vision_tower.frozen]:
            stage.requires_grad_(False)
    model.train(model.training)


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def groups(parameters: dict[str, nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """Parameters by decay and rate. Matrices and kernels decay; norms, biases, embeddings and positions do not."""
    embeddings = ("embedding", "head", "positions", "rows", "columns")
    found: dict[tuple[float, float], list[nn.Parameter]] = {}
    matched = [0] * len(config.groups)
    for name, parameter in parameters.items():
        decays = parameter.ndim >= 2 and name.split(".")[-2] not in embeddings
        rate = config.lr
        for number, group in enumerate(config.groups):
            if re.search(group.match, name):
                rate = group.lr
                matched[number] += 1
                break
        found.setdefault((config.weight_decay if decays else 0.0, rate), []).append(parameter)
    for number, count in enumerate(matched):
        if not count:
            match = config.groups[number].match
            raise ValueError(f"groups[{number}].match: {match!r} is in no trained parameter's name")
    return [{"params": ps, "weight_decay": decay, "base_lr": rate} for (decay, rate), ps in found.items()]


def optimiser(parameters: dict[str, nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over the groups."""
    betas = (config.optimizer.betas[0], config.optimizer.betas[1])
    return torch.optim.AdamW(
        groups(parameters, config), lr=config.lr, betas=betas, eps=config.optimizer.eps, fused=True
    )


def rate_factor(config: TrainConfig, step: int, steps: int) -> float:
    """The share of the rate at a step counted from 1 of `steps`: linear warm-up, then the schedule down to zero after
    the last."""
    if step <= config.warmup_steps:
        return step / config.warmup_steps
    progress = min(1.0, (step - 1 - config.warmup_steps) / max(1, steps - config.warmup_steps))
    if config.schedule == "linear":
        return 1 - progress
    if config.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "trapezoid":  # its length can be decided while it runs (Hägele et al., arXiv 2405.18392)
        return min(1.0, (1 - progress) / 0.3)
    return 1.0


class Weights:
    """The weights being trained: masters, and where the precision asks for it a lower copy that computes."""

    def __init__(self, model: Florence, precision: str, ema: float) -> None:
        self.master = model
        lower = LOWER.get(precision)
        self.compute_model: Florence = copy.deepcopy(model).to(lower) if lower else model
        self.decay = ema
        self.average = {n: p.detach().clone() for n, p in trainable(model).items()} if ema else {}
        copies = dict(self.compute_model.named_parameters())
        self._pairs = [(p, copies[n]) for n, p in trainable(model).items()] if lower else []

    def copy_gradients(self) -> None:
        """Hand the compute model's gradients to the masters."""
        for master, copied in self._pairs:
            master.grad = None if copied.grad is None else copied.grad.float()
            copied.grad = None

    @torch.no_grad()
    def publish(self, step: int) -> None:
        """Bring the compute model and the average up to date after a step of the optimiser."""
        self.publish_masters()
        if self.average:
            decay = min(self.decay, (1 + step) / (10 + step))  # the first steps count for little
            trained = trainable(self.master)
            torch._foreach_lerp_([self.average[n] for n in trained], list(trained.values()), 1 - decay)

    @torch.no_grad()
    def publish_masters(self) -> None:
        """Bring the compute model up to date."""
        for master, copied in self._pairs:
            copied.copy_(master)

    def to_save(self) -> dict[str, Tensor]:
        """The weights to save: the average where there is one."""
        return {**self.master.state_dict(), **self.average}


def clip(parameters: Iterable[nn.Parameter], most: float) -> float:
    """Scale all gradients so that their norm is at most `most` (0: leave them); returns the norm before."""
    return float(nn.utils.clip_grad_norm_(list(parameters), most if most > 0 else math.inf))


def _has_adapter(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())

"""What the start of a run thinks of its targets: a pull against forgetting, and where the labels are silent.

A share of each token's target is the start's own probabilities there (distillation, arXiv 1503.02531, temperature 1).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from florence2.model.florence import Florence
from florence2.model.tower_input import normalise
from florence2.training.batches import UNSCORED, Batch
from florence2.training.config import TrainConfig


@dataclass(frozen=True)
class Pull:
    """The start, its share `scored` of the target of tokens with a label, and its weight at those left unscored."""

    start: Florence
    scored: float
    unscored: float

    @torch.no_grad()
    def states(self, batch: Batch) -> list[Tensor]:
        """(P, T, C) of each part: the start's last states over its decoder ids."""
        device = self.start.device
        pixels = normalise(batch.pictures.to(device), self.start.config).to(self.start.dtype)
        features = self.start.projector(self.start.vision_tower(pixels))
        out = []
        for part in batch.parts:
            memory, mask = self.start.read(features[part.picture.to(device)], part.prompt_ids, part.prompt_mask)
            out.append(self.start.language.target_states(memory, mask, part.decoder_ids.to(device)))
        return out

    def asked(self, labels: Tensor) -> Tensor:
        """Where a loss is taken: at labels, and at unscored tokens where those are pulled."""
        return (labels >= 0) | ((labels == UNSCORED) & bool(self.unscored))

    def loss(self, logits: Tensor, thought: Tensor, labels: Tensor) -> Tensor:
        """Summed cross-entropy of logits (N, V) before the start's probabilities, from its states (N, C), by weight."""
        with torch.no_grad():
            wanted = self.start.language.logits(thought).to(logits.dtype).softmax(-1)
        each = -(wanted * logits.log_softmax(-1)).sum(-1)
        weights = torch.full_like(each, self.scored).masked_fill(labels < 0, self.unscored)
        return (weights * each).sum()


def pull_of(config: TrainConfig, computing: Florence) -> Pull | None:
    """The pull of a run that has one; `computing` is the model before its first step, which is copied."""
    if not (config.pull or config.pull_unscored):
        return None
    start = copy.deepcopy(computing).eval().requires_grad_(False)
    return Pull(start, config.pull, config.pull_unscored)

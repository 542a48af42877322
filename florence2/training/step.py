"""One training step as a module: a batch in, its summed loss out. It knows no optimiser, no rank and no folder.

The model that computes (in lower precision a copy of the one that learns) and the auxiliary head are its only
parameters, so that DistributedDataParallel can wrap it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from florence2.model.bart import EncoderLayer
from florence2.model.davit import Block
from florence2.model.florence import Florence
from florence2.model.tower_input import normalise
from florence2.training.batches import Batch, PaddedPairs
from florence2.training.dense import DenseHead
from florence2.training.features import FeatureCache, FrozenVision, rounded
from florence2.training.loss import TokenLoss
from florence2.training.pull import Pull

LOGITS = 1 << 25  # held at a time, 128 MB in fp32; of more, those of some tokens, made again in the backward pass
PART = "sequence"  # the plain sequence loss among the parts


class TrainingStep(nn.Module):
    """forward(batch) -> (loss sum over target tokens, tokens, parts: further sums by name)."""

    def __init__(
        self,
        model: Florence,
        head: DenseHead | None = None,
        loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
        features: FeatureCache | None = None,
        pull: Pull | None = None,
    ) -> None:
        super().__init__()
        self.pull = pull
        self.model, self.head, self.loss, self.kept = model, head, loss or TokenLoss(), features
        self.frozen = FrozenVision(model, head is not None)

    def forward(self, batch: Batch) -> tuple[Tensor, int, dict[str, Tensor]]:
        device = self.model.device
        thoughts = self.pull.states(batch) if self.pull is not None else [None] * len(batch.parts)
        feature_map, features = self.see(batch)
        total = torch.zeros((), device=device, dtype=torch.promote_types(self.model.dtype, torch.float32))
        plain = torch.zeros_like(total)
        for part, thought in zip(batch.parts, thoughts):
            loss, nll = self.sequence_loss(features, part, thought)
            total, plain = total + loss, plain + nll.detach()
        parts = {PART: plain}
        if self.head is not None and batch.cells:
            cells = {name: tensor.to(device) for name, tensor in batch.cells.items()}
            assert feature_map is not None
            parts |= self.head.loss(feature_map.to(total.dtype), cells)
        return total, batch.tokens, parts

    def see(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """The tower's map (B, h, w, c), None where the projector is frozen too, and the projected vectors (B, N, C).

        What is frozen is computed without gradients, and once for a picture where its features are kept.
        """
        if not self.frozen.tower:
            pixels = normalise(batch.pictures.to(self.model.device), self.model.config).to(self.model.dtype)
            found = self.model.vision_tower(pixels)
        elif self.kept is None:
            found = self.frozen.encode(batch.pictures)
        else:
            found = torch.stack(self._kept_features(batch, self.kept)).to(self.model.device, self.model.dtype)
        return (None, found) if self.frozen.projector else (found, self.model.projector(found))

    def _kept_features(self, batch: Batch, kept: FeatureCache) -> list[Tensor]:
        """The features of each picture, those that are not kept yet computed, kept and written."""
        found = {one.name or str(place): one for place, one in enumerate(batch.seen)}  # each picture once
        known = {name: kept.get(name) if one.features is None else one.features for name, one in found.items()}
        out = {name: features for name, features in known.items() if features is not None}
        new = [name for name in found if name not in out]
        if new:
            encoded = self.frozen.encode(batch.pictures[[found[name].place for name in new]])
            for name, features in zip(new, rounded(encoded, kept.dtype)):
                out[name] = features
                kept.damaged += found[name].damaged
                kept.write(found[name].key, features)
        for name, one in found.items():
            if one.name:
                kept.keep(name, out[name])
        return [out[one.name or str(place)] for place, one in enumerate(batch.seen)]

    def sequence_loss(
        self, features: Tensor, part: PaddedPairs, thought: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over a part's tokens, with smoothing and pull, and without."""
        labels = part.labels.to(features.device)
        memory, mask = self.model.read(features[part.picture.to(features.device)], part.prompt_ids, part.prompt_mask)
        states = self.model.language.target_states(memory, mask, part.decoder_ids.to(features.device))
        counted = labels >= 0 if self.pull is None else self.pull.asked(labels)  # no logits for padding
        return self.token_losses(states[counted], labels[counted], None if thought is None else thought[counted])

    def token_losses(self, states: Tensor, labels: Tensor, thought: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same of states (N, C) before labels (N,), logits of some tokens at a time; `thought`: the start's."""
        rows = max(1, LOGITS // self.model.config.text.vocab_size)
        if len(labels) <= rows:
            return self._token_loss(states, labels, thought)
        sums = [
            checkpoint(
                self._token_loss, states[at], labels[at], None if thought is None else thought[at], use_reentrant=False
            )
            for at in (slice(first, first + rows) for first in range(0, len(labels), rows))
        ]
        return torch.stack([loss for loss, _ in sums]).sum(), torch.stack([nll for _, nll in sums]).sum()

    def _token_loss(self, states: Tensor, labels: Tensor, thought: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over tokens, states (N, C) before labels (N,), with smoothing and pull, and without."""
        logits = self.model.language.logits(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.pull is None or thought is None:
            return self.loss(logits, labels)
        loss, nll = self.loss(logits[labels >= 0], labels[labels >= 0])
        return (1 - self.pull.scored) * loss + self.pull.loss(logits, thought, labels), nll


def recompute_layers(model: Florence) -> None:
    """Keep only the inputs of layers for the backward pass and compute them again there (arXiv 1604.06174)."""
    for module in model.modules():
        if isinstance(module, (Block, EncoderLayer)):
            # a partial is copied with the model, so that the lower copy computes with its own weights
            module.forward = functools.partial(_recomputed, module, module.forward)  # type: ignore[method-assign]


def _recomputed(module: nn.Module, forward: Callable[..., Tensor], *args: Tensor) -> Tensor:
    if module.training and torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False)  # type: ignore[no-any-return]
    return forward(*args)

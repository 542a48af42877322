"""One training step as a module: a batch in, its summed loss out. It knows no optimiser, no rank and no folder.

The model that computes (in lower precision a copy of the one that learns) and the auxiliary head are its only
parameters, so that DistributedDataParallel can wrap it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from florence2.model.bart import EncoderLayer
from florence2.model.davit import Block
from florence2.model.florence import Florence
from florence2.model.image import normalise
from florence2.training.batches import Batch, PaddedPairs
from florence2.training.dense import DenseHead
from florence2.training.loss import TokenLoss

LOGITS = 1 << 25  # that stand at a time, 128 MB in fp32; of more, those of some tokens, made again in the backward pass
PART = "sequence"  # the plain sequence loss among the parts


class TrainingStep(nn.Module):
    """forward(batch) -> (loss sum over target tokens, tokens, parts: further sums by name)."""

    def __init__(self, model: Florence, head: DenseHead | None = None, loss: TokenLoss | None = None) -> None:
        super().__init__()
        self.model, self.head, self.loss = model, head, loss or TokenLoss()

    def forward(self, batch: Batch) -> tuple[Tensor, int, dict[str, Tensor]]:
        device = self.model.device
        pixels = normalise(batch.pictures.to(device), self.model.config).to(self.model.dtype)
        feature_map = self.model.vision_tower(pixels)  # (B, H, W, C)
        features = self.model.projector(feature_map)
        total = torch.zeros((), device=device, dtype=torch.promote_types(self.model.dtype, torch.float32))
        plain = torch.zeros_like(total)
        for part in batch.parts:
            loss, nll = self.sequence_loss(features, part)
            total, plain = total + loss, plain + nll.detach()
        parts = {PART: plain}
        if self.head is not None and batch.cells:
            cells = {name: tensor.to(device) for name, tensor in batch.cells.items()}
            parts |= self.head.loss(feature_map.to(total.dtype), cells)
        return total, batch.tokens, parts

    def sequence_loss(self, features: Tensor, part: PaddedPairs) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over a part's tokens, with smoothing and without."""
        labels = part.labels.to(features.device)
        memory, mask = self.model.read(features[part.picture.to(features.device)], part.prompt_ids, part.prompt_mask)
        states = self.model.language.target_states(memory, mask, part.decoder_ids.to(features.device))
        counted = labels >= 0  # no logits for padding
        states, labels = states[counted], labels[counted]
        rows = max(1, LOGITS // self.model.config.text.vocab_size)
        if len(labels) <= rows:
            return self._token_loss(states, labels)
        sums = [
            checkpoint(self._token_loss, some, ids, use_reentrant=False)
            for some, ids in zip(states.split(rows), labels.split(rows))
        ]
        return torch.stack([loss for loss, _ in sums]).sum(), torch.stack([nll for _, nll in sums]).sum()

    def _token_loss(self, states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy summed over tokens, states (N, C) before labels (N,), with smoothing and without."""
        logits = self.model.language.logits(states)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return self.loss(logits, labels)


def recompute_layers(model: Florence) -> None:
    """Keep only the inputs of layers for the backward pass and compute them again there (arXiv 1604.06174)."""
    for module in model.modules():
        if isinstance(module, (Block, EncoderLayer)):
            module.forward = _recomputed(module, module.forward)  # type: ignore[method-assign]


def _recomputed(module: nn.Module, forward):  # type: ignore[no-untyped-def]
    def run(*args):  # type: ignore[no-untyped-def]
        if module.training and torch.is_grad_enabled():
            return checkpoint(forward, *args, use_reentrant=False)
        return forward(*args)

    return run


@contextlib.contextmanager
def attention(device: torch.device) -> Iterator[None]:
    """On a CPU plain matrix products beat the fused kernel on short sequences: its backward is slow (bf16: 2 times)."""
    with sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext():
        yield

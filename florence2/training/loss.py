"""The loss of target tokens from their logits: cross-entropy, smoothed over the vocabulary or over near locations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LOCATIONS = 1000
REACH = 3.0  # standard deviations to either side that have a share


@dataclass(frozen=True)
class TokenLoss:
    """(summed loss, summed plain cross-entropy) of logits (N, V) before labels (N,).

    `label_smoothing` spreads that share of each target evenly over the vocabulary. `sigma` spreads the rest of a
    location's target over its neighbours by a Gaussian of so many bins, cut off at three of them and at the first and
    last location: a box that is off by a bin is nearly right.
    """

    label_smoothing: float = 0.0
    sigma: float = 0.0
    loc0: int = 0
    """The id of `<loc_0>`."""

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        each = F.cross_entropy(logits, labels, reduction="none")
        nll = loss = each.sum()
        if self.sigma:
            loss = torch.where(self._is_location(labels), self._soft(logits, labels), each).sum()
        if self.label_smoothing:
            spread = -logits.log_softmax(-1).mean(-1).sum()
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * spread
        return loss, nll

    def _is_location(self, labels: Tensor) -> Tensor:
        return (labels >= self.loc0) & (labels < self.loc0 + LOCATIONS)

    def _soft(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(N,) cross-entropy with the Gaussian around each label, as if all were locations."""
        places = torch.arange(LOCATIONS, device=labels.device)
        apart = (places - (labels - self.loc0)[:, None]) / self.sigma  # (N, 1000)
        weights = torch.exp(-0.5 * apart.square()).masked_fill(apart.abs() > REACH, 0).to(logits.dtype)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
        near = logits[:, self.loc0 : self.loc0 + LOCATIONS]
        return logits.logsumexp(-1) - (weights * near).sum(-1)

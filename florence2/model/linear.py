"""The one constructor of linear layers. Each computes the plain product, or one with its weight packed for the purpose.

    layer.bands = ((3, None), (64, Reordered(8)), (MANY, None))     # up to 3 rows plain, up to 64 reordered, else plain

Packed products are for inference: with gradients enabled a layer is a plain one, and so is one that was converted to
another type or moved to another device since. Knows no model and no machine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.model.operators import Int8, Packed, plain

MANY = 1 << 62
FP16_LIMIT = 64504.0  # the reference clamps overflowing fp16 states to the largest number less 1,000
Bands = tuple[tuple[int, "Packed | None"], ...]
"""(most rows, how a product of so many rows is computed: None is plainly), fewest rows first; () is always plainly."""


class Linear(nn.Linear):
    """x W^T + b on (..., K), to (..., N)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.bands: Bands = ()

    def forward(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, self.bands)


class MLP(nn.Module):
    """Up, GELU, down; the GELU is part of the first product where that can do it."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = Linear(dim, hidden)
        self.down = Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.up, Linear):
            x = product(x, self.up.weight, self.up.bias, self.up.bands, gelu=True)
        else:  # an adapter's layer around it
            x = F.gelu(self.up(x))
        out: Tensor = self.down(F.dropout(x, self.dropout, self.training))
        return out


def product(x: Tensor, weight: Tensor, bias: Tensor | None, bands: Bands, gelu: bool = False) -> Tensor:
    """x (..., K) by weight (N, K), then GELU where asked, in the way that `bands` has for so many rows."""
    if bands and not torch.is_grad_enabled():
        rows = x.numel() // x.shape[-1]
        packed = next(packed for most, packed in bands if rows <= most)
        if packed is not None and packed.takes(x, weight):
            return packed(x, weight, bias, gelu)
    return plain(x, weight, bias, gelu)


def span_product(x: Tensor, weight: Tensor, span: tuple[int, int], bands: Bands) -> Tensor:
    """x (..., K) by the rows of a span of the weight: int8's own values where the whole is computed in int8."""
    packed = bands[-1][1] if bands and not torch.is_grad_enabled() else None
    if isinstance(packed, Int8) and packed.takes(x, weight):
        return packed.span(x, weight, *span)
    return F.linear(x, weight[span[0] : span[1]])


def is_plain(*layers: nn.Module) -> bool:
    """Whether the layers are plain ones at inference, so that their weights may be multiplied with one another."""
    return not torch.is_grad_enabled() and all(
        isinstance(layer, Linear) and all(packed is None for _, packed in layer.bands) for layer in layers
    )

"""Products of a matrix with a weight packed for it: oneDNN's own order of a weight, and int8 by the row.

The only place of operators that torch does not promise to keep. Each is probed once, on a small product whose result is
known, and has a fallback that is tested: the plain product, or int8 values multiplied as float32. No gradients.

A packed weight is made at its first product, and again when the weight has changed since; a copy or a pickle of it
packs anew.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128  # rows of an int8 product at a time: what it writes stays in the processor's cache
LARGEST_INT8 = 127


class Packed:
    """A weight (N, K) in another form; called with x (..., K), the weight and its bias (N,) or None, gives (..., N)."""

    def __init__(self) -> None:
        self.form: Any = None
        self.of: tuple[int, int] | None = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
        now = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        if self.of != now:
            self.form, self.of = self.pack(weight.detach()), now
        return self.multiply(x.reshape(-1, x.shape[-1]), weight, bias, gelu).view(*x.shape[:-1], len(weight))

    def pack(self, weight: Tensor) -> Any:
        raise NotImplementedError

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "form": None, "of": None}


class Reordered(Packed):
    """oneDNN's order of the weight, float32 or bfloat16, for about `rows` rows; GELU inside the product."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, self.rows) if has_reordered() else weight

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
        if not has_reordered():
            return plain(x, weight, bias, gelu)
        after = ("gelu", "none") if gelu else ("none", "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.form, bias, after[0], [], after[1])
        return out


class Int8(Packed):
    """Weights in int8 with a scale an output, activations with a scale a row, so that no row depends on another."""

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scales = weight.abs().amax(1).clamp_min_(1e-12).float() / LARGEST_INT8
        return (weight / scales[:, None]).round_().to(torch.int8).t(), scales

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
        packed, scales = self.form
        out = torch.empty(len(x), len(weight))
        for first in range(0, len(x), BLOCK):
            rows = x[first : first + BLOCK]
            own = rows.abs().amax(1, keepdim=True).div_(LARGEST_INT8).clamp_min_(1e-30)
            sums = int8_product((rows / own).round_().to(torch.int8), packed)
            block = out[first : first + BLOCK]
            torch.mul(sums, scales, out=block)
            if bias is None:
                block.mul_(own)
            else:
                torch.addcmul(bias, block, own, out=block)
            if gelu:
                torch.ops.aten.gelu_(block)
        return out


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """The product as torch does it."""
    y = F.linear(x, weight, bias)
    if not gelu:
        return y
    return F.gelu(y) if torch.is_grad_enabled() else torch.ops.aten.gelu_(y)  # in place: no new memory to touch


def int8_product(x: Tensor, weight: Tensor) -> Tensor:
    """Int8 (M, K) by int8 (K, N): the sums, whole numbers."""
    return torch._int_mm(x, weight) if has_int8() else x.float() @ weight.float()


@cache
def has_reordered() -> bool:
    """Whether oneDNN's reordered product is here and right."""
    x, weight, bias = _probe()
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
        got = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "gelu", [], "none")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(got, plain(x, weight, bias, True), rtol=0, atol=1e-5)


@cache
def has_int8() -> bool:
    """Whether the int8 product is here and right."""
    x, weight = (torch.arange(n).remainder(255).sub(127).to(torch.int8) for n in (4 * 64, 64 * 48))
    x, weight = x.view(4, 64), weight.view(48, 64).t()
    try:
        got = torch._int_mm(x, weight)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(got, x.int() @ weight.int())


def _probe() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(*shape, generator=generator) for shape in ((4, 64), (48, 64), (48,)))  # type: ignore[return-value]

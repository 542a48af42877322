"""Products of a matrix with a weight packed for it: oneDNN's own order of a weight, and int8 by the row.

The only place of operators that torch does not promise to keep. Each is probed once, on a small product whose result is
known, and has a fallback that is tested: the plain product, or int8 values multiplied as float32. No gradients.

A packed weight is made at its first product, and again when the weight has changed since; a copy or a pickle of it
packs anew. A change is known by the weight's place in memory and its version; one that torch does not count (through
`.data`, as adapters are merged by some) by a sample of its values, which `notice` looks at once an answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

BLOCK = 128  # rows of an int8 product at a time: what it writes stays in the processor's cache
LARGEST_INT8 = 127


class Packed(ABC):
    """A weight (N, K) in another form; called with x (..., K), the weight and its bias (N,) or None, gives (..., N)."""

    types: tuple[torch.dtype, ...] = ()
    """Of weights that can be packed so."""

    def __init__(self) -> None:
        self.made: _Made | None = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return self.multiply(rows, self.form_of(weight), weight, bias, gelu).view(*x.shape[:-1], len(weight))

    def takes(self, x: Tensor, weight: Tensor) -> bool:
        """Whether this is a product of the type and the device that it is made for; a converted model's is not."""
        return weight.dtype in self.types and x.dtype == weight.dtype and weight.device.type == "cpu"

    def form_of(self, weight: Tensor) -> Any:
        """The packed weight, made anew where it is of another."""
        made = self.made
        if made is None or not made.is_of(weight):
            made = self.made = _Made(self.pack(weight.detach()), weight)
        return made.form

    def notice(self, weight: Tensor) -> None:
        """Forget what was packed where the weight's values are others."""
        if self.made is not None and self.made.sample != _sample(weight):
            self.made = None

    @abstractmethod
    def pack(self, weight: Tensor) -> Any:
        """The other form of a weight (N, K)."""

    @abstractmethod
    def multiply(self, x: Tensor, form: Any, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
        """x (R, K) by the packed weight."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "made": None}


class _Made:
    """A packed form, and what it was made of: nothing else can come to lie where that storage is known to have been."""

    def __init__(self, form: Any, weight: Tensor) -> None:
        self.form = form
        self.memory = StorageWeakRef(weight.untyped_storage())  # type: ignore[no-untyped-call]
        self.key, self.sample = _key(weight), _sample(weight)

    def is_of(self, weight: Tensor) -> bool:
        return self.key == _key(weight)


def _key(weight: Tensor) -> tuple[int, int, int, torch.dtype]:
    version = 0 if weight.is_inference() else weight._version
    return weight.untyped_storage()._cdata, weight.data_ptr(), version, weight.dtype


def _sample(weight: Tensor) -> int:
    """The sum of one value a row, each of another column, by their bits."""
    values = weight.detach().reshape(-1)[:: weight.shape[1] + 1]
    return int(values.view(torch.int16 if weight.element_size() == 2 else torch.int32).sum())


class Reordered(Packed):
    """oneDNN's order of the weight, float32 or bfloat16, for about `rows` rows; GELU inside the product."""

    types = (torch.float32, torch.bfloat16)

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def pack(self, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(weight, self.rows) if has_reordered(weight.dtype) else weight

    def multiply(self, x: Tensor, form: Any, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
        if not has_reordered(weight.dtype):
            return plain(x, weight, bias, gelu)
        after = ("gelu", "none") if gelu else ("none", "")
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, form, bias, after[0], [], after[1])
        return out


class Int8(Packed):
    """Weights in int8 with a scale an output, activations with a scale a row, so that no row depends on another."""

    types = (torch.float32,)

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        scales = weight.abs().amax(1).clamp_min_(1e-12).float() / LARGEST_INT8
        return (weight / scales[:, None]).round_().to(torch.int8).t(), scales

    def multiply(self, x: Tensor, form: Any, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
        packed, scales = form
        out = torch.empty(len(x), len(scales))
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

    def span(self, x: Tensor, weight: Tensor, first: int, last: int) -> Tensor:
        """The same values of some outputs alone, x (..., K) to (..., last - first)."""
        packed, scales = self.form_of(weight)
        part = packed[:, first:last], scales[first:last]
        return self.multiply(x.reshape(-1, x.shape[-1]), part, weight, None, False).view(*x.shape[:-1], last - first)


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
def has_reordered(dtype: torch.dtype) -> bool:
    """Whether oneDNN's reordered product of a type is here and right."""
    if dtype not in Reordered.types:
        return False
    x, weight, bias = (tensor.to(dtype) for tensor in _probe())
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, len(x))
        got = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "gelu", [], "none")
    except (AttributeError, RuntimeError, TypeError):
        return False
    error = 1e-5 if dtype == torch.float32 else 0.2  # of values up to 30
    return torch.allclose(got.float(), plain(x, weight, bias, True).float(), rtol=0, atol=error)


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

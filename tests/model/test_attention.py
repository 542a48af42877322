"""Attention: the way a gradient is taken on a CPU is that of the fused kernel, in every type."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from florence2.model import attention as module
from florence2.model.attention import attention


def inputs(dtype: torch.dtype, grad: bool = True, keys: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((3, 2, 12, 8), (3, 2, keys, 8), (3, 2, keys, 8))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_(grad) for shape in shapes]


def padding(keys: int, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros(3, 1, 1, keys, dtype=dtype)
    mask[1, ..., -4:] = float("-inf")
    return mask


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.03)]
)
@pytest.mark.parametrize("kind", ["plain", "masked", "causal"])
def test_gradients_are_those_of_the_fused_kernel_in_float64(dtype, tolerance, kind):
    keys = 12 if kind == "causal" else 20
    given = inputs(dtype, keys=keys)
    mask = padding(keys, dtype) if kind == "masked" else None
    out = attention(*given, mask, causal=kind == "causal")
    exact = [x.detach().double().requires_grad_(True) for x in given]
    wide = None if mask is None else mask.double()
    expected = F.scaled_dot_product_attention(*exact, wide, is_causal=kind == "causal")
    pull = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = torch.autograd.grad((out.double() * pull).sum(), given)
    wanted = torch.autograd.grad((expected * pull).sum(), exact)
    for got, want in zip((out, *found), (expected, *wanted)):
        assert (got.double() - want).norm() <= tolerance * want.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_leaves_out_weights_and_keeps_their_mean(dtype):
    queries, keys, _ = inputs(dtype)
    values = torch.ones(3, 2, 12, 8, dtype=dtype)  # each answer is then the sum of the weights that were kept
    torch.manual_seed(0)
    sums = torch.stack([attention(queries, keys, values, None, 0.25)[..., 0].detach().float() for _ in range(200)])
    assert abs(float(sums.mean()) - 1) < 0.02
    assert float(sums.std(0).mean()) > 0.05


@pytest.mark.parametrize(
    ("dtype", "grad", "dropout", "by_products"),
    [
        (torch.float32, True, 0.0, False),
        (torch.float32, True, 0.1, True),
        (torch.bfloat16, True, 0.0, True),
        (torch.bfloat16, False, 0.0, False),
    ],
)
def test_two_products_only_where_the_fused_gradient_is_slow(monkeypatch, dtype, grad, dropout, by_products):
    called = []
    plain = module.attention_by_products
    monkeypatch.setattr(module, "attention_by_products", lambda *given: (called.append(1), plain(*given))[1])
    attention(*inputs(dtype, grad), None, dropout)
    with torch.inference_mode():
        attention(*inputs(dtype, False))
    assert bool(called) == by_products

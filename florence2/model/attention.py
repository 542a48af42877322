"""Scaled dot-product attention, by torch's fused kernel or by two products, whichever is the sooner of equal results.

Legend: B samples, G heads, T queries, M keys, D width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """(B, G, T, D) of queries (B, G, T, D) over keys and values (B, G, M, D); a mask is added to the scores."""
    if _trains_by_products(queries, keys, dropout):
        if causal:
            later = torch.ones(queries.shape[2], keys.shape[2], dtype=torch.bool, device=queries.device).triu(1)
            above = torch.zeros(later.shape, dtype=queries.dtype, device=queries.device)
            above = above.masked_fill(later, float("-inf"))
            mask = above if mask is None else mask + above
        return attention_by_products(queries, keys, values, mask, dropout)
    if queries.is_meta:  # a trace of what a step holds on a CPU; torch would write it out
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended: Tensor = fused(queries, keys, values, dropout, causal, attn_mask=mask)[0]
        return attended
    return F.scaled_dot_product_attention(queries, keys, values, mask, dropout, causal)


def _trains_by_products(queries: Tensor, keys: Tensor, dropout: float) -> bool:
    """Whether a gradient is wanted that the fused kernel gives slowly on a CPU.

    In bfloat16 its backward takes three to ten times as long as that of two products, and with dropout torch takes
    neither: it multiplies in float32 whatever the type. In float32 without dropout the fused kernel is the sooner.
    """
    if queries.device.type == "cuda" or not torch.is_grad_enabled():
        return False
    trained = queries.requires_grad or keys.requires_grad
    return trained and (dropout > 0 or queries.dtype == torch.bfloat16)


def attention_by_products(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """`attention` by two products, the weights of float32 rounded to the type.

    For few queries too: the fused kernel brings bfloat16 keys and values into another order each time, on some
    processors at ten times the cost of these.
    """
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)  # (B, G, T, M)
    weights = (scores if mask is None else scores + mask).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    attended: Tensor = weights @ values
    return attended

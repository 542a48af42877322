"""Few queries over many keys: the two products of a decoding step beside the fused attention."""

import pytest
import torch

from florence2.model.bart import Attention
from florence2.model.model_config import TextConfig

CONFIG = TextConfig(
    vocab_size=20, d_model=32, encoder_layers=1, decoder_layers=1, encoder_heads=4, decoder_heads=4, encoder_ffn=32,
    decoder_ffn=32, max_positions=64,
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("samples, queries, masked", [(1, 1, False), (2, 3, True), (3, 1, True)])
def test_two_products_are_the_fused_attention(samples, queries, masked, dtype):
    torch.manual_seed(0)
    attention = Attention(CONFIG, heads=4).to(dtype).eval()
    attention.by_products = True
    x, memory = torch.randn(samples, queries, 32).to(dtype), torch.randn(samples, 120, 32).to(dtype)
    mask = torch.zeros(samples, 1, 1, 120).to(dtype) if masked else None
    if mask is not None:
        mask[:, ..., 90:] = float("-inf")
    with torch.inference_mode():
        keys, values = (part.contiguous() for part in attention.project_kv(memory))
        found, fused = (way(x, keys, values, mask) for way in (attention.attend_few, attention.attend))
        plain = attention.double()
        exact = plain.attend(x.double(), keys.double(), values.double(), None if mask is None else mask.double())
    error = (fused.double() - exact).abs().max()
    assert (found.double() - exact).abs().max() <= 2 * error < (0.02 if dtype == torch.bfloat16 else 1e-6)

"""Few queries over many keys: the two products of a decoding step in bfloat16 beside the fused attention."""

import pytest
import torch

from florence2.model.bart import Attention
from florence2.model.model_config import TextConfig

CONFIG = TextConfig(
    vocab_size=20, d_model=32, encoder_layers=1, decoder_layers=1, encoder_heads=4, decoder_heads=4, encoder_ffn=32,
    decoder_ffn=32, max_positions=64,
)  # fmt: skip


@pytest.mark.parametrize("samples, queries, masked", [(1, 1, False), (2, 3, True), (3, 1, True)])
def test_two_products_are_the_fused_attention(samples, queries, masked):
    torch.manual_seed(0)
    attention = Attention(CONFIG, heads=4).bfloat16().eval()
    x, memory = torch.randn(samples, queries, 32).bfloat16(), torch.randn(samples, 50, 32).bfloat16()
    mask = torch.zeros(samples, 1, 1, 50).bfloat16() if masked else None
    if mask is not None:
        mask[:, ..., 40:] = float("-inf")
    with torch.inference_mode():
        keys, values = (part.contiguous() for part in attention.project_kv(memory))
        found, fused = (way(x, keys, values, mask) for way in (attention.attend_few, attention.attend))
        plain = attention.float()
        exact = plain.attend(x.float(), keys.float(), values.float(), None if mask is None else mask.float())
    error = (fused.float() - exact).abs().max()
    assert (found.float() - exact).abs().max() <= 2 * error < 0.02

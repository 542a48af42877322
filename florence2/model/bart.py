"""The language model: a BART-shaped encoder-decoder (Lewis et al., arXiv 1910.13461), norms after each residual.

Legend: B samples, R rows being decoded, M encoder positions (picture and prompt), T decoder tokens, C d_model, G heads,
D = C/G, V vocabulary. It knows vectors and ids, not that some vectors were a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.model.attention import attention, attention_by_products
from florence2.model.cache import Cache, FixedKeys, GrowingKeys, OwnKeys
from florence2.model.linear import FP16_LIMIT, MLP, Bands, Linear, product, span_product
from florence2.model.model_config import TextConfig

LEAST_KEYS = 100  # with fewer two products are no sooner than the fused kernel
OFFSET = 2  # position p is row p + 2 of the table, an inheritance of BART's


class EncoderDecoder(nn.Module):
    """Vectors and ids in, logits out. The head is the embedding unless the config says it is a matrix of its own."""

    def __init__(self, config: TextConfig, pad_id: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model, pad_id)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.head = None if config.tied_head else Linear(config.d_model, config.vocab_size, bias=False)
        self.output_bands: Bands = ()
        """How the whole output matrix is multiplied, tied or not."""

    @property
    def output_weight(self) -> Tensor:
        """The output matrix (V, C), tied or not."""
        return self.embedding.weight if self.head is None else self.head.weight

    def encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, M, C) vectors and (B, M) bool, True where real, to (B, M, C)."""
        if x.shape[1] > self.config.max_positions:
            raise ValueError(
                f"prompt: expected at most {self.config.max_positions} positions with the picture, got {x.shape[1]}; "
                "shorten the prompt or use a smaller picture size"
            )
        out: Tensor = self.encoder(x, additive(mask, x.dtype))
        return out

    def start(self, memory: Tensor, mask: Tensor | None, room: tuple[int, int] | None = None) -> Cache:
        """A cache over the encoder's output (B, M, C), before the first token.

        `room` is the most rows and tokens it will ever hold, in memory taken now; without it the cache grows.
        """
        projected = (layer.cross.project_kv(memory) for layer in self.decoder.layers)
        cross = [(keys.contiguous(), values.contiguous()) for keys, values in projected]  # read at every step
        heads = self.config.decoder_heads
        sizes = len(cross), len(memory), heads, self.config.d_model // heads, memory
        own: OwnKeys = GrowingKeys(*sizes) if room is None else FixedKeys(*sizes, room=room[1], most_rows=room[0])
        return Cache(cross, additive(mask, memory.dtype), own)

    def states(self, ids: Tensor, cache: Cache) -> Tensor:
        """The decoder's last states (R, C) after one more token a row, ids (R,)."""
        if max(cache.own.lengths) >= self.config.max_positions:
            raise ValueError(f"answer: the model holds {self.config.max_positions} positions; ask for fewer new tokens")
        return self.next_states(ids, cache)

    def next_states(self, ids: Tensor, cache: Cache) -> Tensor:
        """The same where nobody asks how long the rows are: past the last position they mean nothing."""
        return self.decoder.step(self.embedding(ids[:, None]), cache)[:, 0]

    def forward(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        """Logits (B, T, V) after every token of ids (B, T) at once."""
        return self.logits(self.target_states(memory, mask, ids))

    def target_states(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        """The decoder's states (B, T, C) after every token of ids (B, T) at once."""
        if ids.shape[1] > self.config.max_positions:
            raise ValueError(f"target: expected at most {self.config.max_positions} tokens, got {ids.shape[1]}")
        states: Tensor = self.decoder(self.embedding(ids), memory, additive(mask, memory.dtype))
        return states

    def logits(self, x: Tensor, span: tuple[int, int] | None = None) -> Tensor:
        """(..., V) of states (..., C); with a span of ids only those rows of the output matrix are multiplied."""
        if span is not None:
            return span_product(x, self.output_weight, span, self.output_bands)
        return product(x, self.output_weight, None, self.output_bands)


class Encoder(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed = PositionedInput(config)
        self.layers = nn.ModuleList(
            EncoderLayer(config, config.encoder_heads, config.encoder_ffn) for _ in range(config.encoder_layers)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.embed(x, 0)
        for layer in self.layers:
            x = layer(x, mask)
            if x.dtype == torch.float16:
                x = x.clamp(-FP16_LIMIT, FP16_LIMIT)
        return x


class Decoder(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embed = PositionedInput(config)
        self.layers: Sequence[DecoderLayer] = nn.ModuleList(  # type: ignore[assignment]
            DecoderLayer(config, config.decoder_heads, config.decoder_ffn) for _ in range(config.decoder_layers)
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        x = self.embed(x, 0)
        for layer in self.layers:
            x = layer(x, memory, mask)
        return x

    def step(self, x: Tensor, cache: Cache) -> Tensor:
        x = self.embed(x, cache.own.positions())
        for number, layer in enumerate(self.layers):
            x = layer.step(x, cache, number)
        cache.own.advance()
        return x


class PositionedInput(nn.Module):
    """Add learned positions, norm, drop."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.positions = nn.Embedding(config.max_positions + OFFSET, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = config.dropout

    def forward(self, x: Tensor, start: int | Tensor) -> Tensor:
        """(B, T, C) whose first token has position `start`; with (B,) starts a row, each row has one token."""
        if isinstance(start, Tensor):
            last = self.positions.num_embeddings - 1
            x = x + self.positions.weight[(start + OFFSET).clamp(max=last)][:, None]
        else:
            x = x + self.positions.weight[start + OFFSET : start + OFFSET + x.shape[1]]
        return F.dropout(self.norm(x), self.dropout, self.training)


class EncoderLayer(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + mlp(x))"""

    def __init__(self, config: TextConfig, heads: int, ffn: int) -> None:
        super().__init__()
        self.attention = Attention(config, heads)
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.mlp = MLP(config.d_model, ffn, config.activation_dropout)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.dropout = config.dropout

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.dropped(self.attention(x, mask)))
        out: Tensor = self.mlp_norm(x + self.dropped(self.mlp(x)))
        return out

    def dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class DecoderLayer(EncoderLayer):
    """As the encoder's, its self-attention causal, with attention to the encoder's output between the two."""

    def __init__(self, config: TextConfig, heads: int, ffn: int) -> None:
        super().__init__(config, heads, ffn)
        self.cross = Attention(config, heads)
        self.cross_norm = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:  # type: ignore[override]
        x = self.attention_norm(x + self.dropped(self.attention(x, causal=True)))
        x = self.cross_norm(x + self.dropped(self.cross.attend(x, *self.cross.project_kv(memory), mask)))
        out: Tensor = self.mlp_norm(x + self.dropped(self.mlp(x)))
        return out

    def step(self, x: Tensor, cache: Cache, number: int) -> Tensor:
        own = cache.own.extend(number, *self.attention.project_kv(x))
        x = self.attention_norm(x + self.attention.attend_few(x, *own))
        packed = (
            x if cache.beam_rows is None else x[cache.beam_rows, 0]
        )  # (B, most rows, C): beams side by side as tokens
        attended = self.cross.attend_few(packed, *cache.cross[number], cache.mask)
        if cache.row_slot is not None:
            attended = attended.flatten(0, 1)[cache.row_slot, None]  # (R, 1, C)
        x = self.cross_norm(x + attended)
        out: Tensor = self.mlp_norm(x + self.mlp(x))
        return out


class Attention(nn.Module):
    def __init__(self, config: TextConfig, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(config.d_model, config.d_model)
        self.k = Linear(config.d_model, config.d_model)
        self.v = Linear(config.d_model, config.d_model)
        self.out = Linear(config.d_model, config.d_model)
        self.dropout = config.attention_dropout
        self.by_products = False
        """Whether few queries are answered by two products, where that is sooner (`model.tiers`)."""

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        return self.attend(x, *self.project_kv(x), mask, causal)

    def project_kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of what is attended to, (B, G, M, D) each."""
        return self.split(self.k(x)), self.split(self.v(x))

    def attend(
        self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        x = attention(self.split(self.q(x)), keys, values, mask, dropout, causal)
        out: Tensor = self.out(x.transpose(1, 2).flatten(2))  # (B, T, C)
        return out

    def attend_few(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same for the few tokens of a decoding step."""
        if not self.by_products or keys.shape[2] < LEAST_KEYS or torch.is_grad_enabled():
            return self.attend(x, keys, values, mask)
        attended = attention_by_products(self.split(self.q(x)), keys, values, mask)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out

    def split(self, x: Tensor) -> Tensor:
        """(B, T, C) by heads."""
        B, T, C = x.shape
        return x.view(B, T, self.heads, C // self.heads).transpose(1, 2)  # (B, G, T, D)


def additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, M) bool, True where real, as (B, 1, 1, M) to add to scores; None where nothing is padding."""
    return None if mask is None or bool(mask.all()) else additive_of(mask, dtype)


def additive_of(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, M) bool, True where real, as (B, 1, 1, M): 0 where real, else -inf."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, float("-inf"))[:, None, None]

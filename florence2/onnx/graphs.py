"""The four graphs of a model, traced from its own layers. What differs from the torch model is the decoder's cache.

Legend: R rows, T new tokens, P tokens before them, M encoder positions, C d_model, G heads, D = C/G.

`use_cache_branch` tells the two uses of the decoder apart, as Optimum's merged decoders have it: False, the first call,
makes the cross keys and values of the encoder's output; True takes them from `past_key_values.*.encoder.*`, and gives
empty ones back, which callers pass over. Only the cross-attention branches; nothing is held twice.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from florence2.model.bart import OFFSET, DecoderLayer, EncoderDecoder, additive_of
from florence2.model.florence import Florence
from florence2.onnx.onnx_folder import GRAPHS
from florence2.onnx.sessions import KINDS

OPSET = 17
MOST_BYTES = 2_000_000_000  # what one file of protobuf may hold


class VisionEncoder(nn.Module):
    """pixel_values (B, 3, H, W) -> image_features (B, N, C)"""

    def __init__(self, model: Florence) -> None:
        super().__init__()
        self.tower, self.projector = model.vision_tower, model.projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        out: Tensor = self.projector(self.tower(pixel_values))
        return out


class EncoderModel(nn.Module):
    """inputs_embeds (B, M, C), attention_mask (B, M) -> last_hidden_state (B, M, C)"""

    def __init__(self, language: EncoderDecoder) -> None:
        super().__init__()
        self.encoder = language.encoder

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        out: Tensor = self.encoder(inputs_embeds, additive_of(attention_mask != 0, inputs_embeds.dtype))
        return out


class DecoderModel(nn.Module):
    """inputs_embeds (R, T, C) and what was before -> logits (R, T, V), present keys and values of every layer"""

    def __init__(self, language: EncoderDecoder) -> None:
        super().__init__()
        self.decoder = language.decoder
        self.head = nn.Parameter(language.embedding.weight if language.head is None else language.head.weight)

    def forward(
        self,
        inputs_embeds: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        use_cache_branch: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        before, new = past[0].shape[2], inputs_embeds.shape[1]
        embed = self.decoder.embed
        places = before + torch.arange(new)
        x = embed.norm(inputs_embeds + embed.positions.weight[places + OFFSET])
        later = torch.arange(before + new)[None] > places[:, None]
        causal = torch.zeros(later.shape).masked_fill(later, float("-inf"))[None, None]  # (1, 1, T, P + T)
        mask = additive_of(encoder_attention_mask != 0, x.dtype)
        present: list[Tensor] = []
        for number, layer in enumerate(self.decoder.layers):
            x, kept = _layer(layer, x, encoder_hidden_states, causal, mask, use_cache_branch, past[4 * number :])
            present += kept
        return (x @ self.head.t(), *present)


def _layer(
    layer: DecoderLayer,
    x: Tensor,
    hidden: Tensor,
    causal: Tensor,
    mask: Tensor,
    cached: Tensor,
    past: tuple[Tensor, ...],
) -> tuple[Tensor, list[Tensor]]:
    """One layer, and its present keys and values: decoder.key, decoder.value, encoder.key, encoder.value."""
    own, cross = layer.attention, layer.cross
    keys, values = own.project_kv(x)
    keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
    x = layer.attention_norm(x + own.attend(x, keys, values, causal))
    k, v = cross.k, cross.v
    queries = cross.split(cross.q(x))
    attended, cross_keys, cross_values = _cross_attention(
        cached, queries, hidden, k.weight, k.bias, v.weight, v.bias, past[2], past[3], mask
    )
    x = layer.cross_norm(x + cross.out(attended.transpose(1, 2).flatten(2)))
    return layer.mlp_norm(x + layer.mlp(x)), [keys, values, cross_keys, cross_values]


@torch.jit.script
def _cross_attention(
    cached: Tensor,
    queries: Tensor,
    hidden: Tensor,
    k_weight: Tensor,
    k_bias: Tensor,
    v_weight: Tensor,
    v_bias: Tensor,
    past_keys: Tensor,
    past_values: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention (R, G, T, D) to the encoder's output, and its keys and values where they were made."""
    rows, heads, _, width = queries.size()
    if bool(cached):
        scores = (queries * width**-0.5) @ past_keys.transpose(2, 3) + mask
        attended = torch.softmax(scores, -1) @ past_values
        keys, values = past_keys[:, :, :0], past_values[:, :, :0]
    else:
        keys = (hidden @ k_weight.t() + k_bias).view(rows, -1, heads, width).transpose(1, 2)
        values = (hidden @ v_weight.t() + v_bias).view(rows, -1, heads, width).transpose(1, 2)
        scores = (queries * width**-0.5) @ keys.transpose(2, 3) + mask
        attended = torch.softmax(scores, -1) @ values
    return attended, keys, values


def write_graphs(model: Florence, folder: Path) -> None:
    """The four graphs of a float32 model on a processor, in FOLDER/NAME.onnx; batch and lengths are dynamic."""
    text = model.config.text
    width, height = model.config.image_size_wh
    memory, ids = torch.randn(2, 7, text.d_model), torch.ones(2, 3, dtype=torch.int64)
    mask = torch.ones(2, 7, dtype=torch.int64)
    pasts = [torch.randn(2, text.decoder_heads, n, text.d_model // text.decoder_heads) for n in (2, 2, 7, 7)]
    layers = range(text.decoder_layers)
    names = [f"{n}.{side}.{kind}" for n in layers for side in ("decoder", "encoder") for kind in KINDS]
    embedded = torch.randn(2, 3, text.d_model)
    decoder = ["inputs_embeds", "encoder_hidden_states", "encoder_attention_mask", "use_cache_branch"]
    cached = torch.tensor([True])
    graphs: dict[str, tuple[nn.Module, tuple[Tensor, ...], list[str], list[str]]] = {
        "vision_encoder": (
            VisionEncoder(model),
            (torch.randn(2, 3, height, width),),
            ["pixel_values"],
            ["image_features"],
        ),
        "embed_tokens": (model.language.embedding, (ids,), ["input_ids"], ["inputs_embeds"]),
        "encoder_model": (
            EncoderModel(model.language),
            (memory, mask),
            ["inputs_embeds", "attention_mask"],
            ["last_hidden_state"],
        ),
        "decoder_model_merged": (
            DecoderModel(model.language),
            (embedded, memory, mask, cached, *(pasts * text.decoder_layers)),
            [*decoder, *(f"past_key_values.{name}" for name in names)],
            ["logits", *(f"present.{name}" for name in names)],
        ),
    }
    assert set(graphs) == set(GRAPHS)
    for name, (module, inputs, ins, outs) in graphs.items():
        size = sum(tensor.numel() * 4 for tensor in module.state_dict().values())
        if size > MOST_BYTES:
            raise ValueError(
                f"{name}: its weights take {size:,} bytes, an ONNX file holds at most {MOST_BYTES:,}; "
                "this model is too large to be exported"
            )
        _export(module, inputs, folder / f"{name}.onnx", ins, outs)


def _export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, ins: list[str], outs: list[str]) -> None:
    axes = {name: _axes(name) for name in (*ins, *outs) if _axes(name)}
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that are constant by the model's config
        torch.onnx.export(
            module.eval(), inputs, str(path), dynamo=False, opset_version=OPSET, do_constant_folding=True,
            input_names=ins, output_names=outs, dynamic_axes=axes,
        )  # fmt: skip


def _axes(name: str) -> dict[int, str]:
    """The dimensions of an input or output that are not fixed, under Optimum's names."""
    if name == "use_cache_branch":
        return {}
    if name in ("pixel_values", "image_features"):
        return {0: "batch_size"}
    if "encoder.key" in name or "encoder.value" in name:
        return {0: "batch_size", 2: "encoder_sequence_length"}
    if name.startswith(("past_key_values", "present")):
        return {0: "batch_size", 2: "past_sequence_length" if name.startswith("past") else "sequence_length"}
    return {0: "batch_size", 1: "encoder_sequence_length" if name.startswith("encoder") else "sequence_length"}

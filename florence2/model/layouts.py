"""How the published layouts name a model's tensors: templates of their keys. A table, and its expansion for a config.

`microsoft` is the remote-code layout of microsoft/Florence-2-*, `transformers` the native one of florence-community.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from florence2.model.model_config import ModelConfig

LAYOUTS = ("florence2", "microsoft", "transformers")
HEAD = "language.head.weight"
EMBEDDING = "language.embedding.weight"
PROJECTION = "projector.projection.weight"  # in Microsoft's layout a raw (C, d_model) parameter: transposed

KeyRow = tuple["str | None", "str | None", "str | None"]

# Prefixes of a section, then its rows: ours, microsoft, transformers. None in ours: known and dropped; None in theirs:
# that layout has no such key. {s} stage, {b} pair of blocks, {e} encoder layer, {d} decoder layer, {w} weight or bias.
_LAYER: tuple[KeyRow, ...] = (
    ("attention.q.{w}", "self_attn.q_proj.{w}", "self_attn.q_proj.{w}"),
    ("attention.k.{w}", "self_attn.k_proj.{w}", "self_attn.k_proj.{w}"),
    ("attention.v.{w}", "self_attn.v_proj.{w}", "self_attn.v_proj.{w}"),
    ("attention.out.{w}", "self_attn.out_proj.{w}", "self_attn.out_proj.{w}"),
    ("attention_norm.{w}", "self_attn_layer_norm.{w}", "self_attn_layer_norm.{w}"),
    ("mlp.up.{w}", "fc1.{w}", "fc1.{w}"),
    ("mlp.down.{w}", "fc2.{w}", "fc2.{w}"),
    ("mlp_norm.{w}", "final_layer_norm.{w}", "final_layer_norm.{w}"),
)
_CROSS: tuple[KeyRow, ...] = (
    ("cross.q.{w}", "encoder_attn.q_proj.{w}", "encoder_attn.q_proj.{w}"),
    ("cross.k.{w}", "encoder_attn.k_proj.{w}", "encoder_attn.k_proj.{w}"),
    ("cross.v.{w}", "encoder_attn.v_proj.{w}", "encoder_attn.v_proj.{w}"),
    ("cross.out.{w}", "encoder_attn.out_proj.{w}", "encoder_attn.out_proj.{w}"),
    ("cross_norm.{w}", "encoder_attn_layer_norm.{w}", "encoder_attn_layer_norm.{w}"),
)
_INPUT: tuple[KeyRow, ...] = (
    ("embed.positions.weight", "embed_positions.weight", "embed_positions.weight"),
    ("embed.norm.{w}", "layernorm_embedding.{w}", "layernorm_embedding.{w}"),
    (None, "embed_tokens.weight", "embed_tokens.weight"),  # a copy of the embedding
)
SECTIONS: tuple[tuple[tuple[str, str, str], tuple[KeyRow, ...]], ...] = (
    (
        ("vision_tower.stages.{s}.embed.", "vision_tower.convs.{s}.", "model.vision_tower.convs.{s}."),
        (
            ("conv.{w}", "proj.{w}", "conv.{w}"),
            ("norm.{w}", "norm.{w}", "norm.{w}"),
        ),
    ),
    (
        (
            "vision_tower.stages.{s}.blocks.{b}.spatial.",
            "vision_tower.blocks.{s}.{b}.spatial_block.",
            "model.vision_tower.blocks.{s}.{b}.spatial_block.",
        ),
        (
            ("position1.{w}", "conv1.fn.dw.{w}", "conv1.{w}"),
            ("norm1.{w}", "window_attn.norm.{w}", "norm1.{w}"),
            ("attention.qkv.{w}", "window_attn.fn.qkv.{w}", "window_attn.qkv.{w}"),
            ("attention.out.{w}", "window_attn.fn.proj.{w}", "window_attn.proj.{w}"),
            ("position2.{w}", "conv2.fn.dw.{w}", "conv2.{w}"),
            ("norm2.{w}", "ffn.norm.{w}", "norm2.{w}"),
            ("mlp.up.{w}", "ffn.fn.net.fc1.{w}", "ffn.fc1.{w}"),
            ("mlp.down.{w}", "ffn.fn.net.fc2.{w}", "ffn.fc2.{w}"),
        ),
    ),
    (
        (
            "vision_tower.stages.{s}.blocks.{b}.channel.",
            "vision_tower.blocks.{s}.{b}.channel_block.",
            "model.vision_tower.blocks.{s}.{b}.channel_block.",
        ),
        (
            ("position1.{w}", "conv1.fn.dw.{w}", "conv1.{w}"),
            ("norm1.{w}", "channel_attn.norm.{w}", "norm1.{w}"),
            ("attention.qkv.{w}", "channel_attn.fn.qkv.{w}", "channel_attn.qkv.{w}"),
            ("attention.out.{w}", "channel_attn.fn.proj.{w}", "channel_attn.proj.{w}"),
            ("position2.{w}", "conv2.fn.dw.{w}", "conv2.{w}"),
            ("norm2.{w}", "ffn.norm.{w}", "norm2.{w}"),
            ("mlp.up.{w}", "ffn.fn.net.fc1.{w}", "ffn.fc1.{w}"),
            ("mlp.down.{w}", "ffn.fn.net.fc2.{w}", "ffn.fc2.{w}"),
        ),
    ),
    (
        ("projector.", "", "model.multi_modal_projector."),
        (
            ("projection.weight", "image_projection", "image_projection.weight"),
            ("norm.{w}", "image_proj_norm.{w}", "image_proj_norm.{w}"),
            ("rows.weight", "image_pos_embed.row_embeddings.weight", "image_position_embed.row_embeddings.weight"),
            (
                "columns.weight",
                "image_pos_embed.column_embeddings.weight",
                "image_position_embed.column_embeddings.weight",
            ),
            ("frames", "visual_temporal_embed.pos_idx_to_embed", "visual_temporal_embed.pos_idx_to_embed"),
        ),
    ),
    (("language.", "language_model.", ""), (("head.weight", "lm_head.weight", "lm_head.weight"),)),
    (("language.", "language_model.", ""), ((None, "final_logits_bias", None),)),  # zeros, or the model is refused
    (
        ("language.", "language_model.model.", "model.language_model."),
        (("embedding.weight", "shared.weight", "shared.weight"),),
    ),
    (("language.encoder.", "language_model.model.encoder.", "model.language_model.encoder."), _INPUT),
    (("language.decoder.", "language_model.model.decoder.", "model.language_model.decoder."), _INPUT),
    (
        (
            "language.encoder.layers.{e}.",
            "language_model.model.encoder.layers.{e}.",
            "model.language_model.encoder.layers.{e}.",
        ),
        _LAYER,
    ),
    (
        (
            "language.decoder.layers.{d}.",
            "language_model.model.decoder.layers.{d}.",
            "model.language_model.decoder.layers.{d}.",
        ),
        _LAYER + _CROSS,
    ),
)


def key_table(config: ModelConfig, layout: str) -> dict[str, str | None]:
    """Every key that a checkpoint of this config may hold in the layout -> our name, None where it is dropped."""
    if layout == "florence2":
        return {ours: ours for ours in key_table(config, "microsoft").values() if ours is not None}
    column = LAYOUTS.index(layout)
    table: dict[str, str | None] = {}
    for prefixes, rows in SECTIONS:
        for row in rows:
            ours, theirs = row[0], row[column]
            if theirs is not None:
                for numbers in _numbers(config, prefixes[0] + (ours or theirs)):
                    key = (prefixes[column] + theirs).format(**numbers)
                    table[key] = None if ours is None else (prefixes[0] + ours).format(**numbers)
    return table


def single_keys(layout: str) -> dict[str, str]:
    """Our name -> the layout's key, of all that a model has once."""
    column = LAYOUTS.index(layout)
    return {
        prefixes[0] + row[0]: prefixes[column] + str(row[column])
        for prefixes, rows in SECTIONS
        for row in rows
        if row[0] is not None and "{" not in prefixes[0] + row[0].replace("{w}", "")
    }


def detect_layout(names: Iterable[str]) -> str | None:
    """Which layout these keys are in, found by keys that every model of that layout has."""
    present = set(names)
    for layout, marks in {
        "florence2": ("projector.projection.weight",),
        "microsoft": ("image_projection",),
        "transformers": ("model.multi_modal_projector.image_projection.weight",),
    }.items():
        if present.intersection(marks):
            return layout
    return None


def _numbers(config: ModelConfig, template: str) -> Iterator[dict[str, int | str]]:
    """All values of the numbers in a template."""
    vision, text = config.vision, config.text
    stages = range(len(vision.dims))
    if "{b}" in template:
        places: list[dict[str, int | str]] = [{"s": s, "b": b} for s in stages for b in range(vision.depths[s])]
    elif "{s}" in template:
        places = [{"s": s} for s in stages]
    elif "{e}" in template:
        places = [{"e": e} for e in range(text.encoder_layers)]
    elif "{d}" in template:
        places = [{"d": d} for d in range(text.decoder_layers)]
    else:
        places = [{}]
    for place in places:
        if "{w}" in template:
            yield {**place, "w": "weight"}
            yield {**place, "w": "bias"}
        else:
            yield place

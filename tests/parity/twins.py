"""The same random model twice: ours, and transformers' native one with our weights. The weights are made lively.

Plain random weights repeat one token for ever. Here the layers are scaled so that what is said depends on the picture,
the prompt and what was said; and the rows of `</s>` and of the locations so that answers end and point.
"""

from __future__ import annotations

import dataclasses

import torch

from florence2.model.checkpoint import to_layout
from florence2.model.florence import Florence, frame_table
from florence2.model.foreign import write_config
from florence2.model.model_config import SIZES, ModelConfig, TextConfig, VisionConfig

IMAGE_ID = 1199  # of the tiny models: the last row
LAYER = 1.5  # each layer's gain; at 2.5 rounding errors grow into different answers
LOCATIONS = range(150, 1150)  # the tiny models' location ids


def tiny(pixels: int = 96, **text) -> ModelConfig:
    """A tiny model of the published shape for pictures of `pixels` (96: maps that windows of 5 do not divide)."""
    return ModelConfig(
        VisionConfig(
            dims=(16, 32, 48, 64), depths=(1, 1, 2, 1), heads=(1, 2, 3, 4), groups=(1, 2, 3, 4), window=5, max_side=12
        ),
        TextConfig(
            **{
                **dict(vocab_size=1200, d_model=48, encoder_layers=2, decoder_layers=2, max_positions=160),
                **dict(encoder_heads=4, decoder_heads=3, encoder_ffn=96, decoder_ffn=64),
                **text,
            }
        ),
        image_size_wh=(pixels, pixels),
        image_id=IMAGE_ID,
    )


def base() -> ModelConfig:
    """The published base size as transformers has it, rows filled up to a multiple of 64."""
    size = SIZES["base"]
    return dataclasses.replace(size, image_id=51289, text=dataclasses.replace(size.text, vocab_size=51328))


def lively(
    config: ModelConfig, seed: int = 0, eos: float = 1.3, location: float = 1.0, branch: float = 0.5
) -> Florence:
    """Our model, random; `eos` and `location` raise what they name, `branch` scales the branches of the text side.

    Those are small beside its strong positions, or one state would rule all steps.
    """
    with torch.device("meta"):
        model = Florence(config)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(seed)
    locations = range(50269, 51269) if config.text.vocab_size > 50000 else LOCATIONS
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.normal_(generator=generator)
            if tensor.ndim == 1:
                tensor.mul_(0.1).add_(1 if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")) else 0)
            elif "decoder.embed.positions" in name:
                tensor.mul_(0.6)
            elif "embedding" in name or "positions" in name or "projector.rows" in name or "projector.columns" in name:
                tensor.mul_(0.7 / tensor.shape[1] ** 0.5)
            elif "language" in name and name.endswith(("out.weight", "down.weight")):
                tensor.mul_(branch / tensor[0].numel() ** 0.5)
            else:
                tensor.mul_(LAYER / tensor[0].numel() ** 0.5)
        model.projector.frames.copy_(frame_table(*model.projector.frames.shape))
        embedding = model.language.embedding.weight
        towards = model.language.decoder.layers[-1].mlp_norm.bias.mul_(3)
        embedding[config.eos_id] += (
            eos * towards / towards.square().sum()
        )  # part of every last state: `</s>` becomes likely, not certain
        embedding[locations.start : locations.stop] *= location
        embedding[config.pad_id] = 0
    return model


def theirs_of(model: Florence):
    """transformers' model with the same weights, eager attention."""
    from transformers import Florence2Config, Florence2ForConditionalGeneration

    written = write_config(model.config, "transformers", "float32")["config.json"]
    written.pop("dtype")
    config = Florence2Config(**written, attn_implementation="eager")
    with torch.device("meta"):
        theirs = Florence2ForConditionalGeneration(config)
    state = to_layout(model.state_dict(), model.config, "transformers")
    for key in ("model.language_model.encoder.embed_tokens.weight", "model.language_model.decoder.embed_tokens.weight"):
        state[key] = state["model.language_model.shared.weight"]
    state.setdefault("lm_head.weight", state["model.language_model.shared.weight"])
    theirs.load_state_dict(state, strict=True, assign=True)
    return theirs.eval()

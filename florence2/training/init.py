"""A model from nothing, its weights starting in a good place.

The reference's start (std 0.02 everywhere) suits the published widths. A small model learns sooner when each layer
keeps the size of its input, and when places are distinct from the first step: a location token starts near its
neighbours (Fourier features of its coordinate), and so does each row and column of the map.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.codec.tokenizer import Tokenizer
from florence2.model.bart import OFFSET
from florence2.model.florence import Florence
from florence2.model.model_config import SIZES, ModelConfig, with_vocab


def build(size: str, tokenizer: Tokenizer, seed: int) -> Florence:
    """A new model of a size of SIZES for this vocabulary."""
    torch.manual_seed(seed)
    model = Florence(with_vocab(SIZES[size], tokenizer.vocab_size))
    initialise(model, tokenizer.loc0)
    return model


@torch.no_grad()
def initialise(model: Florence, loc0: int) -> None:
    """Give a new model its first weights; draws from torch's generator."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            fan_in = module.weight[0].numel()
            ends_branch = name.endswith((".down", ".out")) or ".position" in name
            nn.init.trunc_normal_(module.weight, std=fan_in**-0.5 * (0.5 if ends_branch else 1.0))
    projector, language = model.projector, model.language
    for table in (projector.rows, projector.columns):
        table.weight.copy_(fourier(len(table.weight), table.weight.shape[1]))
    for stack in (language.encoder, language.decoder):
        nn.init.normal_(stack.embed.positions.weight, std=0.02)
    width = language.embedding.weight.shape[1]
    nn.init.normal_(language.embedding.weight, std=0.02)
    language.embedding.weight[loc0 : loc0 + 1000] = 0.02 * fourier(1000, width)
    language.embedding.weight[model.config.pad_id].zero_()


def with_image_size(config: ModelConfig, side: int) -> ModelConfig:
    """The same model for pictures of side x side pixels; ValueError where its tables are too small for them."""
    resized = dataclasses.replace(config, image_size_wh=(side, side))
    most, (columns, rows) = resized.vision.max_side, resized.map_size_wh
    if (
        not 1 <= min(columns, rows) <= max(columns, rows) <= most
        or resized.image_tokens + 2 >= config.text.max_positions
    ):
        raise ValueError(
            f"image_size: {side} pixels make a map of {columns}x{rows} cells; this model holds maps from 1x1 to "
            f"{most}x{most} of at most {config.text.max_positions - 3} cells"
        )
    return resized


@torch.no_grad()
def resize(model: Florence, size_wh: tuple[int, int]) -> None:
    """Let a model take pictures of another size.

    A place of the picture keeps its position vectors, of the projector and of the encoder, between the old cells'
    middles by linear interpolation; so does each token of the prompt.
    """
    if model.config.image_size_wh == size_wh:
        return
    before = model.config.map_size_wh
    model.config = dataclasses.replace(model.config, image_size_wh=size_wh)
    after = model.config.map_size_wh
    for table, old, new in zip((model.projector.columns, model.projector.rows), before, after):
        stretched = F.interpolate(table.weight[:old].T[None], new, mode="linear", align_corners=False)
        table.weight[:new] = stretched[0].T
    positions = model.language.encoder.embed.positions.weight[OFFSET + 1 :]  # behind that of the map's mean
    cells, prompt = positions.clone().split([math.prod(before), len(positions) - math.prod(before)])
    grid = cells.T.view(1, -1, before[1], before[0])
    stretched = F.interpolate(grid, after[::-1], mode="bilinear", align_corners=False).flatten(2)[0].T
    positions[: len(stretched)] = stretched
    room = positions[len(stretched) :]
    room[: len(prompt)] = prompt[: len(room)]


def fourier(count: int, width: int) -> Tensor:
    """(count, width): smooth curves of the place along an axis, each column of mean square about 1."""
    place = torch.linspace(0, 1, count)[:, None]
    waves = torch.cat([torch.arange(1, 17) * 0.5, 2.0 ** torch.arange(4, 7)])  # half turns to 64 turns
    curves = torch.cat([torch.sin(torch.pi * 2 * waves * place), torch.cos(torch.pi * 2 * waves * place)], 1)
    curves = curves / torch.cat([waves, waves]).sqrt()  # slow waves carry more
    mixed = curves @ torch.randn(curves.shape[1], width)
    return mixed / mixed.square().mean().sqrt()

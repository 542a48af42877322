"""A new model's parts from given weights: a BART checkpoint for the language model, a DaViT tower for the eye.

The tower may be any Florence-2 checkpoint's, taken as it is, or one of the original DaViT (Ding et al., arXiv
2204.03645), which differs: its channel attention has other roles (its k, v, q are our q, k, v) and another scale, made
equal here for the model's own picture size alone; its 2x2 patch merging is the lower right of our 3x3 kernel. Rows of
tokens and positions that the given matrices lack keep their first weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from florence2.model.bart import OFFSET
from florence2.model.checkpoint import open_checkpoint
from florence2.model.florence import Florence
from florence2.model.layouts import EMBEDDING, key_table
from florence2.model.tensor_files import TensorFolder, read_json
from florence2.predictor import checkpoints

TOWER = "vision_tower."
LONGER = (EMBEDDING, "language.encoder.embed.positions.weight", "language.decoder.embed.positions.weight")
EXPECTED = {"activation_function": "gelu", "scale_embedding": False, "normalize_before": False}


def take(model: Florence, language: str, tower: str) -> None:
    """Give a new model the weights that are named; "" leaves a part as it is."""
    if language:
        take_language(model, language)
    if tower:
        take_tower(model, tower)


@torch.no_grad()
def take_language(model: Florence, source: str) -> None:
    """Put a BART checkpoint's weights (a folder, `model.` before its keys or not) into the language model."""
    folder = checkpoints.find_folder(source)
    config = read_json(folder / "config.json")
    for key, wanted in EXPECTED.items():
        if config.get(key, wanted) != wanted:
            raise ValueError(f"{folder / 'config.json'}: {key}: expected {wanted!r}, got {config[key]!r:.40}")
    tensors = TensorFolder(folder)
    tensors.check()
    prefix = "language_model.model."
    ours = {
        key.removeprefix(prefix): name
        for key, name in key_table(model.config, "microsoft").items()
        if key.startswith(prefix)
    }
    own, missing = model.state_dict(), {name for name in ours.values() if name is not None}
    for key in tensors:
        bare = key.removeprefix("model.")
        if bare in ("lm_head.weight", "final_logits_bias"):
            if bare == "final_logits_bias" and bool(tensors[key].count_nonzero()):
                raise ValueError(f"{tensors.where(key)}: expected zeros; this model adds no bias to logits")
            continue
        if bare not in ours:
            raise ValueError(f"{tensors.where(key)}: unexpected: a language model of this size has no such key")
        name = ours[bare]
        if name is not None:
            _put(own[name], tensors[key].float(), tensors.where(key), name in LONGER)
            missing.discard(name)
    if missing:
        raise ValueError(f"{tensors.source}: {min(missing)}: missing; expected a BART of the model's own sizes")


@torch.no_grad()
def take_tower(model: Florence, source: str) -> None:
    """Put a tower's weights into the model's: of a Florence-2 checkpoint of any layout, or of the original DaViT."""
    folder = checkpoints.find_folder(source)
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(TOWER)}
    tensors = TensorFolder(folder)
    if not any(key.startswith("main_blocks.") for key in tensors):
        checkpoint = open_checkpoint(folder)
        for name, tensor in own.items():
            if name not in checkpoint.names:
                raise ValueError(f"{folder}: {name}: missing; expected a tower of the model's own sizes")
            _put(tensor, checkpoint.read(name).float(), f"{folder}: {name}")
        return
    tensors.check()
    cells = _cells(model)
    for name, tensor in own.items():
        key = original_key(name)
        if key not in tensors:
            raise ValueError(f"{tensors.source}: {key}: missing; expected a DaViT of the model's own sizes")
        given = tensors[key].float()
        stage = int(name.split(".")[2])
        if ".channel.attention.qkv." in name:
            given = _channel_roles(given, cells[stage], model.config.vision.dims[stage], model, stage)
        if name.endswith("embed.conv.weight") and given.shape[2:] == (2, 2) and tensor.shape[2:] == (3, 3):
            given = torch.nn.functional.pad(given, (1, 0, 1, 0))
        _put(tensor, given, tensors.where(key))


def original_key(name: str) -> str:
    """The original DaViT's key of one of the tower's tensors."""
    parts = name.removeprefix(f"{TOWER}stages.").split(".")
    stage, ending = parts[0], parts[-1]
    if parts[1] == "embed":
        return f"patch_embeds.{stage}.{'proj' if parts[2] == 'conv' else 'norm'}.{ending}"
    block = f"main_blocks.{stage}.{parts[2]}.{('spatial', 'channel').index(parts[3])}"
    inner = {
        "position1": "cpe.0.proj",
        "position2": "cpe.1.proj",
        "norm1": "norm1",
        "norm2": "norm2",
        "attention.qkv": "attn.qkv",
        "attention.out": "attn.proj",
        "mlp.up": "mlp.fc1",
        "mlp.down": "mlp.fc2",
    }[".".join(parts[4:-1])]
    return f"{block}.{inner}.{ending}"


def _channel_roles(given: Tensor, cells: int, dim: int, model: Florence, stage: int) -> Tensor:
    """(3 C, ...) q, k, v of the original as ours, its scale head_dim^-0.5 as ours, cells^-0.5, of this many cells."""
    q, k, v = given.chunk(3)
    head_dim = dim // model.config.vision.groups[stage]
    return torch.cat([k * (cells / head_dim) ** 0.5, v, q])


def _cells(model: Florence) -> list[int]:
    """Cells of each stage's map at the model's picture size."""
    width, height = model.config.image_size_wh
    out = []
    vision = model.config.vision
    for size, stride, padding in zip(vision.patch_sizes, vision.patch_strides, vision.patch_paddings):
        width, height = ((side + 2 * padding - size) // stride + 1 for side in (width, height))
        out.append(width * height)
    return out


def _put(own: Tensor, given: Tensor, where: str, longer: bool = False) -> None:
    """Copy in place; of a table that may be longer here its first rows."""
    rows = min(len(own), len(given)) if longer else len(own)
    if given[:rows].shape != own[:rows].shape or (longer and rows < OFFSET):
        raise ValueError(f"{where}: expected shape {tuple(own.shape)}, got {tuple(given.shape)}")
    own[:rows].copy_(given[:rows])

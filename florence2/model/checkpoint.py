"""A folder with a model in it: opened and checked, loaded whole or refused, saved. It knows tensors and sizes, no text.

Opening takes no memory for weights: names, shapes and config must agree first. Loading maps tensors from the file, so
that a model in the file's own type needs no second copy. A model is either returned complete or not at all.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from florence2.model.config import ModelConfig, from_json, to_json
from florence2.model.florence import Florence
from florence2.model.layouts import key_table
from florence2.model.tensor_files import SINGLE, TensorFolder, check_finite, read_json, write

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk whose keys and shapes are known to fit its config."""

    folder: Path
    layout: str
    config: ModelConfig
    tensors: TensorFolder
    names: dict[str, str]
    """Our name -> the file's key."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of the embedding, and so of the model."""
        return self.tensors.dtype(self.names["language.embedding.weight"])


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Check a folder's config, keys and shapes; ValueError names the file and the key that does not fit."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with config.json and weights")
    tensors = TensorFolder(folder)
    data = read_json(folder / "config.json")
    try:
        config = from_json({key: value for key, value in data.items() if key != "format"})
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    names = _match(folder, tensors, config, "florence2")
    return Checkpoint(folder, "florence2", config, tensors, names)


def load_model(
    folder: str | Path, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None
) -> Florence:
    """The model, ready to answer. Without `dtype`: float32 on a CPU, elsewhere as in the file."""
    checkpoint = open_checkpoint(folder)
    place = torch.device(device or "cpu")
    kind = _dtype(dtype) if dtype is not None else torch.float32 if place.type == "cpu" else checkpoint.dtype
    checkpoint.tensors.verify()
    state: dict[str, Tensor] = {}
    for ours, key in checkpoint.names.items():
        tensor = checkpoint.tensors[key]
        check_finite(tensor, checkpoint.tensors.where(key))
        state[ours] = tensor.to(place, kind)
    return _build(checkpoint.config, state)


def save_model(model: Florence, folder: str | Path, dtype: str | torch.dtype | None = None) -> None:
    """Write config.json and model.safetensors, in the model's own type unless told otherwise."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind = model.dtype if dtype is None else _dtype(dtype)
    write({name: tensor.to(kind) for name, tensor in model.state_dict().items()}, folder / SINGLE[0])
    _write_json(folder / "config.json", {"format": "florence2", **to_json(model.config)})


def _match(folder: Path, tensors: TensorFolder, config: ModelConfig, layout: str) -> dict[str, str]:
    """Our name -> the file's key; none missing, none unexpected, every shape as the config says."""
    table = key_table(config, layout)
    for key in tensors:
        if key not in table:
            raise ValueError(f"{tensors.where(key)}: unexpected: a model of {folder / 'config.json'} has no such key")
    names = {ours: key for key, ours in table.items() if ours is not None and key in tensors}
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in Florence(config).state_dict().items()}
    spelt = {ours: key for key, ours in table.items()}
    for name, shape in shapes.items():
        if name not in names:
            raise ValueError(f"{tensors.source}: {spelt[name]}: missing; expected a tensor of shape {shape}")
        if tensors.shape(names[name]) != shape:
            got = tensors.shape(names[name])
            raise ValueError(f"{tensors.where(names[name])}: expected shape {shape} by config.json, got {got}")
    return names


def _build(config: ModelConfig, state: dict[str, Tensor]) -> Florence:
    with torch.device("meta"):
        model = Florence(config)
    state["projector.frames"] = state["projector.frames"].clone()
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    return DTYPES[dtype]


def _write_json(path: Path, data: object) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, path)

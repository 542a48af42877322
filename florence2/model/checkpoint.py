"""A folder with a model in it, in any layout: opened and checked, loaded whole or refused, saved. It knows no text.

Opening takes no memory for weights: names, shapes and config must agree first. Loading maps tensors from the file, so
that a model in the file's own type needs no second copy. A model is either returned complete or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from florence2.atomic_files import write_atomic
from florence2.model.adapter import CONFIG as ADAPTER_CONFIG
from florence2.model.adapter import merge_adapter
from florence2.model.device import to_device
from florence2.model.florence import Florence, blank
from florence2.model.foreign import read_config, write_config
from florence2.model.layouts import EMBEDDING, HEAD, LAYOUTS, PROJECTION, detect_layout, key_table, single_keys
from florence2.model.model_config import ModelConfig, from_json, to_json
from florence2.model.tensor_files import SINGLE, TensorFolder, read_json, write

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_PROCESS = os.getpid()
FRAMES = "projector.frames"  # a fixed table, no weight
SIZES_FROM = {  # what is read off a tensor's rows -> our name of the tensor, rows that are no entry
    "vocab_size": (EMBEDDING, 0),
    "max_positions": ("language.encoder.embed.positions.weight", 2),
    "max_side": ("projector.rows.weight", 0),
    "max_frames": (FRAMES, 0),
}


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
        """The narrowest type that holds all weights, and so the model's own."""
        return reduce(
            torch.promote_types, {self.tensors.dtype(key) for name, key in self.names.items() if name != FRAMES}
        )

    def read(self, name: str) -> Tensor:
        """One tensor by our name, in our orientation, mapped from disk."""
        tensor = self.tensors[self.names[name]]
        return tensor.t() if name == PROJECTION and self.layout == "microsoft" else tensor


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """Check a folder's config, keys, shapes and ties; ValueError names the file and the key that does not fit."""
    folder = Path(folder)
    data = _description(folder)
    return _fitted(folder, data, TensorFolder(folder))


def load_model(
    folder: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    adapter: str | Path | None = None,
) -> Florence:
    """The model, ready to answer, an adapter merged. Without `dtype`: float32 on a CPU, elsewhere as in the file.

    A torch.dtype is taken as it is: a training in float64 opens what it saved.
    """
    place = to_device(device or "cpu")
    if os.getpid() != _PROCESS:
        torch.set_num_threads(1)  # its threads are the parent's, and a child that waits for them waits for ever
    checkpoint = open_checkpoint(folder)
    model = blank(checkpoint.config)
    _check_positions(checkpoint)
    checkpoint.tensors.check()
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else checkpoint.dtype
    kind = to_dtype(dtype) if isinstance(dtype, str) else dtype
    state = {name: checkpoint.read(name).to(place, kind).contiguous() for name in checkpoint.names}
    if adapter is not None:
        model = blank(merge_adapter(state, checkpoint.config, Path(adapter)))
    state[FRAMES] = state[FRAMES].clone()  # A copied buffer would carry its whole file along
    model.load_state_dict(state, strict=True, assign=True)
    model.stored = checkpoint.dtype
    return model.eval()


def save_model(
    model: Florence,
    folder: str | Path,
    layout: str = "florence2",
    dtype: str | torch.dtype | None = None,
    named_rows: int | None = None,
    image_id: int | None = None,
) -> None:
    """Write the weights and config files of a layout, in the model's own type unless `dtype` is given.

    `named_rows` is how many ids the tokenizer names, `image_id` its `<image>` or the next free id: Microsoft's layout
    keeps just the named rows, transformers' has a row for `<image>` too and is filled up to a multiple of 64 with the
    mean row; ours keeps the rows as they are.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r:.40}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind = model.dtype if dtype is None else to_dtype(dtype)
    state = {name: tensor.detach().to(kind) for name, tensor in model.state_dict().items()}
    config = model.config
    files: dict[str, dict[str, Any]] = {"config.json": {"format": "florence2", **to_json(config)}}
    if layout != "florence2":
        if config.image_id is None and image_id is not None and image_id < config.text.vocab_size:
            config = dataclasses.replace(config, image_id=image_id)
        config = _fit_rows(state, config, layout, named_rows)
        state = to_layout(state, config, layout)
        files = write_config(config, layout, str(kind).removeprefix("torch."))
    write(state, folder / SINGLE[0])
    for name, content in files.items():
        _write_json(folder / name, content)


def _check_positions(checkpoint: Checkpoint) -> None:
    """Refuse a model whose own pictures it could not read."""
    config, path = checkpoint.config, checkpoint.folder / "config.json"
    width, height = config.map_size_wh
    if max(width, height) > config.vision.max_side:
        raise ValueError(
            f"{path}: pictures of {config.image_size_wh} give {width} x {height} cells, expected at most "
            f"{config.vision.max_side} a side, as the position tables have; are config and weights of one model?"
        )
    if config.image_tokens >= config.text.max_positions:
        raise ValueError(
            f"{path}: a picture takes {config.image_tokens} positions, expected fewer than the text model's "
            f"{config.text.max_positions}, so that a prompt has room; are config and weights of one model?"
        )


def to_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A floating type by its name."""
    if isinstance(dtype, torch.dtype) and dtype in DTYPES.values():
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r:.80}")
    return DTYPES[dtype]


def _description(folder: Path) -> dict[str, Any]:
    """The config.json of a Florence-2 model."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with config.json and weights")
    path = folder / "config.json"
    if not path.is_file() and (folder / ADAPTER_CONFIG).is_file():
        raise ValueError(f"{folder}: is an adapter's folder; expected a whole model, with config.json and weights")
    data = read_json(path)
    if data.get("format") != "florence2" and data.get("model_type") != "florence2":
        raise ValueError(
            f"{path}: model_type: expected 'florence2', got {data.get('model_type')!r:.60}; another model?"
        )
    return data


def _fitted(folder: Path, data: dict[str, Any], tensors: TensorFolder) -> Checkpoint:
    """The checkpoint, if its config and its tensors fit one another."""
    path = folder / "config.json"
    layout = "florence2" if data.get("format") == "florence2" else detect_layout(tensors)
    if layout is None:
        raise ValueError(f"{tensors.source}: {next(iter(tensors), 'no key')}: expected the keys of a Florence-2 model")
    if layout == "florence2":
        try:
            config = from_json({key: value for key, value in data.items() if key != "format"})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return Checkpoint(folder, layout, config, tensors, _match(path, tensors, config, layout))
    names = {ours: key for ours, key in single_keys(layout).items() if key in tensors}
    copies = [key for key, ours in _copies(layout).items() if ours in (None, HEAD) and key in tensors]
    if copies:
        names.setdefault(EMBEDDING, copies[0])  # safetensors may keep any one of the tied names
    config = read_config(folder, layout, _sizes(tensors, names, layout))
    names = _match(path, tensors, config, layout, names)
    return _tied(Checkpoint(folder, layout, config, tensors, names), data)


def _copies(layout: str) -> dict[str, str | None]:
    """The keys under which a layout may hold the tied matrix again, the embedding's own first."""
    column = LAYOUTS.index(layout)
    prefix = single_keys(layout)[EMBEDDING].removesuffix("shared.weight")
    keys: dict[str, str | None] = {single_keys(layout)[HEAD]: HEAD}
    return keys | {f"{prefix}{side}.embed_tokens.weight": None for side in ("encoder", "decoder")} if column else {}


def _sizes(tensors: TensorFolder, names: dict[str, str], layout: str) -> dict[str, int]:
    """The sizes that only tensors show."""
    sizes = {}
    for size, (name, extra) in SIZES_FROM.items():
        if name not in names:
            raise ValueError(f"{tensors.source}: {single_keys(layout)[name]}: missing; expected a matrix")
        shape = tensors.shape(names[name])
        if len(shape) != 2 or shape[0] <= extra:
            raise ValueError(f"{tensors.where(names[name])}: expected a matrix, got shape {shape}")
        sizes[size] = shape[0] - extra
    return sizes


def _match(
    path: Path, tensors: TensorFolder, config: ModelConfig, layout: str, known: dict[str, str] | None = None
) -> dict[str, str]:
    """Our name -> the file's key; none missing, none unexpected, every shape as the config says."""
    layers = sum(config.vision.depths) + config.text.encoder_layers + config.text.decoder_layers
    if layers > len(tensors):
        raise ValueError(f"{path}: expected layers for {len(tensors)} tensors, got {layers}")
    table = key_table(config, layout)
    for key in tensors:
        if key not in table:
            raise ValueError(f"{tensors.where(key)}: unexpected: a model of {path} has no such key")
    names = (known or {}) | {ours: key for key, ours in table.items() if ours is not None and key in tensors}
    shapes = {name: tuple(tensor.shape) for name, tensor in blank(config).state_dict().items()}
    layout_keys = {ours: key for key, ours in table.items()}
    for name, shape in shapes.items():
        if name == PROJECTION and layout == "microsoft":
            shape = shape[::-1]
        if name not in names:
            raise ValueError(f"{tensors.source}: {layout_keys[name]}: missing; expected a tensor of shape {shape}")
        if tensors.shape(names[name]) != shape:
            got = tensors.shape(names[name])
            raise ValueError(f"{tensors.where(names[name])}: expected shape {shape} by config.json, got {got}")
    if config.text.tied_head and HEAD in names and layout == "florence2":
        raise ValueError(f"{tensors.where(HEAD)}: unexpected: config.json says text.tied_head true")
    return names


def _tied(checkpoint: Checkpoint, data: dict[str, Any]) -> Checkpoint:
    """Compare every copy of the tied matrix; a head trained apart is kept as a matrix of its own."""
    tensors, names, layout = checkpoint.tensors, dict(checkpoint.names), checkpoint.layout
    embedding, head = tensors[names[EMBEDDING]], names.pop(HEAD, None)
    config = checkpoint.config
    for key, ours in _copies(layout).items():
        if key not in tensors:
            continue
        if tensors.shape(key) != tuple(embedding.shape):
            raise ValueError(
                f"{tensors.where(key)}: expected {tuple(embedding.shape)} as the embedding, got {tensors.shape(key)}"
            )
        if not torch.equal(tensors[key], embedding):
            if ours is None:
                raise ValueError(f"{tensors.where(key)}: expected a copy of {names[EMBEDDING]}; the two differ")
            names[HEAD] = key
            config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied_head=False))
    part = data if layout == "transformers" else data.get("text_config", {})
    if part.get("tie_word_embeddings") is False and head is None:
        raise ValueError(
            f"{tensors.source}: {single_keys(layout)[HEAD]}: missing, and config.json says tie_word_embeddings false"
        )
    bias = "language_model.final_logits_bias"
    if bias in tensors and bool(tensors[bias].count_nonzero()):
        raise ValueError(f"{tensors.where(bias)}: expected zeros, got other values; this model adds no bias to logits")
    return dataclasses.replace(checkpoint, config=config, names=names)


def _fit_rows(state: dict[str, Tensor], config: ModelConfig, layout: str, named: int | None) -> ModelConfig:
    """Cut or fill the rows of the embedding, and of a head apart, to what a layout holds; the config that fits."""
    rows, image_id = config.text.vocab_size, config.image_id
    named = rows if named is None else min(named, rows)
    wanted = named
    if layout == "transformers":
        image_id = named if image_id is None else image_id
        wanted = -(-max(rows, image_id + 1) // 64) * 64
    else:
        if image_id is not None and named == image_id + 1 and _is_mean(state[EMBEDDING], image_id):
            wanted = image_id  # The placeholder's row was made by this function
        image_id = image_id if image_id is not None and image_id < wanted else None
    for name in (EMBEDDING, HEAD):
        if name in state:
            table = state[name]
            fill = _mean_row(table, named).expand(max(0, wanted - rows), -1)
            state[name] = torch.cat([table[:wanted], fill])
    return dataclasses.replace(config, image_id=image_id, text=dataclasses.replace(config.text, vocab_size=wanted))


def _mean_row(table: Tensor, rows: int) -> Tensor:
    return table[:rows].double().mean(0, keepdim=True).to(table.dtype)


def _is_mean(table: Tensor, row: int) -> bool:
    return torch.equal(table[row : row + 1], _mean_row(table, row))


def to_layout(state: dict[str, Tensor], config: ModelConfig, layout: str) -> dict[str, Tensor]:
    """The tensors under a layout's keys: Microsoft's holds every copy of the tied matrix, transformers' only one."""
    out = {}
    for key, ours in key_table(config, layout).items():
        if ours == PROJECTION and layout == "microsoft":
            out[key] = state[PROJECTION].t().contiguous()
        elif ours is not None and ours in state:
            out[key] = state[ours]
        elif layout == "microsoft" and key.endswith("final_logits_bias"):
            out[key] = torch.zeros_like(state[EMBEDDING][:, 0])[None]
        elif layout == "microsoft" or (ours is None and HEAD in state):
            out[key] = state[EMBEDDING].clone()
    return out


def _write_json(path: Path, data: object) -> None:
    write_atomic(path, json.dumps(data, indent=2) + "\n")

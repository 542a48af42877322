"""Folders that peft wrote: LoRA (Hu et al., arXiv 2106.09685), rsLoRA (2312.03732) and DoRA (2402.09353), merged.

An adapter may name modules as Microsoft's code, as transformers or as this package does. Merging is W + s*B@A, for
DoRA then each output's row set back to the trained length; the model afterwards is as fast as without an adapter.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from florence2.model.layouts import EMBEDDING, HEAD, LAYOUTS, key_table
from florence2.model.model_config import ModelConfig
from florence2.model.tensor_files import ADAPTER, INDEXES, LARGEST, LONGEST, SINGLE, TensorFolder, read_json
from florence2.structuring import brief

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
TOKENS = "token_adapter.trainable_tokens_delta"  # peft's key of rows that are trained as they are
PARTS = ("lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector")
ON_EMBEDDING = "an adapter on the tied embedding cannot be merged; train without it"
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")  # ways to start that change the base's weights as well


def adapter_base(folder: Path) -> tuple[str, str | None] | None:
    """The base that an adapter's folder names, with its revision; None for a folder that is no adapter."""
    if not (folder / CONFIG).is_file() or any((folder / name).is_file() for name in (*SINGLE, *INDEXES)):
        return None
    data = read_json(folder / CONFIG)
    name = data.get("base_model_name_or_path")
    if not isinstance(name, str) or not 0 < len(name) < 1000 or not name.isprintable():
        raise ValueError(
            f"{folder / CONFIG}: base_model_name_or_path: expected a folder or a hub id, got {name!r:.60}; "
            "give the base and this folder as its adapter"
        )
    if (folder / name).is_dir():
        name = str(folder / name)  # as written by whoever moved the two together
    revision = data.get("revision")
    return name, revision if isinstance(revision, str) else None


def merge_adapter(state: dict[str, Tensor], config: ModelConfig, folder: Path) -> ModelConfig:
    """Add an adapter to the tensors of its base, by our names, in place; the config of what came out."""
    settings = _settings(folder / CONFIG)
    tensors = TensorFolder(folder, ADAPTER, ())
    tensors.check()
    names = {key: ours for layout in LAYOUTS for key, ours in key_table(config, layout).items()}
    loras: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}  # trained as they are: biases, modules_to_save
    for key in tensors:
        path = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if path.endswith(f".{TOKENS}") and names.get(f"{path.removesuffix(f'.{TOKENS}')}.weight") in (EMBEDDING, HEAD):
            _put_rows(state, path.removesuffix(f".{TOKENS}"), tensors[key], names, settings, folder)
            continue
        part = next((part for part in PARTS if path.endswith(f".{part}") or f".{part}." in path), None)
        module = path.split(f".{part}")[0] if part else path
        if ".lora_embedding_" in path or ".trainable_tokens" in path:
            raise ValueError(f"{tensors.where(key)}: {ON_EMBEDDING}")
        if (f"{module}.weight" if part else module) not in names or ".lora_" in module:
            raise ValueError(f"{tensors.where(key)}: unexpected: a Florence-2 model has no such module to adapt")
        if part is not None:
            loras.setdefault(module, {})[part] = tensors[key]
        elif ".base_layer." not in key or not _is_embedding(tensors[key], state[EMBEDDING]):
            whole[module] = tensors[key]
    config = _replace(state, config, whole, names, tensors)
    for module, parts in loras.items():
        ours = names[f"{module}.weight"]
        where = f"{tensors.source}: {PREFIX}{module}"
        if ours in (None, EMBEDDING):
            raise ValueError(f"{where}: {ON_EMBEDDING}")
        if ours == HEAD and HEAD not in state:  # From here on the head is a matrix of its own
            state[HEAD] = state[EMBEDDING].clone()
            config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied_head=False))
        missing = [part for part in PARTS[:2] if part not in parts]
        if missing or ("lora_magnitude_vector" in parts) != bool(settings.get("use_dora")):
            raise ValueError(f"{where}: expected lora_A and lora_B, and with use_dora a magnitude; got {sorted(parts)}")
        scale = _scale(settings, module, rank=len(parts["lora_A.weight"]))
        merged = _merged_head if ours == HEAD else _merged
        state[str(ours)] = merged(state[str(ours)], parts, scale, where)
        if "lora_B.bias" in parts:
            bias = str(ours).removesuffix("weight") + "bias"
            if bias not in state:
                raise ValueError(f"{where}: lora_B.bias: unexpected: this module has no bias to add it to")
            state[bias] = state[bias] + scale * parts["lora_B.bias"].to(state[bias])
    return config


def respelled(folder: Path, config: ModelConfig, layout: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An adapter's settings and tensors with its modules named as `layout` does; ValueError where that is not all of
    it: whole matrices beside the adapter, or a module that is no layer there."""
    settings, tensors = dict(_settings(folder / CONFIG)), TensorFolder(folder, ADAPTER, ())
    tensors.check()
    ours = {key: name for spelling in LAYOUTS for key, name in key_table(config, spelling).items()}
    theirs = {name: key for key, name in key_table(config, layout).items() if name is not None}
    out: dict[str, Tensor] = {}
    modules = set()
    for key in tensors:
        path = key.removeprefix(PREFIX)
        part = next((part for part in PARTS if path.endswith(f".{part}")), None)
        name = ours.get(f"{path.removesuffix(f'.{part}')}.weight")
        target = theirs.get(name or "", "")
        if part is None or not target.endswith(".weight"):
            raise ValueError(
                f"{tensors.where(key)}: has no layer of its own in the layout {layout}; merge the adapter instead: "
                "florence2 convert BASE DST --adapter FOLDER"
            )
        module = target.removesuffix(".weight")
        modules.add(module)
        out[f"{PREFIX}{module}.{part}"] = tensors[key]
    for key in ("rank_pattern", "alpha_pattern"):
        if settings.get(key):
            raise ValueError(f"{folder / CONFIG}: {key}: names modules by patterns; merge the adapter instead")
    return {**settings, "target_modules": sorted(modules)}, out


def _merged(weight: Tensor, parts: dict[str, Tensor], scale: float, where: str) -> Tensor:
    """One matrix, or kernel, with its adapter; computed in float32."""
    down, up = parts["lora_A.weight"].float(), parts["lora_B.weight"].float()
    base = weight.float()
    if len(down) != up.shape[1] or (up.shape[0], *down.shape[1:]) != tuple(base.shape):
        raise ValueError(
            f"{where}: expected matrices whose product is {tuple(base.shape)}, got {tuple(down.shape)} and "
            f"{tuple(up.shape)}; is this its base?"
        )
    sum_ = base + scale * (up.flatten(1) @ down.flatten(1)).view_as(base).to(base.device)
    if "lora_magnitude_vector" in parts:
        length = parts["lora_magnitude_vector"].float().to(base.device).flatten()
        sum_ *= (length / sum_.flatten(1).norm(dim=1)).view(-1, *[1] * (base.ndim - 1))
    return sum_.to(weight.dtype)


def _merged_head(weight: Tensor, parts: dict[str, Tensor], scale: float, where: str) -> Tensor:
    """The head with its adapter, whose own base may have had more or fewer rows of padding."""
    rows = min(len(weight), len(parts["lora_B.weight"]))
    fitting = {part: tensor if part == "lora_A.weight" else tensor[:rows] for part, tensor in parts.items()}
    return torch.cat([_merged(weight[:rows], fitting, scale, where), weight[rows:]])


def _is_embedding(tensor: Tensor, embedding: Tensor) -> bool:
    """Whether it is the embedding, but for rows of padding: peft saves the head's tied matrix beside its adapter."""
    rows = min(len(tensor), len(embedding))
    return tensor.shape[1:] == embedding.shape[1:] and torch.equal(tensor[:rows].to(embedding), embedding[:rows])


def _replace(
    state: dict[str, Tensor],
    config: ModelConfig,
    whole: dict[str, Tensor],
    names: dict[str, Any],
    tensors: TensorFolder,
) -> ModelConfig:
    """Put tensors that an adapter holds whole in the place of the base's; a longer vocabulary comes along."""
    text = config.text
    for key in sorted(whole, key=lambda key: names[key] == HEAD):  # the embedding first
        ours, tensor = names[key], whole[key].t() if key == "image_projection" else whole[key]
        if ours is None:
            continue
        base = state[EMBEDDING] if ours == HEAD else state[ours]
        longer = ours in (EMBEDDING, HEAD) and tensor.shape[1:] == base.shape[1:]
        if not longer and tensor.shape != base.shape:
            wanted, got = tuple(base.shape), tuple(tensor.shape)
            raise ValueError(f"{tensors.where(PREFIX + key)}: expected shape {wanted}, got {got}")
        state[ours] = torch.cat([tensor.to(base), base[len(tensor) :]])  # or shorter: the rest is the base's padding
    for key, tensor in whole.items():
        if names[key] is None and not torch.equal(tensor.to(state[EMBEDDING]), state[EMBEDDING][: len(tensor)]):
            raise ValueError(f"{tensors.where(PREFIX + key)}: expected a copy of the embedding; the two differ")
    if HEAD in state:
        if len(state[HEAD]) != len(state[EMBEDDING]):
            raise ValueError(f"{tensors.source}: lm_head: expected {len(state[EMBEDDING])} rows as the embedding has")
        text = dataclasses.replace(text, tied_head=torch.equal(state[HEAD], state[EMBEDDING]))
        if text.tied_head:
            del state[HEAD]
    return dataclasses.replace(config, text=dataclasses.replace(text, vocab_size=len(state[EMBEDDING])))


def _put_rows(
    state: dict[str, Tensor],
    module: str,
    rows: Tensor,
    names: dict[str, Any],
    settings: dict[str, Any],
    folder: Path,
) -> None:
    """Put the rows that an adapter trained in the place of the base's; peft names them by a module's last names."""
    where = f"{folder / CONFIG}: trainable_token_indices"
    indices = settings.get("trainable_token_indices")
    found = [ids for name, ids in indices.items() if f".{module}".endswith(f".{name}")] if indices else []
    name = str(names[f"{module}.weight"])
    if name not in state:
        raise ValueError(f"{where}: {module}: {ON_EMBEDDING}")
    if len(found) != 1 or len(found[0]) != len(rows) or rows.shape[1:] != state[name].shape[1:]:
        raise ValueError(f"{where}: expected {len(rows)} ids for {module}, got {found!r:.80}")
    if not all(0 <= index < len(state[name]) for index in found[0]):
        raise ValueError(f"{where}: the base holds {len(state[name])} rows, got {max(found[0])}; is this its base?")
    state[name] = state[name].clone()
    state[name][found[0]] = rows.to(state[name])


def _settings(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if data.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type: expected 'LORA', got {data.get('peft_type')!r:.40}")
    start = data.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise ValueError(f"{path}: init_lora_weights: {start!r} changed the base's weights; save it converted to LoRA")
    if data.get("fan_in_fan_out"):
        raise ValueError(f"{path}: fan_in_fan_out: expected false; no layer of Florence-2 is transposed")
    for key in ("r", "lora_alpha"):
        if not isinstance(data.get(key), (int, float)) or not 0 < data[key] < LARGEST:
            raise ValueError(f"{path}: {key}: expected a positive number, got {brief(data.get(key))}")
    patterns = data.get("alpha_pattern") or {}
    numbers = patterns.values() if isinstance(patterns, dict) else (None,)
    if not all(isinstance(value, (int, float)) and 0 < value < LARGEST for value in numbers):
        raise ValueError(f"{path}: alpha_pattern: expected patterns and positive numbers, got {brief(patterns)}")
    for pattern in patterns:
        if not _is_pattern(pattern):
            raise ValueError(f"{path}: alpha_pattern: expected a name or a simple pattern, got {brief(pattern)}")
    return data


def _is_pattern(pattern: str) -> bool:
    """Whether it is a regular expression that no module's name can keep busy: no repeated group, few repetitions."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    repeated = re.findall(r"(?<!\\)[*+{]", pattern)
    return len(pattern) <= LONGEST and len(repeated) <= 3 and not re.search(r"\)\s*[*+{?]|\\\d|\(\?(?!:)", pattern)


def _scale(settings: dict[str, Any], module: str, rank: int) -> float:
    """alpha / rank, for rsLoRA alpha / sqrt(rank); a pattern may give a module an alpha of its own."""
    alpha = settings["lora_alpha"]
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha / (rank**0.5 if settings.get("use_rslora") else rank))

"""Low-rank adapters by peft on our plain module: put in, saved in the spelling of the checkpoint that was started from.

Hu et al., arXiv 2106.09685; DoRA 2402.09353; rsLoRA 2312.03732. The tied head and the embedding are never adapted: an
adapter on a tied matrix cannot be merged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import nn

from florence2.model.adapter import CONFIG, PREFIX
from florence2.model.checkpoint import open_checkpoint
from florence2.model.florence import Florence
from florence2.model.layouts import HEAD, LAYOUTS, key_table
from florence2.model.model_config import ModelConfig
from florence2.predictor import checkpoints
from florence2.training.config import LoraConfig

if TYPE_CHECKING:
    from florence2.training.setup import Start

WEIGHTS = "adapter_model.safetensors"
NAME = "default"
BASE = "base"


def layout_of(base: Path | None) -> str:
    """The layout of the checkpoint that is started from."""
    return open_checkpoint(base).layout if base is not None else "florence2"


def module_names(config: ModelConfig, layout: str) -> dict[str, str]:
    """Our name of every module with a weight -> the layout's name."""
    table = {ours: key for key, ours in key_table(config, layout).items() if ours is not None}
    ending = ".weight"
    return {
        ours.removesuffix(ending): key.removesuffix(ending)
        for ours, key in table.items()
        if ours.endswith(ending) and key.endswith(ending)
    }


def targets_of(model: Florence, targets: list[str], layout: str, vision: bool = True) -> list[str]:
    """Our names of the modules that the targets name, without `vision` none of the tower's; ValueError where a target
    matches none that can be adapted."""
    spellings = {name: module_names(model.config, name) for name in LAYOUTS}
    own = spellings[layout]
    layers = {
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1))
        and name in own
        and f"{name}.weight" != HEAD
        and (vision or not name.startswith("vision_tower."))
    }
    chosen: set[str] = set()
    for target in targets:
        found = {
            name
            for name in layers
            for names in spellings.values()
            if name in names and f".{names[name]}".endswith(f".{target}") or f".{name}".endswith(f".{target}")
        }
        if not found:
            head = " (the tied head cannot be adapted)" if target in ("head", "lm_head", "shared", "embedding") else ""
            some = ", ".join(sorted({own[name].rsplit(".", 1)[-1] for name in layers}))
            raise ValueError(
                f"lora.targets: {target!r} names no linear layer{head}; expected ends of names such as {some}"
            )
        chosen |= found
    return sorted(chosen)


def put_in(model: Florence, config: LoraConfig, layout: str) -> None:
    """Add the adapter to the model in place and freeze all else."""
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    inject_adapter_in_model(
        PeftConfig(**_settings(config, targets_of(model, config.targets, layout, config.vision))), model, NAME
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)


def write(model: Florence, folder: Path, config: LoraConfig, start: Start | None, out: Path) -> None:
    """adapter_config.json and adapter_model.safetensors for the checkpoint that was started from."""
    layout = layout_of(start.found.base if start else None)
    names = module_names(model.config, layout)
    tensors = {}
    for name, parameter in model.named_parameters():
        module, mark, rest = name.partition(".lora_")
        if mark:
            part = rest.replace(f".{NAME}", "").replace("magnitude_vector.weight", "magnitude_vector")
            tensors[f"{PREFIX}{names[module]}.lora_{part}"] = parameter.detach().cpu().contiguous()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    modules = sorted({names[name.partition(".lora_")[0]] for name, _ in model.named_parameters() if ".lora_" in name})
    base = {"base_model_name_or_path": base_name(start, out), "revision": (start.revision or None) if start else None}
    data = {"peft_type": "LORA", "task_type": None, "inference_mode": True, **_settings(config, modules), **base}
    (folder / CONFIG).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def base_name(start: Start | None, out: Path) -> str:
    """How an adapter names its base: the name of a shipped model or a hub id, else the folder's absolute path."""
    assert start is not None  # the config asks for a model that is there
    if start.found.adapter is not None:
        return str((out / BASE).resolve())
    return (
        start.source if start.source == "nano" or not Path(start.source).exists() else str(start.found.base.resolve())
    )


def keep_base(start: Start | None, out: Path) -> None:
    """Where the start is itself an adapter: the merged model whole in OUT/base, for the new adapter to stand on."""
    if start is None or start.found.adapter is None or (out / BASE).is_dir():
        return
    new = out / f"{BASE}.new"
    parts = checkpoints.open_parts(start.found)
    checkpoints.save(parts.model, parts.tokenizer, parts.tasks, new, layout_of(start.found.base), start.found.home)
    new.rename(out / BASE)


def _settings(config: LoraConfig, modules: list[str]) -> dict[str, Any]:
    """peft's own names of the settings."""
    settings: Mapping[str, Any] = {
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": modules,
        "use_dora": config.dora,
        "use_rslora": config.rslora,
        "bias": "none",
    }
    return dict(settings)

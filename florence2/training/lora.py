"""Low-rank adapters by peft on our plain module: put in, saved in the spelling of the checkpoint that was started from.

Hu et al., arXiv 2106.09685; DoRA 2402.09353; rsLoRA 2312.03732. The tied head and the embedding are never adapted: an
adapter on a tied matrix cannot be merged.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import nn

from florence2.model.adapter import CONFIG, PREFIX, TOKENS
from florence2.model.checkpoint import open_checkpoint
from florence2.model.florence import Florence
from florence2.model.layouts import HEAD, LAYOUTS, key_table
from florence2.model.model_config import ModelConfig
from florence2.predictor import checkpoints
from florence2.training.config import LoraConfig, TrainConfig

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


def write(model: Florence, folder: Path, run: TrainConfig, start: Start | None, own_rows: Mapping[str, slice]) -> None:
    """adapter_config.json and adapter_model.safetensors for the checkpoint that was started from, or OUT/base."""
    config = run.lora
    assert config is not None
    layout = layout_of(start.found.base if start else None)
    names = module_names(model.config, layout)
    tensors = {}
    for name, parameter in model.named_parameters():
        module, mark, rest = name.partition(".lora_")
        if mark:
            part = rest.replace(f".{NAME}", "").replace("magnitude_vector.weight", "magnitude_vector")
            tensors[f"{PREFIX}{names[module]}.lora_{part}"] = parameter.detach().cpu().contiguous()
    tokens: dict[str, list[int]] = {}
    for name, rows in own_rows.items():
        module = names[name.removesuffix(".weight")]
        tensors[f"{PREFIX}{module}.{TOKENS}"] = model.get_parameter(name)[rows].detach().cpu().contiguous()
        tokens[module.rsplit(".", 1)[-1]] = list(range(rows.start, rows.stop))
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    modules = sorted({names[name.partition(".lora_")[0]] for name, _ in model.named_parameters() if ".lora_" in name})
    base = {"base_model_name_or_path": base_name(start, run), "revision": (start.revision or None) if start else None}
    data = {"peft_type": "LORA", "task_type": None, "inference_mode": True, **_settings(config, modules), **base}
    data |= {"trainable_token_indices": tokens} if tokens else {}
    (folder / CONFIG).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def base_name(start: Start | None, run: TrainConfig) -> str:
    """How an adapter names its base: the name of a shipped model or a hub id, else the folder's absolute path."""
    assert start is not None  # the config asks for a model that is there
    if start.found.adapter is not None or run.new_tokens:
        return str((Path(run.out) / BASE).resolve())
    named = start.source in checkpoints.SHIPPED_NAMES or not Path(start.source).exists()
    return start.source if named else str(start.found.base.resolve())


def keep_base(start: Start | None, parts: Callable[[], checkpoints.Parts], run: TrainConfig) -> None:
    """Where the start is itself an adapter, or new tokens were added: the model whole in OUT/base, for the new adapter
    to be put on."""
    out = Path(run.out)
    if start is None or not (start.found.adapter or run.new_tokens) or (out / BASE).is_dir():
        return
    new = out / f"{BASE}.new"
    model, tokenizer, tasks = parts()
    home = None if run.new_tokens else start.found.home
    checkpoints.save(model, tokenizer, tasks, new, layout_of(start.found.base), home)
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

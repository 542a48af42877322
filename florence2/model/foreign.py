"""The config files of the published layouts, read into ModelConfig and written from it. Tables first; no tensors.

A key that is absent means what the layout's own code takes it for; what this model cannot do is refused by its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence2.model.model_config import IMAGENET_MEAN, IMAGENET_STD, RULES, ModelConfig, TextConfig, VisionConfig
from florence2.model.tensor_files import read_json

RULES_KEY = "florence2_rules"  # ours in their config.json, so that a conversion keeps what `predict` decodes by

# our field, its key (the remote code's, the native one's), the default of the remote code and of transformers
_STAGES = (1, 1, 9, 1)
VISION = (
    ("dims", ("dim_embed", "embed_dim"), (256, 512, 1024, 2048), (128, 256, 512, 1024)),
    ("depths", ("depths",), _STAGES, _STAGES),
    ("heads", ("num_heads",), (8, 16, 32, 64), (4, 8, 16, 32)),
    ("groups", ("num_groups",), (8, 16, 32, 64), (4, 8, 16, 32)),
    ("window", ("window_size",), 12, 12),
    ("patch_sizes", ("patch_size",), (7, 3, 3, 3), (7, 3, 3, 3)),
    ("patch_strides", ("patch_stride",), (4, 2, 2, 2), (4, 2, 2, 2)),
    ("patch_paddings", ("patch_padding",), (3, 1, 1, 1), (3, 1, 1, 1)),
    ("patch_prenorm", ("patch_prenorm",), (False, True, True, True), (False, True, True, True)),
    ("mlp_ratio", ("mlp_ratio",), 4.0, 4.0),
    ("drop_path", ("drop_path_rate",), 0.1, 0.1),
)
TEXT = (
    ("d_model", ("d_model",), 1024, 1024),
    ("encoder_layers", ("encoder_layers",), 12, 12),
    ("decoder_layers", ("decoder_layers",), 12, 12),
    ("encoder_heads", ("encoder_attention_heads",), 16, 16),
    ("decoder_heads", ("decoder_attention_heads",), 16, 16),
    ("encoder_ffn", ("encoder_ffn_dim",), 4096, 4096),
    ("decoder_ffn", ("decoder_ffn_dim",), 4096, 4096),
    ("dropout", ("dropout",), 0.1, 0.1),
    ("attention_dropout", ("attention_dropout",), 0.0, 0.0),
    ("activation_dropout", ("activation_dropout",), 0.0, 0.0),
)
# our field, its key, the official value, what transformers takes an absent key for
GENERATION = (
    ("num_beams", "num_beams", 3, 1),
    ("no_repeat_ngram_size", "no_repeat_ngram_size", 3, 0),
    ("early_stopping", "early_stopping", True, False),
    ("length_penalty", "length_penalty", 1.0, 1.0),
    ("forced_bos_id", "forced_bos_token_id", 0, None),
    ("forced_eos_id", "forced_eos_token_id", 2, None),
)
IDS = (
    ("bos_id", "bos_token_id", 0),
    ("pad_id", "pad_token_id", 1),
    ("eos_id", "eos_token_id", 2),
    ("start_id", "decoder_start_token_id", 2),
)
# where, key, the only values that this model knows; absent is right as well
FIXED = (
    ("vision_config", "model_type", ("davit", "florence_vision", "")),
    ("vision_config", "activation_function", ("gelu",)),
    ("vision_config", "qkv_bias", (True,)),
    ("vision_config", "in_channels", (3,)),
    ("vision_config", "image_feature_source", (["spatial_avg_pool", "temporal_avg_pool"],)),
    ("text_config", "model_type", ("florence2_language", "bart", "")),
    ("text_config", "activation_function", ("gelu",)),
    ("text_config", "scale_embedding", (False,)),
    ("text_config", "normalize_before", (False,)),
    ("text_config", "add_final_layer_norm", (False,)),
    ("text_config", "add_bias_logits", (False,)),
)
PREPROCESSING = (  # of preprocessor_config.json
    ("do_resize", (True,)),
    ("do_rescale", (True,)),
    ("do_normalize", (True,)),
    ("do_center_crop", (False,)),
    ("resample", (3,)),
    ("rescale_factor", (1 / 255,)),
)


def read_config(folder: Path, layout: str, sizes: Mapping[str, int]) -> ModelConfig:
    """The config of a folder in a published layout; `sizes` (vocab_size, max_positions, max_side, max_frames) come
    from its tensors, whatever its name or config says."""
    path = folder / "config.json"
    data = read_json(path)
    for where, key, known in FIXED:
        part = _part(path, data, where)
        if part.get(key) is not None and part[key] not in known:
            raise ValueError(f"{path}: {where}.{key}: expected {_either(known)}, got {part[key]!r:.80}")
    vision = _fields(path, data, "vision_config", VISION, layout)
    text = _fields(path, data, "text_config", TEXT, layout)
    width = _part(path, data, "vision_config").get("projection_dim")
    if width is not None and width != text["d_model"]:
        raise ValueError(
            f"{path}: vision_config.projection_dim: expected text_config.d_model, {text['d_model']}, got {width!r:.20}"
        )
    try:
        return ModelConfig(
            VisionConfig(**vision, max_side=sizes["max_side"], max_frames=sizes["max_frames"]),
            TextConfig(**text, vocab_size=sizes["vocab_size"], max_positions=sizes["max_positions"]),
            image_id=_image_id(data, sizes["vocab_size"]),
            rules=data[RULES_KEY] if data.get(RULES_KEY) in RULES else "official",
            **_preprocessing(folder),
            **_generation(folder, data, layout),
        )
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(folder)) else f"{path}: {error}") from None


def write_config(config: ModelConfig, layout: str, dtype: str) -> dict[str, dict[str, Any]]:
    """File name -> content: the files beside the weights in a published layout."""
    column = {"microsoft": 0, "transformers": -1}[layout]
    vision = {keys[column]: _plain(getattr(config.vision, ours)) for ours, keys, *_ in VISION}
    text = {keys[column]: getattr(config.text, ours) for ours, keys, *_ in TEXT}
    ids = {key: getattr(config, ours) for ours, key, _ in IDS}
    generation = {key: getattr(config, ours) for ours, key, *_ in GENERATION}
    text |= {"vocab_size": config.text.vocab_size, "max_position_embeddings": config.text.max_positions, **ids}
    text |= {"num_hidden_layers": config.text.encoder_layers, "activation_function": "gelu", "scale_embedding": False}
    text |= {"is_encoder_decoder": True, "tie_word_embeddings": config.text.tied_head}
    vision["projection_dim"] = config.text.d_model
    top: dict[str, Any] = {
        "architectures": ["Florence2ForConditionalGeneration"],
        "model_type": "florence2",
        "is_encoder_decoder": True,
        "tie_word_embeddings": config.text.tied_head,
        RULES_KEY: config.rules,
    }
    if layout == "microsoft":
        return {
            "config.json": top
            | _microsoft_top(config)
            | {
                "torch_dtype": dtype,
                "text_config": text | {"model_type": "florence2_language", **generation},
                "vision_config": vision | _microsoft_vision(config.vision),
            },
            "preprocessor_config.json": _preprocessor(config),
        }
    native = {
        "model_type": "florence_vision",
        "max_position_embeddings": config.vision.max_side,
        "max_temporal_embeddings": config.vision.max_frames,
    }
    top |= {"image_token_id": config.image_id, "dtype": dtype}
    return {
        "config.json": top | {"text_config": text | {"model_type": "bart"}, "vision_config": vision | native},
        "generation_config.json": {**ids, **generation},
        "preprocessor_config.json": _preprocessor(config),
    }


def _fields(path: Path, data: Mapping[str, Any], where: str, rows: Any, layout: str) -> dict[str, Any]:
    part = _part(path, data, where)
    values = {}
    for ours, keys, remote, native in rows:
        key = next((key for key in keys if part.get(key) is not None), keys[0])
        value = part.get(key)
        default = remote if layout == "microsoft" else native
        values[ours] = default if value is None else _like(default, value, f"{path}: {where}.{key}")
    return values


def _generation(folder: Path, data: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """The decoding rules where each layout keeps them, and the special ids, which only text_config gets right."""
    text = _part(folder / "config.json", data, "text_config")
    path = folder / "generation_config.json"
    official = layout == "microsoft" or not path.is_file()
    rules, place = (
        (text, folder / "config.json") if layout == "microsoft" else (read_json(path) if not official else {}, path)
    )
    values: dict[str, Any] = {}
    for ours, key, ruled, absent in GENERATION:
        default = ruled if official else absent
        value = rules.get(key, default)
        if value is None and not ours.startswith("forced"):
            value = default
        as_is = value is None or (ours == "early_stopping" and value == "never")
        values[ours] = value if as_is else _like(ruled, value, f"{place}: {key}")
    for ours, key, ruled in IDS:
        value = text.get(key)
        values[ours] = ruled if value is None else _like(ruled, value, f"{folder / 'config.json'}: text_config.{key}")
    return values


def _preprocessing(folder: Path) -> dict[str, Any]:
    """Picture size and statistics, out of preprocessor_config.json or what newer transformers write in its place."""
    path, data = folder / "preprocessor_config.json", {}
    if path.is_file():
        data = read_json(path)
    elif (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        data = read_json(path).get("image_processor") or {}
    for key, known in PREPROCESSING:
        if data.get(key) is not None and data[key] not in known:
            raise ValueError(f"{path}: {key}: expected {_either(known)}, got {data[key]!r:.60}")
    size = data.get("size") or {"height": 768, "width": 768}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    if not isinstance(size, dict) or not all(isinstance(size.get(k), int) and size[k] > 0 for k in ("height", "width")):
        raise ValueError(f"{path}: size: expected height and width in pixels, got {size!r:.60}")
    values: dict[str, Any] = {"image_size_wh": (size["width"], size["height"])}
    for ours, default in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD)):
        value = data.get(ours)
        values[ours] = default if value is None else _like(default, value, f"{path}: {ours}")
    return values


def _preprocessor(config: ModelConfig) -> dict[str, Any]:
    width, height = config.image_size_wh
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor",
        "image_seq_length": config.image_tokens,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_center_crop": False,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(config.image_mean),
        "image_std": list(config.image_std),
        "do_convert_rgb": None,
    }


def _microsoft_top(config: ModelConfig) -> dict[str, Any]:
    source = "microsoft/Florence-2-base--"
    return {
        "auto_map": {
            "AutoConfig": f"{source}configuration_florence2.Florence2Config",
            "AutoModelForCausalLM": f"{source}modeling_florence2.Florence2ForConditionalGeneration",
        },
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
        "pad_token_id": config.pad_id,
        "ignore_index": -100,
        "projection_dim": config.text.d_model,
        "vocab_size": config.text.vocab_size,
    }


def _microsoft_vision(vision: VisionConfig) -> dict[str, Any]:
    return {
        "model_type": "davit",
        "enable_checkpoint": False,
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": vision.max_side},
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": vision.max_frames},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }


def _image_id(data: Mapping[str, Any], vocab_size: int) -> int | None:
    value = data.get("image_token_id")
    return value if isinstance(value, int) and 0 <= value < vocab_size else None


def _part(path: Path, data: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    part = data.get(where, {})
    if not isinstance(part, Mapping):
        raise ValueError(f"{path}: {where}: expected an object, got {part!r:.60}")
    return part


def _like(default: Any, value: Any, where: str) -> Any:
    """`value` if it is of the kind that `default` is, tuples by their items."""
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where}: expected a list, got {value!r:.60}")
        return tuple(_like(default[0], item, where) for item in value)
    kind = type(default)
    right = isinstance(value, bool) == (kind is bool) and isinstance(value, (int, float) if kind is float else kind)
    if not right or (kind is int and not 0 <= value < 2**31) or (kind is float and not abs(value) < 1e300):
        raise ValueError(f"{where}: expected {'a whole number' if kind is int else kind.__name__}, got {value!r:.60}")
    return float(value) if kind is float else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _either(known: tuple[Any, ...]) -> str:
    return " or ".join(repr(value) for value in known)

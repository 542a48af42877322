"""Opening a transformers model by hub id or folder: what all its backends share. Only `load` loads the library."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florence2.engine.specialists.requirements import sha256_of, version_of
from florence2.labels import one_line
from florence2.structuring import parse_json

WEIGHTS = ("*.safetensors", "*.bin")


def version(specialist: str) -> str:
    """The version of transformers, which with the weights says what a backend computes."""
    return version_of("transformers", specialist, "specialists")


def weights_sha256(model: str, revision: str) -> str:
    """The hash of a folder's weights, or of a hub id and its revision."""
    folder = Path(model)
    if folder.is_dir():
        files = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
        if not files:
            raise FileNotFoundError(
                f"{model}: expected *.safetensors or *.bin, found none; give a model's folder or hub id"
            )
        check(model, _config_of(folder))
        return sha256_of(files)
    return hashlib.sha256(f"{model}@{revision}".encode()).hexdigest()


def check(model: str, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that would need timm or torchvision."""
    backbone = (
        config.get("use_timm_backbone") or (config.get("backbone_config") or {}).get("model_type") == "timm_backbone"
    )
    if backbone:
        raise ValueError(
            f"{model}: config.json: expected a backbone of transformers, got one of timm, which is not supported; "
            "take the checkpoint's revision no_timm, or convert it (use_timm_backbone: false)"
        )
    if str(config.get("model_type", "")).startswith(("sam2", "sam3", "edgetam")):
        raise ValueError(
            f"{model}: config.json: {config['model_type']} needs torchvision, which is not supported; use sam"
        )


def load(
    model: str, revision: str, device: str, auto_model: str, auto_processor: str = "AutoProcessor"
) -> tuple[Any, Any]:
    """The processor, and the model in evaluation mode on `device`; an OSError says how to give a local folder."""
    import transformers

    kwargs: dict[str, Any] = {"trust_remote_code": False, **({"revision": revision} if revision else {})}  # nor ask
    try:
        config = transformers.AutoConfig.from_pretrained(model, **kwargs).to_dict()
    except (OSError, ImportError, ValueError) as error:
        raise _unopened(model, error) from None
    check(model, config)
    try:
        processor = getattr(transformers, auto_processor).from_pretrained(model, **kwargs)
        loaded = getattr(transformers, auto_model).from_pretrained(model, **kwargs)
    except (OSError, ImportError) as error:
        raise _unopened(model, error) from None
    return processor, loaded.eval().to(device)


class TransformersModel:
    """What the specialists behind a transformers model share: opened by `setup`, dropped by `close`."""

    auto_model = ""  # class of transformers that opens the model
    auto_processor = "AutoProcessor"

    def __init__(self, model: str, revision: str) -> None:
        self.model, self.revision = model, revision
        self.weights_sha256 = weights_sha256(model, revision)
        self._loaded: tuple[Any, Any] | None = None

    def setup(self, device: str) -> None:
        """Load the model and its processor."""
        self._loaded = load(self.model, self.revision, device, self.auto_model, self.auto_processor)

    @property
    def loaded(self) -> tuple[Any, Any]:
        """The processor and the model."""
        assert self._loaded is not None, "setup comes before annotate"
        return self._loaded

    def close(self) -> None:
        """Drop the model."""
        self._loaded = None


def _unopened(model: str, error: Exception) -> OSError:
    reason = one_line(error)
    return OSError(f"{model}: cannot be opened by transformers ({reason}); give a local folder or a reachable id")


def move(inputs: Any, device: Any) -> Any:
    """Processor outputs on the model's device."""
    return inputs.to(device) if hasattr(inputs, "to") else inputs


def sizes(images: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """(height, width) of each picture, as the library's post-processing takes them."""
    return [(image.shape[0], image.shape[1]) for image in images]


def number(specialist: str, key: str, value: Any, low: float = 0.0, high: float = 1.0) -> float:
    """A setting within its range, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{specialist}: {key}: expected a number from {low:g} to {high:g}, got {value!r}")
    return float(value)


def _config_of(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; a model's folder has config.json beside its weights") from None
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got {error}") from None
    return config if isinstance(config, dict) else {}

"""The card of an ONNX detector: a small YAML that says how pictures go in and how boxes come out.

name: yolox-nano
version: "1"
model: yolox_nano.onnx        # paths are relative to the card
classes: coco.names           # a file, one a line, or a list
input: {size: [416, 416], channels: bgr, scale: 1, letterbox: top-left, pad: 114}
output: {decode: yolox, strides: [8, 16, 32]}
score: 0.3
nms: 0.45
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from florence2.formats import documents
from florence2.structuring import Mismatch, structure

LETTERBOXES = ("top-left", "center", "none")
CHANNELS = ("rgb", "bgr")
LABELS = ("classes", "labels")  # whose lists and maps hold words: a class called no is no truth value


@dataclass(frozen=True)
class InputCard:
    """x = (pixels * scale - mean) / std, of an image resized to `size` (width, height)."""

    size: tuple[int, int]
    channels: str = "rgb"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    letterbox: str = "none"  # "none" stretches the picture; the others keep its aspect and pad
    pad: float = 114.0
    name: str = ""  # the graph's input; "" = its first

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise Mismatch(f"expected [width, height] in pixels, got {list(self.size)}", "size")
        for key, value, allowed in (("letterbox", self.letterbox, LETTERBOXES), ("channels", self.channels, CHANNELS)):
            if value not in allowed:
                raise Mismatch(f"expected one of {', '.join(allowed)}, got {value!r}", key)
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, 3):
                raise Mismatch(f"expected one number or three, got {list(values)}", key)
        _check_range("scale", self.scale, 1e-6, 1e6)
        _check_range("pad", self.pad, 0, 255)


@dataclass(frozen=True)
class OutputCard:
    """How the outputs are read; `boxes`, `scores` and `labels` name outputs where they come apart."""

    decode: str
    strides: tuple[int, ...] = (8, 16, 32)
    boxes: str = ""
    scores: str = ""
    labels: str = ""
    softmax: bool | None = None  # detr: softmax with a last "no object" class; None = by the number of classes

    def __post_init__(self) -> None:
        if not self.strides or min(self.strides) < 1:
            raise Mismatch(f"expected a list such as [8, 16, 32], got {list(self.strides)}", "strides")


@dataclass(frozen=True)
class Card:
    """A detector as its card describes it; `path` is the card's own."""

    path: Path
    name: str
    version: str
    model: Path
    classes: tuple[str, ...]
    input: InputCard
    output: OutputCard
    score: float = 0.3
    nms: float = 0.45  # IoU of the suppression within a class; 1 switches it off
    label_space: str = ""  # in a card: its name, where it is absent

    def __post_init__(self) -> None:
        _check_range("score", self.score, 0, 1)
        _check_range("nms", self.nms, 0, 1)


def read_card(path: str | Path) -> Card:
    """The card at `path`; ValueError names the key that is missing, unknown or wrong."""
    path = Path(path)
    data = read_yaml(path)
    if "path" in data:
        raise ValueError(f"{path}: path: unknown key; the model's file is `model`")
    given: dict[str, Any] = {"name": path.stem, "version": "1", **data, "path": path}
    if "model" in data:
        given["model"] = path.parent / str(data["model"])
        if not given["model"].is_file():
            raise FileNotFoundError(
                f"{path}: model: no file {data['model']!r} beside the card; give a path relative to it"
            )
    if "classes" in data:
        given["classes"] = _classes(path, data["classes"])
    if isinstance(data.get("input"), Mapping):
        given["input"] = _input(data["input"])
    card = structure(Card, given, str(path), settings=True)
    return card if "label_space" in data else replace(card, label_space=card.name)


def read_yaml(path: Path) -> dict[str, Any]:
    """A card's keys and values, unchecked."""
    return documents.read_settings(path, words=lambda keys: len(keys) > 1 and keys[0] in LABELS)


def _classes(path: Path, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        file = path.parent / value
        if not file.is_file():
            raise FileNotFoundError(
                f"{path}: classes: no file {value!r} beside the card; give a list, or a file of lines"
            )
        value = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if isinstance(value, Mapping):  # {0: person, 1: bicycle}, as YOLO's data.yaml has it
        value = [value[key] for key in sorted(value, key=lambda key: (len(key), key) if key.isdecimal() else (99, key))]
    if not isinstance(value, list) or not value:
        raise ValueError(f"{path}: classes: expected a list of names or a file, got {value!r:.60}")
    return tuple(str(name) for name in value)


def _input(data: Mapping[str, Any]) -> dict[str, Any]:
    """The section with what may be written shorter written out: one side, one mean, a scale as a divisor."""
    out = dict(data)
    if isinstance(out.get("size"), int):
        out["size"] = [out["size"]] * 2
    for key in ("mean", "std"):
        if key in out and not isinstance(out[key], list):
            out[key] = [out[key]]
    for key in ("letterbox", "channels"):
        if isinstance(out.get(key), str):
            out[key] = out[key].lower()
    scale = out.get("scale")
    if isinstance(scale, str) and scale.replace(" ", "").startswith("1/"):
        out["scale"] = scale = scale.replace(" ", "")[2:]
        out["scale"] = 1 / float(scale) if scale.replace(".", "", 1).isdecimal() and float(scale) else scale
    elif isinstance(scale, (int, float)) and scale > 1:
        out["scale"] = 1 / scale
    return out


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise Mismatch(f"expected a number from {low:g} to {high:g}, got {value!r}", key)

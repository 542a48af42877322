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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2.formats import documents

LETTERBOXES = ("top-left", "center", "none")
CHANNELS = ("rgb", "bgr")
LABELS = ("classes", "labels")  # whose lists and maps hold words: a class called no is no truth value
KEYS = {
    "": ("name", "version", "model", "classes", "input", "output", "score", "nms", "label_space"),
    "input": ("size", "channels", "scale", "mean", "std", "letterbox", "pad", "name"),
    "output": ("decode", "strides", "boxes", "scores", "labels", "softmax"),
}


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


@dataclass(frozen=True)
class OutputCard:
    """How the outputs are read; `boxes`, `scores` and `labels` name outputs where they come apart."""

    decode: str
    strides: tuple[int, ...] = (8, 16, 32)
    boxes: str = ""
    scores: str = ""
    labels: str = ""
    softmax: bool | None = None  # detr: softmax with a last "no object" class; None = by the number of classes


@dataclass(frozen=True)
class Card:
    """A detector as its card describes it."""

    path: Path
    name: str
    version: str
    model: Path
    classes: tuple[str, ...]
    input: InputCard
    output: OutputCard
    score: float = 0.3
    nms: float = 0.45  # IoU of the suppression within a class; 1 switches it off
    label_space: str = ""


def read_card(path: str | Path) -> Card:
    """The card at `path`; ValueError names the key that is missing, unknown or wrong."""
    path = Path(path)
    data = _section(path, "", read_yaml(path))
    for key in ("model", "classes", "input", "output"):
        if key not in data:
            raise ValueError(f"{path}: expected the key {key!r}, found none; a card has {', '.join(KEYS[''])}")
    model = path.parent / str(data["model"])
    if not model.is_file():
        raise FileNotFoundError(f"{path}: model: no file {data['model']!r} beside the card; give a path relative to it")
    name = str(data.get("name", path.stem))
    return Card(
        path=path,
        name=name,
        version=str(data.get("version", "1")),
        model=model,
        classes=_classes(path, data["classes"]),
        input=_input(path, _section(path, "input", data["input"])),
        output=_output(path, _section(path, "output", data["output"])),
        score=_number(path, "score", data.get("score", 0.3), 0, 1),
        nms=_number(path, "nms", data.get("nms", 0.45), 0, 1),
        label_space=str(data.get("label_space", name)),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """A card's keys and values, unchecked."""
    return documents.read_settings(path, words=lambda keys: len(keys) > 1 and keys[0] in LABELS)


def _section(path: Path, name: str, data: Any) -> dict[str, Any]:
    where = f"{path}: {name + ': ' if name else ''}"
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}expected keys and values, got {data!r:.60}")
    unknown = [str(key) for key in data if key not in KEYS[name]]
    if unknown:
        raise ValueError(f"{where}unknown key {unknown[0]!r}; expected some of {', '.join(KEYS[name])}")
    return dict(data)


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


def _input(path: Path, data: dict[str, Any]) -> InputCard:
    size = data.get("size")
    if isinstance(size, int):
        size = [size, size]
    if not (isinstance(size, list) and len(size) == 2 and all(isinstance(s, int) and s > 0 for s in size)):
        raise ValueError(f"{path}: input.size: expected [width, height] in pixels, got {size!r}")
    letterbox = str(data.get("letterbox", "none")).lower()
    channels = str(data.get("channels", "rgb")).lower()
    for key, value, allowed in (("letterbox", letterbox, LETTERBOXES), ("channels", channels, CHANNELS)):
        if value not in allowed:
            raise ValueError(f"{path}: input.{key}: expected one of {', '.join(allowed)}, got {value!r}")
    return InputCard(
        size=(size[0], size[1]),
        channels=channels,
        scale=_scale(path, data.get("scale", 1.0)),
        mean=_numbers(path, "input.mean", data.get("mean", 0.0)),
        std=_numbers(path, "input.std", data.get("std", 1.0)),
        letterbox=letterbox,
        pad=_number(path, "input.pad", data.get("pad", 114), 0, 255),
        name=str(data.get("name", "")),
    )


def _scale(path: Path, value: Any) -> float:
    """A factor; "1/255" may be written so, and a number above 1 divides."""
    if isinstance(value, str) and value.replace(" ", "").startswith("1/"):
        value = _number(path, "input.scale", value.replace(" ", "")[2:], 1e-6, 1e6)
        return 1 / value
    scale = _number(path, "input.scale", value, 1e-6, 1e6)
    return 1 / scale if scale > 1 else scale


def _output(path: Path, data: dict[str, Any]) -> OutputCard:
    if "decode" not in data:
        raise ValueError(f"{path}: output.decode: expected a decoder's name or file.py:function, found none")
    strides = data.get("strides", [8, 16, 32])
    if not (isinstance(strides, list) and strides and all(isinstance(s, int) and s > 0 for s in strides)):
        raise ValueError(f"{path}: output.strides: expected a list such as [8, 16, 32], got {strides!r}")
    return OutputCard(
        decode=str(data["decode"]),
        strides=tuple(strides),
        boxes=str(data.get("boxes", "")),
        scores=str(data.get("scores", "")),
        labels=str(data.get("labels", "")),
        softmax=data.get("softmax"),
    )


def _number(path: Path, key: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high or isinstance(value, bool):
        raise ValueError(f"{path}: {key}: expected a number from {low:g} to {high:g}, got {value!r}")
    return number


def _numbers(path: Path, key: str, value: Any) -> tuple[float, ...]:
    values = value if isinstance(value, list) else [value]
    if len(values) not in (1, 3):
        raise ValueError(f"{path}: {key}: expected one number or three, got {value!r}")
    return tuple(_number(path, key, v, -1e6, 1e6) for v in values)

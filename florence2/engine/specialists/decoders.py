"""From a detector's outputs to boxes: one function a layout, in one table. Numpy only.

    decode(outputs {name: array}, card) -> boxes (N, 4) xyxy in pixels of the input, scores (N,), class indices (N,)

A card may name a function of its own with that signature: `decode: file.py:function`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from florence2.engine.specialists.cards import Card
from florence2.engine.user_code import load_function

Decoded = tuple[np.ndarray, np.ndarray, np.ndarray]
Decode = Callable[[Mapping[str, np.ndarray], Card], Decoded]


def yolox(outputs: Mapping[str, np.ndarray], card: Card) -> Decoded:
    """Rows (N, 5 + C): offsets from a grid cell, log sizes, objectness, classes (YOLOX, Ge et al. 2021)."""
    rows = _rows(outputs, card, 5 + len(card.classes))
    cells, strides = _grid(card)
    if len(rows) != len(cells):
        raise ValueError(
            f"{card.path}: output.strides {list(card.output.strides)} at input.size {list(card.input.size)} make "
            f"{len(cells)} cells, the model gave {len(rows)}"
        )
    centres = (rows[:, :2] + cells) * strides[:, None]
    sides = np.exp(rows[:, 2:4]) * strides[:, None]
    return _best(_corners(centres, sides), rows[:, 4:5] * rows[:, 5:])


def yolov5(outputs: Mapping[str, np.ndarray], card: Card) -> Decoded:
    """Rows (N, 5 + C): centre, sides, objectness, classes."""
    rows = _rows(outputs, card, 5 + len(card.classes))
    return _best(_corners(rows[:, :2], rows[:, 2:4]), rows[:, 4:5] * rows[:, 5:])


def yolov8(outputs: Mapping[str, np.ndarray], card: Card) -> Decoded:
    """Columns (4 + C, N): centre, sides, classes; no objectness."""
    rows = _rows(outputs, card, 4 + len(card.classes))
    return _best(_corners(rows[:, :2], rows[:, 2:4]), rows[:, 4:])


def yunet(outputs: Mapping[str, np.ndarray], card: Card) -> Decoded:
    """Maps `cls_S`, `obj_S`, `bbox_S` for each stride S (YuNet, Wu et al. 2023), as OpenCV's FaceDetectorYN."""
    boxes, scores = [], []
    for stride in card.output.strides:
        maps = {kind: _output(outputs, card, f"{kind}_{stride}")[0] for kind in ("cls", "obj", "bbox")}
        cells = _cells(card, stride)
        if len(maps["bbox"]) != len(cells):
            given = len(maps["bbox"])
            raise ValueError(f"{card.path}: input.size: stride {stride} makes {len(cells)} cells, got {given}")
        centres = (cells + maps["bbox"][:, :2]) * stride
        boxes.append(_corners(centres, np.exp(maps["bbox"][:, 2:4]) * stride))
        scores.append(np.sqrt(np.clip(maps["cls"], 0, 1) * np.clip(maps["obj"][:, :1], 0, 1)))
    return _best(np.concatenate(boxes), np.concatenate(scores))


def detr(outputs: Mapping[str, np.ndarray], card: Card) -> Decoded:
    """Logits (Q, C or C + 1) and boxes (Q, 4), centre and sides in shares of the input (DETR, Carion et al. 2020)."""
    boxes = _output(outputs, card, card.output.boxes or "pred_boxes")[0]
    logits = _output(outputs, card, card.output.scores or "logits")[0].astype(np.float64)
    softmax = card.output.softmax
    if logits.shape[1] == len(card.classes) + 1 and softmax is not False:
        softmax = True
    elif logits.shape[1] != len(card.classes):
        raise ValueError(
            f"{card.path}: classes: the model has {logits.shape[1]} logits, the card names {len(card.classes)} classes "
            "(one more, the last, may mean no object)"
        )
    if softmax:
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = (scores / scores.sum(axis=1, keepdims=True))[:, : len(card.classes)]
    else:
        scores = 1 / (1 + np.exp(-logits[:, : len(card.classes)]))
    size = np.array(card.input.size, dtype=np.float64)
    return _best(_corners(boxes[:, :2] * size, boxes[:, 2:4] * size), scores)


def nms(outputs: Mapping[str, np.ndarray], card: Card) -> Decoded:
    """Boxes (N, 4) xyxy in pixels of the input, scores (N,) and labels (N,) apart: a model exported with its NMS."""
    boxes = _output(outputs, card, card.output.boxes or "boxes").reshape(-1, 4)
    scores = _output(outputs, card, card.output.scores or "scores").reshape(-1)
    labels = _output(outputs, card, card.output.labels or "labels").reshape(-1).astype(np.int64)
    if not len(boxes) == len(scores) == len(labels):
        raise ValueError(f"{card.path}: output: {len(boxes)} boxes, {len(scores)} scores and {len(labels)} labels")
    real = (labels >= 0) & (scores > 0)  # exports of a fixed size fill up with zeros or -1
    return boxes[real].astype(np.float64), scores[real].astype(np.float64), labels[real]


DECODERS: Mapping[str, Decode] = MappingProxyType(
    {"yolox": yolox, "yolov5": yolov5, "yolov8": yolov8, "yunet": yunet, "detr": detr, "nms": nms}
)


def decoder_of(card: Card) -> Decode:
    """The card's decoder: a row of the table, or the function it names."""
    name = card.output.decode
    if name in DECODERS:
        return DECODERS[name]
    if not name.rpartition(":")[0].endswith(".py"):
        raise ValueError(
            f"{card.path}: output.decode: expected one of {', '.join(DECODERS)} or file.py:function, got {name!r}"
        )
    return load_function(str(card.path.parent / name))


def _output(outputs: Mapping[str, np.ndarray], card: Card, name: str) -> np.ndarray:
    if name not in outputs:
        raise ValueError(f"{card.path}: output: expected an output {name!r}, the model has {', '.join(outputs)}")
    return np.asarray(outputs[name])


def _rows(outputs: Mapping[str, np.ndarray], card: Card, width: int) -> np.ndarray:
    """The first output as (N, width), turned where the model gives it transposed."""
    array = np.asarray(_output(outputs, card, card.output.boxes) if card.output.boxes else next(iter(outputs.values())))
    rows = array.reshape(array.shape[-2:]) if array.ndim >= 2 and array.size == np.prod(array.shape[-2:]) else array
    if rows.ndim == 2 and rows.shape[1] != width and rows.shape[0] == width:
        rows = rows.T
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(
            f"{card.path}: output.decode {card.output.decode}: expected rows of {width} values for "
            f"{len(card.classes)} classes, got an array {tuple(array.shape)}"
        )
    return rows.astype(np.float64)


def _cells(card: Card, stride: int) -> np.ndarray:
    width, height = (side // stride for side in card.input.size)
    ys, xs = np.divmod(np.arange(width * height), width)
    return np.stack([xs, ys], axis=1).astype(np.float64)  # (cells, 2)


def _grid(card: Card) -> tuple[np.ndarray, np.ndarray]:
    cells = [_cells(card, stride) for stride in card.output.strides]
    strides = [np.full(len(c), float(s)) for c, s in zip(cells, card.output.strides)]
    return np.concatenate(cells), np.concatenate(strides)


def _corners(centres: np.ndarray, sides: np.ndarray) -> np.ndarray:
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def _best(boxes: np.ndarray, scores: np.ndarray) -> Decoded:
    labels = scores.argmax(axis=1)
    return boxes, scores[np.arange(len(scores)), labels], labels

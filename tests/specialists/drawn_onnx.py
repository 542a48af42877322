"""Detectors of a few weights as ONNX files: cells are averaged, their colours mapped to values in a real layout.

A model here is `heads`: stride S -> {output: (weights (n, 3), bias (n,), sigmoid)}; each gives (1, cells, n) for the
cells of S x S pixels, row by row. What it says of a picture can be worked out by hand.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Head = tuple[np.ndarray, np.ndarray, bool]
FLOAT, INT64 = 1, 7  # TensorProto.DataType


def write(path: Path, size_wh: tuple[int, int], heads: Mapping[int, Mapping[str, Head]], joined: str = "") -> Path:
    """The model with an output NAME_S for each head, or all joined along values, then cells, as one named `joined`."""
    width, height = size_wh
    nodes, weights, outputs, rows = [], [], [], []
    for stride, named in heads.items():
        sides = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
        nodes.append(_node("AveragePool", ["picture"], f"cells_{stride}", **sides))
        for name, (matrix, bias, squashed) in named.items():
            out = f"{name}_{stride}"
            weights += [
                _tensor(f"{out}.w", np.asarray(matrix, np.float32).reshape(-1, 3, 1, 1)),
                _tensor(f"{out}.b", np.asarray(bias, np.float32)),
                _tensor(f"{out}.shape", np.array([1, len(matrix), -1])),
            ]
            nodes.append(_node("Conv", [f"cells_{stride}", f"{out}.w", f"{out}.b"], f"{out}.linear"))
            nodes.append(_node("Sigmoid" if squashed else "Identity", [f"{out}.linear"], f"{out}.map"))
            nodes.append(_node("Reshape", [f"{out}.map", f"{out}.shape"], f"{out}.flat"))
            nodes.append(_node("Transpose", [f"{out}.flat"], out, perm=[0, 2, 1]))
            outputs.append((out, [1, (width // stride) * (height // stride), len(matrix)]))
        rows.append(f"rows_{stride}")
        if joined:
            nodes.append(_node("Concat", [f"{name}_{stride}" for name in named], rows[-1], axis=2))
    if joined:
        nodes.append(_node("Concat", rows, joined, axis=1))
        cells = sum((width // stride) * (height // stride) for stride in heads)
        outputs = [(joined, [1, cells, sum(len(matrix) for matrix, _, _ in named.values())])]
    graph = [*(_field(1, node) for node in nodes), _field(2, b"drawn"), *(_field(5, w) for w in weights)]
    graph += [_field(11, _value("picture", [1, 3, height, width])), *(_field(12, _value(*out)) for out in outputs)]
    opset = _field(8, _field(1, b"") + _field(2, 13))
    path.write_bytes(_field(1, 7) + opset + _field(7, b"".join(graph)))
    return path


# ---- protobuf's wire format, as far as ONNX's messages need it (numbers of fields: onnx.proto)


def _varint(value: int) -> bytes:
    value, out = value % 2**64, b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


def _field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _node(kind: str, inputs: Sequence[str], output: str, **attributes: int | list[int]) -> bytes:
    out = b"".join(_field(1, name) for name in inputs) + _field(2, output) + _field(4, kind)
    for name, value in attributes.items():
        ints = b"".join(_field(8, v) for v in value) + _field(20, 7) if isinstance(value, list) else b""
        out += _field(5, _field(1, name) + (ints or _field(3, value) + _field(20, 2)))
    return out


def _tensor(name: str, array: np.ndarray) -> bytes:
    kind, letter = (FLOAT, "f") if array.dtype == np.float32 else (INT64, "q")
    data = struct.pack(f"<{array.size}{letter}", *array.ravel().tolist())
    return b"".join(_field(1, side) for side in array.shape) + _field(2, kind) + _field(8, name) + _field(9, data)


def _value(name: str, shape: Sequence[int]) -> bytes:
    sides = b"".join(_field(1, _field(1, side)) for side in shape)
    return _field(1, name) + _field(2, _field(1, _field(1, FLOAT) + _field(2, sides)))

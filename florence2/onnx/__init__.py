"""Florence-2 as ONNX graphs: written from a checkpoint (`export`, needs torch), and run without torch (`load`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from florence2.onnx.exporting import export
    from florence2.onnx.onnx_model import OnnxModel, load

__all__ = ["OnnxModel", "export", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'florence2.onnx' has no attribute {name!r}")
    return getattr(importlib.import_module(f"florence2.onnx.{'exporting' if name == 'export' else 'onnx_model'}"), name)

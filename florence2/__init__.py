"""Florence-2: load, predict, annotate, filter, refine, train, evaluate. Importing this costs no torch."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> the module that holds it; opened on first use
_PUBLIC = {
    "load": "florence2.predictor",
    "Florence2": "florence2.predictor",
    "Answer": "florence2.predictor",
    "parse": "florence2.predictor",
    "render": "florence2.predictor",
    "TASKS": "florence2.codec.tasks",
    "register": "florence2.codec.tasks",
    "Ask": "florence2.records",
    "Coverage": "florence2.records",
    "Decision": "florence2.records",
    "Failure": "florence2.records",
    "Grounding": "florence2.records",
    "ImageRef": "florence2.records",
    "Parsed": "florence2.records",
    "Region": "florence2.records",
    "Rle": "florence2.records",
    "Sample": "florence2.records",
    "Source": "florence2.records",
    "Text": "florence2.records",
    "BadImage": "florence2.pixels",
    "Store": "florence2.store",
    "annotate": "florence2.engine",
    "filter": "florence2.engine",
    "refine": "florence2.refinement",
    "train": "florence2.training",
    "evaluate": "florence2.evaluate_command",
}

# rooms that can be reached as attributes without importing them first
_ROOMS = ("codec", "compat", "drawing", "engine", "evaluation", "formats", "geometry", "metrics", "model", "onnx",
          "pixels", "predictor", "records", "refinement", "reporting", "scenes", "sources", "store",
          "training")  # fmt: skip

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"florence2.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'florence2' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted((*__all__, *_ROOMS))

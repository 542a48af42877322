"""A picture and an ask in, an Answer out: the public heart. Opened on first use: an Answer costs no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from florence2.predictor.answer import Answer, parse, render
    from florence2.predictor.batch import EncodedImage
    from florence2.predictor.florence2 import Florence2, load

__all__ = ["Answer", "EncodedImage", "Florence2", "load", "parse", "render"]
_HOMES = {"EncodedImage": "batch", "Florence2": "florence2", "load": "florence2"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'florence2.predictor' has no attribute {name!r}")
    return getattr(importlib.import_module(f"florence2.predictor.{_HOMES.get(name, 'answer')}"), name)

"""The loop that joins training and engine: a student of the store annotates it, and the next learns from both."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {"refine": "florence2.refinement.rounds"}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'florence2.refinement' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)

"""The data engine: specialists annotate, filters judge, sources are merged; a store holds the output of each."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {"annotate": "florence2.engine.commands", "filter": "florence2.engine.commands"}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'florence2.engine' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)

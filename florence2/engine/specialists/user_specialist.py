"""A user's own specialist: a class in a file, named FILE.py:CLASS on the command line.

The class has `name`, `version` and `annotate(samples, images)`; it may have `requires`, `produces`, `weights` (files,
relative to its own, whose hash enters the fingerprint), `billed` (then it runs in one process, and never but when it
is named), `setup(device)` and `close()`. For a picture it returns a
Parsed, a plain list of Regions, Texts and Groundings, or a Failure.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from florence2.engine.operator import PRODUCTS, Spec
from florence2.engine.specialists.requirements import sha256_of
from florence2.records import Failure, Grounding, Parsed, Region, Result, Sample, Text


class UserSpecialist:
    """Wraps the user's class in the interface of the house."""

    def __init__(self, path: str, class_name: str) -> None:
        file = Path(path)
        module = load_file(file)
        kind = getattr(module, class_name, None)
        if not isinstance(kind, type):
            classes = sorted(
                n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__
            )
            raise ValueError(
                f"{path}: expected a class {class_name!r}, the file defines {', '.join(classes) or 'none'}"
            )
        self._user: Any = kind()
        for attribute in ("name", "version", "annotate"):
            if not hasattr(self._user, attribute):
                raise ValueError(
                    f"{path}: expected {class_name}.{attribute}, found none; "
                    "a specialist has name, version and annotate(samples, images)"
                )
        self.where = f"{path}:{class_name}"
        self.spec = Spec(
            str(self._user.name),
            str(self._user.version),
            produces=frozenset(_names(getattr(self._user, "produces", PRODUCTS))),
            requires=frozenset(_names(getattr(self._user, "requires", ()))),
            batch_size=int(getattr(self._user, "batch_size", 8)),
            billed=bool(getattr(self._user, "billed", False)),
        )
        self.config = {"class": class_name}
        weights = [file.parent / w for w in _names(getattr(self._user, "weights", ()))]
        self.weights_sha256 = sha256_of([file, *weights])

    def setup(self, device: str) -> None:
        """The user's own `setup`, where there is one."""
        if hasattr(self._user, "setup"):
            self._user.setup(device)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """What the user's class says of each picture, as Parsed or Failure."""
        results = list(self._user.annotate(samples, images))
        if len(results) != len(samples):
            raise ValueError(f"{self.where}: expected {len(samples)} results, one a picture, got {len(results)}")
        return [self._result(result) for result in results]

    def _result(self, result: Any) -> Result:
        if isinstance(result, (Parsed, Failure)):
            return result
        items = list(result) if isinstance(result, Iterable) and not isinstance(result, (str, bytes)) else [result]
        for item in items:
            if not isinstance(item, (Region, Text, Grounding)):
                raise ValueError(
                    f"{self.where}: expected a Parsed, a Failure or a list of Regions and Texts, got {item!r:.60}"
                )
        return Parsed(
            texts=tuple(i for i in items if isinstance(i, Text)),
            regions=tuple(i for i in items if isinstance(i, Region)),
            groundings=tuple(i for i in items if isinstance(i, Grounding)),
        )

    def close(self) -> None:
        """The user's own `close`, where there is one."""
        if hasattr(self._user, "close"):
            self._user.close()


def load_file(path: Path) -> ModuleType:
    """The module of a Python file, wherever it lies; imports beside it work."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; a specialist of your own is FILE.py:CLASS")
    name = "florence2_user_" + "".join(c if c.isalnum() else "_" for c in str(path.resolve()))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _names(value: Any) -> list[str]:
    return [str(value)] if isinstance(value, (str, Path)) else [str(v) for v in value]

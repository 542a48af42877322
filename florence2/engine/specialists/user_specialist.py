"""A user's own specialist: a class in a file, named FILE.py:CLASS on the command line.

The class has `name`, `version` and `annotate(samples, images)`; it may have `requires`, `produces`, `weights` (files,
relative to its own, whose hash enters the fingerprint), `billed` (then it runs in one process, and never but when it
is named), `setup(device)` and `close()`. For a picture it returns a
Parsed, a plain list of Regions, Texts and Groundings, or a Failure. In Python an object of such a class does as well,
also where the class is written in a notebook or in the script that runs: it then travels to worker processes whole.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import cloudpickle
import numpy as np

from florence2.engine.operator import PRODUCTS, Spec
from florence2.engine.specialists.requirements import sha256_of
from florence2.engine.user_code import load_file
from florence2.records import Failure, Grounding, Parsed, Region, Result, Sample, Text


class UserSpecialist:
    """Wraps the user's class as a Specialist."""

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
        weights = [file.parent / w for w in _names(getattr(kind, "weights", ()))]
        self._wrap(kind(), f"{path}:{class_name}", {"class": class_name}, sha256_of([file, *weights]))

    @classmethod
    def of(cls, user: Any) -> UserSpecialist:
        """An object as a specialist: one with name, version and annotate, or one that has a Spec already."""
        kind = type(user)
        files = [Path(w) for w in _names(getattr(user, "weights", ()))]
        code = hashlib.sha256((_code_of(kind) + sha256_of(files)).encode()).hexdigest()
        made = cls.__new__(cls)
        made._wrap(user, kind.__qualname__, {"class": kind.__qualname__, **_settings_of(user)}, code)
        return made

    def _wrap(self, user: Any, where: str, config: dict[str, Any], weights_sha256: str) -> None:
        self._user, self.where = user, where
        if isinstance(getattr(user, "spec", None), Spec):
            self.spec, self.config, self.weights_sha256 = user.spec, dict(user.config), user.weights_sha256
            return
        for attribute in ("name", "version", "annotate"):
            if not hasattr(user, attribute):
                raise ValueError(
                    f"{where.rpartition(':')[0] or where}: expected {type(user).__name__}.{attribute}, found none; "
                    "a specialist has name, version and annotate(samples, images)"
                )
        self.spec = Spec(
            str(user.name),
            str(user.version),
            produces=frozenset(_names(getattr(user, "produces", PRODUCTS))),
            requires=frozenset(_names(getattr(user, "requires", ()))),
            batch_size=int(getattr(user, "batch_size", 8)),
            billed=bool(getattr(user, "billed", False)),
            num_cpus=float(getattr(user, "num_cpus", 1)),
            num_gpus=float(getattr(user, "num_gpus", 0)),
            memory_gb=float(getattr(user, "memory_gb", 0)),
        )
        self.config, self.weights_sha256 = config, weights_sha256

    def __getstate__(self) -> dict[str, Any]:
        try:
            return {**self.__dict__, "_user": cloudpickle.dumps(self._user)}  # a class of __main__ goes along
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{self.where}: cannot be sent to a worker process ({error}); put it into a file and name "
                "FILE.py:CLASS, or use workers=0"
            ) from None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _user=pickle.loads(state["_user"]))

    def setup(self, device: str) -> None:
        """The user's own `setup`, where there is one."""
        if hasattr(self._user, "setup"):
            self._user.setup(device)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """The answer of the user's class about each picture, as Parsed or Failure."""
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


def _code_of(kind: type) -> str:
    """A hash of the code of a class, in place of its file's hash; what it calls elsewhere is not in it."""
    total = hashlib.sha256()

    def add(code: CodeType) -> None:
        total.update(code.co_code + repr(code.co_names).encode())
        for value in code.co_consts:
            add(value) if isinstance(value, CodeType) else total.update(repr(value).encode())

    for base in reversed(kind.__mro__):
        for name, value in sorted(vars(base).items()):
            function = getattr(value, "__func__", value)
            if isinstance(function, FunctionType):
                total.update(name.encode())
                add(function.__code__)
    return total.hexdigest()


def _settings_of(user: Any) -> dict[str, Any]:
    """The object's own attributes that are plain values: by which two objects of one class differ."""
    plain = (str, int, float, bool, type(None))
    return {k: v for k, v in sorted(getattr(user, "__dict__", {}).items()) if isinstance(v, plain)}


def _names(value: Any) -> list[str]:
    return [str(value)] if isinstance(value, (str, Path)) else [str(v) for v in value]

"""Running a user's Python file: the one place that does, and the one that can refuse to. Knows no store.

A name that the user gave (FILE.py:CLASS, FILE.py:FUNCTION, a card that names one) runs. Names that come out of a store
are opened under `gate`, which is asked about each file before a line of it runs; `florence2/engine/trust.py` answers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

Gate = Callable[[Path, str], None]  # (file, sha256 of its bytes); raises to refuse

_gate: ContextVar[Gate | None] = ContextVar("gate", default=None)


@contextmanager
def gate(check: Gate) -> Iterator[None]:
    """Inside, `check` is asked before a Python file of the user's is run, and raises where it is not to be."""
    token = _gate.set(check)
    try:
        yield
    finally:
        _gate.reset(token)


def load_file(path: Path) -> ModuleType:
    """The module of a Python file, wherever it lies; imports beside it work. Unchanged, a file is run once a process.

    ValueError where the file cannot be run. The bytes that were hashed are those that run: no compiled file beside it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected FILE.py:NAME with a Python file of your own")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    check = _gate.get()
    if check is not None:
        check(path, sha256)
    name = "florence2_user_" + "".join(c if c.isalnum() else "_" for c in str(path.resolve()))
    known = sys.modules.get(name)
    if known is not None and getattr(known, "_florence2_sha256", "") == sha256:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        exec(compile(data, str(path), "exec"), module.__dict__)
    except Exception as error:  # a user's file may raise anything
        del sys.modules[name]
        raise ValueError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    module._florence2_sha256 = sha256  # type: ignore[attr-defined]
    return module


def load_function(name: str) -> Callable[..., Any]:
    """The function that FILE.py:FUNCTION names."""
    file, _, function = name.rpartition(":")
    if not file.endswith(".py"):
        raise ValueError(f"{name!r:.200}: expected FILE.py:FUNCTION")
    found = getattr(load_file(Path(file)), function, None)
    if not callable(found):
        raise ValueError(f"{file}: has no function {function!r}")
    return found  # type: ignore[no-any-return]

"""What callers give to public functions, checked: a refusal names the argument, what it expects and what came."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Mapping
from typing import Any

from florence2.structuring import brief

MOST_THREADS = 1024  # more than any machine gains by; runtimes die of a million


def processors() -> int:
    """How many processors this process may use: what a number of threads or workers means by all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number, numpy's too, from `least` up to `most`; a truth value is none."""
    span = {(False, False): "", (True, False): f" of at least {least}", (False, True): f" of at most {most}"}
    wanted = span.get((least is not None, most is not None), f" from {least} to {most}")
    try:
        number = None if isinstance(value, bool) else int(operator.index(value))
    except TypeError:
        number = None
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name}: expected a whole number{wanted}, got {brief(value)}")
    return number


def above_zero(name: str, value: Any) -> float:
    """A finite number above zero."""
    number = _number(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name}: expected a number above zero, got {brief(value)}")
    return number


def at_least_zero(name: str, value: Any) -> float:
    """A finite number from zero on."""
    number = _number(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name}: expected a number of at least zero, got {brief(value)}")
    return number


def _number(value: Any) -> float:
    """As a float; NaN where it is none."""
    try:
        return math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def text(name: str, value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{name}: expected a text, got {brief(value)}")
    return value


def items(name: str, value: Any, what: str, is_one: Callable[[Any], bool]) -> list[Any]:
    """The items of a list, each of which is one of `what`."""
    try:
        found = [] if isinstance(value, (str, bytes, Mapping)) else list(value)
    except TypeError:
        found = []
    is_list = isinstance(value, (list, tuple)) or bool(found)
    if not is_list or not all(map(is_one, found)):
        raise ValueError(f"{name}: expected {what}, got {brief(value)}")
    return found


def path(name: str, value: Any) -> str:
    """A path as text, of what a file system can hold."""
    try:
        found = os.fspath(value)
        if not isinstance(found, str):
            raise TypeError
        os.fsencode(found)
        if "\0" in found:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a path, got {brief(value)}") from None
    return found

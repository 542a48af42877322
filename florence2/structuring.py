"""Typed dataclasses made of plain data: of JSON that was written by this project, or of settings that a person wrote.

Every key is checked and every value converted to its field's type, or refused in one line with its place:
`Sample: regions[2].box[0]: expected a number, got 'x'`. Nothing is coerced that was not meant: no text becomes a number
but what YAML 1.1 takes for text (1e-4), and that in settings alone.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union

T = TypeVar("T")
Convert = Callable[[Any], Any]


class Mismatch(ValueError):
    """A value that does not fit, and where it is below the whole."""

    def __init__(self, problem: str, path: str = ""):
        super().__init__(f"{path}: {problem}" if path else problem)
        self.problem, self.path = problem, path

    def below(self, key: str) -> Mismatch:
        """The same, seen from one level above: `key` is a field, or [index]."""
        joint = "." if self.path and not self.path.startswith("[") else ""
        return Mismatch(self.problem, f"{key}{joint}{self.path}")


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds. Whatever is wrong with it is a json.JSONDecodeError, which is a ValueError: also what
    the parser gives up on by other errors, such as too deep a nesting, numbers of thousands of digits, no Unicode."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError("nested too deeply", "", 0) from None
    except ValueError as error:
        raise json.JSONDecodeError(str(error).partition(";")[0], "", 0) from None


def structure(kind: type[T], data: Any, where: str, settings: bool = False, key: str = "") -> T:
    """The value of type `kind` (a dataclass, or any type its fields may have) that `data` describes.

    `where` is what holds it, a file or a kind ("": the caller names it), and `key` its key there, for the refusal.
    `settings`: written by a person in YAML, so that a number may be given for a text, and 1e-4 for one. ValueError:
    an unknown or missing key, a value of another type, or what the dataclass itself refuses.
    """
    try:
        hint: Any = kind
        made: T = converter(hint, settings)(data)
    except Mismatch as error:
        place = error.below(key) if key else error
        raise ValueError(f"{where}: {place}" if where else str(place)) from None
    return made


@functools.cache
def converter(hint: Any, settings: bool = False) -> Convert:
    """The function that converts a value to a type, or raises Mismatch."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value: value
    if origin in (Union, types.UnionType):
        return _union([converter(arg, settings) for arg in args if arg is not type(None)], type(None) in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return _fixed([converter(arg, settings) for arg in args])
    if origin in (tuple, list):
        return _sequence(origin, converter(args[0], settings))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping(converter(args[0], settings), converter(args[1], settings))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, settings)
    return {str: _text, int: _whole, float: _number, bool: _flag, Path: _path}[hint](settings)


def _dataclass(kind: type, settings: bool) -> Convert:
    fields: dict[str, Convert] = {}  # filled at the first use, so that a type may hold itself
    needed = [
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]

    def convert(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise Mismatch(f"expected keys and values, got {brief(value)}")
        if not fields:
            fields.update((name, converter(hint, settings)) for name, hint in typing.get_type_hints(kind).items())
        out = {}
        for name, inner in value.items():
            if name not in fields:
                raise Mismatch(f"unknown key; expected one of {', '.join(fields)}", brief_key(name))
            try:
                out[name] = fields[name](inner)
            except Mismatch as error:
                raise error.below(name) from None
        for name in needed:
            if name not in out:
                raise Mismatch("missing", name)
        try:
            return kind(**out)
        except Mismatch:
            raise
        except ValueError as error:
            raise Mismatch(str(error)) from None

    return convert


def _union(kinds: list[Convert], optional: bool) -> Convert:
    def convert(value: Any) -> Any:
        if value is None and optional:
            return None
        for kind in kinds[:-1]:
            try:
                return kind(value)
            except Mismatch:
                continue
        return kinds[-1](value)

    return convert


def _sequence(kind: type, item: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise Mismatch(f"expected a list, got {brief(value)}")
        out: list[Any] = []
        try:
            for inner in value:
                out.append(item(inner))
        except Mismatch as error:
            raise error.below(f"[{len(out)}]") from None
        return tuple(out) if kind is tuple else out

    return convert


def _fixed(items: list[Convert]) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise Mismatch(f"expected a list of {len(items)} values, got {brief(value)}")
        if len(value) != len(items):
            raise Mismatch(f"expected {len(items)} values, got {len(value)}")
        out: list[Any] = []
        try:
            for item, inner in zip(items, value):
                out.append(item(inner))
        except Mismatch as error:
            raise error.below(f"[{len(out)}]") from None
        return tuple(out)

    return convert


def _mapping(name: Convert, item: Convert) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Mismatch(f"expected keys and values, got {brief(value)}")
        out = {}
        for key, inner in value.items():
            try:
                out[name(key)] = item(inner)
            except Mismatch as error:
                raise error.below(brief_key(key)) from None
        return out

    return convert


def _text(settings: bool) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, str):
            return value
        if settings and isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)
        raise Mismatch(f"expected text, got {brief(value)}")

    return convert


def _number(settings: bool) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, float) and not (settings and math.isnan(value)):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000:
            return float(value)
        if settings and isinstance(value, str):
            try:
                number = float(value)  # YAML 1.1 takes 1e-4 for text
            except ValueError:
                number = math.nan
            if not math.isnan(number):
                return number
        raise Mismatch(f"expected a number, got {brief(value)}")

    return convert


def _whole(settings: bool) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and math.isfinite(value) and int(value) == value:
            return int(value)
        raise Mismatch(f"expected a whole number, got {brief(value)}")

    return convert


def _path(settings: bool) -> Convert:
    text = _text(settings)
    return lambda value: value if isinstance(value, Path) else Path(text(value))


def _flag(settings: bool) -> Convert:
    def convert(value: Any) -> Any:
        if isinstance(value, bool):
            return value
        raise Mismatch(f"expected true or false, got {brief(value)}")

    return convert


def brief(value: Any) -> str:
    """A value in a message, on one line, however large it is."""
    if value is None:
        return "null"
    if isinstance(value, int) and abs(value) >= 10**60:
        return f"a number of {value.bit_length()} bits"
    return _SHORT.repr(value)[:80]


def brief_key(key: Any) -> str:
    """A key in a place, as it is where it is a plain word."""
    return key if isinstance(key, str) and key.isidentifier() and len(key) <= 60 else brief(key)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 60, 60

"""What every reader checks of a value: numbers, words, ids, places. A problem is one line: where, wanted, came."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from florence2.formats.problems import ReadProblems
from florence2.labels import is_unicode
from florence2.records import Box
from florence2.structuring import brief

__all__ = [
    "box_from_xywh", "brief", "field", "flag", "ident", "number", "numbers", "objects", "once", "record", "rows",
    "sentence", "shown",
    "strings", "whole", "word",
]  # fmt: skip


_WHOLE = re.compile(r"0|[1-9][0-9]{0,50}")  # not 007, which is a name


def shown(value: Any) -> str:
    """An id in a message: as it is where it is short and printable, text in quotes."""
    return str(value) if isinstance(value, (int, float)) and abs(value) < 10**60 else brief(value)


def number(value: Any, where: str) -> float:
    """A finite float, from a number (or the text of one)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{where}: expected a number, got {brief(value)}")
    try:
        if isinstance(value, str) and "_" in value:  # 1_0 is a number to Python alone
            raise ValueError
        result = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: expected a number, got {brief(value)}") from None
    if not math.isfinite(result):
        raise ValueError(f"{where}: expected a finite number, got {brief(value)}")
    return result


def numbers(values: Any, where: str, count: int = 0) -> tuple[float, ...]:
    """A list of finite floats, `count` of them where it is given."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"{where}: expected a list of numbers, got {brief(values)}")
    if count and len(values) != count:
        raise ValueError(f"{where}: expected {count} numbers, got {len(values)}")
    return tuple(number(value, where) for value in values)


def box_from_xywh(values: Any, where: str) -> Box:
    """Left, top, width, height -> corners."""
    x, y, width, height = numbers(values, where, 4)
    if width < 0 or height < 0:
        raise ValueError(f"{where}: expected a width and height of at least 0, got {width:g} x {height:g}")
    return x, y, x + width, y + height


def record(value: Any, where: str) -> Mapping[str, Any]:
    """A mapping, or ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: expected an object, got {brief(value)}")
    return value


def field(value: Any, key: str, where: str) -> Any:
    """value[key], or ValueError naming what lacks it."""
    found = record(value, where)
    if key not in found:
        raise ValueError(f"{where}: has no {key!r}")
    return found[key]


def rows(value: Any, key: str, where: str, optional: bool = False) -> Sequence[Any]:
    """The list value[key]; an absent or null optional one is empty."""
    found = record(value, where).get(key) if optional else field(value, key, where)
    if found is None and optional:
        return ()
    if not isinstance(found, list):
        raise ValueError(f"{where}: {key}: expected a list, got {brief(found)}")
    return found


def objects(values: Sequence[Any], where: str, problems: ReadProblems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object of a list with its place, `where[n]`; what is no object is refused."""
    for n, value in enumerate(values):
        with problems.record():
            found = record(value, f"{where}[{n}]")
            yield f"{where}[{n}]", found


def word(value: Any, where: str, empty: bool = False) -> str:
    """Text that a person wrote: a string, or a number in its place; null and NaN are no words.

    Surrogates are refused: no file that is written later could hold them.
    """
    if isinstance(value, str):
        text = value
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(number(value, where)):
        text = str(value)
    else:
        raise ValueError(f"{where}: expected text, got {brief(value)}")
    if not text and not empty:
        raise ValueError(f"{where}: expected text, got an empty one")
    if not is_unicode(text):
        raise ValueError(f"{where}: holds half a character (a lone surrogate) in {brief(text)}")
    return text


def sentence(value: Any, where: str) -> str:
    """Text without white space around it, more than nothing."""
    text = word(value, where).strip()
    if not text:
        raise ValueError(f"{where}: expected text, got white space")
    return text


def strings(item: Any, where: str) -> None:
    """Refuse half a character in any of a record's texts."""
    for f in dataclasses.fields(item):
        value = getattr(item, f.name)
        if isinstance(value, str):
            word(value, f"{where}: {f.name}", empty=True)


def flag(value: Any, where: str) -> bool:
    """A yes or no: 0 or 1, false or true, as a number or as text; what is absent is no."""
    folded = str(value).strip().casefold() if isinstance(value, (str, int, float)) else value
    if folded in (None, "", "0", "0.0", "false"):
        return False
    if folded in ("1", "1.0", "true"):
        return True
    raise ValueError(f"{where}: expected 0 or 1, got {brief(value)}")


def ident(value: Any, where: str) -> str | int | float:
    """An id: a string or a number; a whole number written as text is that number."""
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else word(value, where)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**60:
        raise ValueError(f"{where}: expected an id, got {brief(value)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    raise ValueError(f"{where}: expected a number or text as id, got {brief(value)}")


def whole(value: Any, where: str) -> int:
    """A whole number of at least 0."""
    result = number(value, where)
    if result != int(result) or result < 0:
        raise ValueError(f"{where}: expected a whole number of at least 0, got {brief(value)}")
    return int(result)


def once(seen: dict[Any, str], key: Any, where: str) -> None:
    """Refuse a key met before, naming both places."""
    if key in seen:
        raise ValueError(f"{where}: duplicate id {brief(key)}; it is already at {seen[key]}")
    seen[key] = where

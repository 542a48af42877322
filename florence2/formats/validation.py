"""What every reader checks: numbers, names, pictures. A problem is one line: where, what was wanted, what came."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from florence2 import pixels
from florence2.records import Box, ImageRef

PICTURES = tuple(".jpg .jpeg .png .bmp .gif .webp .tif .tiff .jfif .avif .jp2 .ppm .pgm .pbm .tga .jpeg2000".split())


_refused: ContextVar[list[str] | None] = ContextVar("refused", default=None)


@contextmanager
def collecting(refused: list[str]) -> Iterator[None]:
    """Within it a reader that meets a bad record notes it in `refused`, leaves it out and goes on."""
    token = _refused.set(refused)
    try:
        yield
    finally:
        _refused.reset(token)


def refuse(error: ValueError) -> None:
    """What a reader does with a bad record: raise, or note it where refusals are collected."""
    refused = _refused.get()
    if refused is None:
        raise error
    refused.append(str(error))


def read_json(path: Path) -> Any:
    """The file's content; ValueError names the file and the line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON ({error.msg}); check that the file is whole") from None


def read_text(path: Path) -> str:
    """The file's text in UTF-8, a byte order mark dropped."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None


def number(value: Any, where: str) -> float:
    """A finite float, from a number (or the text of one)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{where}: expected a number, got {value!r:.60}")
    try:
        result = float(value)
    except ValueError:
        raise ValueError(f"{where}: expected a number, got {value!r:.60}") from None
    if not math.isfinite(result):
        raise ValueError(f"{where}: expected a finite number, got {value!r:.60}")
    return result


def numbers(values: Any, where: str, count: int = 0) -> tuple[float, ...]:
    """A list of finite floats, `count` of them where it is given."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ValueError(f"{where}: expected a list of numbers, got {values!r:.60}")
    if count and len(values) != count:
        raise ValueError(f"{where}: expected {count} numbers, got {len(values)}")
    return tuple(number(value, where) for value in values)


def box_from_xywh(values: Any, where: str) -> Box:
    """Left, top, width, height -> corners."""
    x, y, width, height = numbers(values, where, 4)
    if width < 0 or height < 0:
        raise ValueError(f"{where}: expected a width and height of at least 0, got {width:g} x {height:g}")
    return x, y, x + width, y + height


def field(record: Any, key: str, where: str) -> Any:
    """record[key], or ValueError naming what lacks it."""
    if not isinstance(record, Mapping):
        raise ValueError(f"{where}: expected an object, got {record!r:.60}")
    if key not in record:
        raise ValueError(f"{where}: has no {key!r}")
    return record[key]


def whole(value: Any, where: str) -> int:
    """A whole number of at least 0."""
    result = number(value, where)
    if result != int(result) or result < 0:
        raise ValueError(f"{where}: expected a whole number of at least 0, got {value!r:.60}")
    return int(result)


def once(seen: dict[Any, str], key: Any, where: str) -> None:
    """Refuse a key met before, naming both places."""
    if key in seen:
        raise ValueError(f"{where}: duplicate id {key!r}; it stands already at {seen[key]}")
    seen[key] = where


def image_ref(name: str, path: Path, width: int = 0, height: int = 0, licence: str = "") -> ImageRef:
    """A reference to a picture file; its size is read from its header where it is not known and the file is there."""
    if (not width or not height) and path.is_file():
        try:
            width, height = pixels.read_size(path)
        except pixels.BadImage:
            width = height = 0  # whoever opens it names the reason
    return ImageRef(id=name, uri=str(path), width=width, height=height, licence=licence)


def find_picture(name: str, folders: Iterable[Path]) -> Path:
    """The first folder's file of that name; the first guess where none exists."""
    guesses = [folder / name for folder in folders]
    return next((guess for guess in guesses if guess.is_file()), guesses[0])


def picture_of_stem(folder: Path, stem: str) -> Path:
    """The picture in a folder with this stem, whatever its suffix; STEM.jpg where there is none."""
    for suffix in (*PICTURES, *(s.upper() for s in PICTURES)):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return folder / f"{stem}.jpg"


def pictures_in(folder: Path) -> list[Path]:
    """All picture files of a folder by name, numbers in order of size."""
    files = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES] if folder.is_dir() else []
    return sorted(files, key=lambda p: (len(p.stem), p.name) if p.stem.isdigit() else (0, p.name))

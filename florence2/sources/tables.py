"""Pictures in tables: Parquet files, and the Arrow files that Hugging Face datasets save. Knows pyarrow, no pixels.

A column of pictures holds bytes, or a struct of `bytes` and `path`. A cell's name is COLUMN/ROW/NAME, NAME being its
path's base name, else the row again. Of a table that has several such columns `image` is taken, else all.
"""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from florence2.sources import file_types

SUFFIXES = (".parquet", ".arrow")
NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
LICENCES = ("licence", "license")
PROBE = 4  # rows that tell whether a nameless column of bytes holds pictures


@dataclass(frozen=True)
class Cell:
    """One picture of a table: its name in it, and its licence where a column says it."""

    member: str
    licence: str = ""


def is_table(path: str | Path) -> bool:
    """By its suffix."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def picture_columns(path: str | Path) -> tuple[list[str], list[str]]:
    """The columns to take pictures from, and those left out though they hold some; ValueError if unreadable."""
    table = _open(path)
    features = _hugging_face(table.schema)
    found, lists = [], []
    for field in table.schema:
        if _bytes_of(field.type) is not None:
            feature = features.get(field.name, "Image" if field.name.lower() in NAMES else "Value")
            if feature == "Image" or (feature == "Value" and _begins_as_picture(table, field.name)):
                found.append(field.name)
        elif pa.types.is_list(field.type) and _bytes_of(field.type.value_type) is not None:
            lists.append(field.name)
    taken = ["image"] if "image" in found else found
    return taken, [name for name in (*found, *lists) if name not in taken]


def cells(path: str | Path, columns: list[str]) -> Iterator[Cell]:
    """Every cell of these columns, row by row; the pictures' bytes are not read."""
    table = _open(path)
    licence = next((name for name in LICENCES if name in table.schema.names), None)
    licences = [str(v or "") for v in table.column(licence)] if licence else [""] * table.rows
    for column in columns:
        paths = table.column(column, "path") if _has_path(table.schema.field(column).type) else [None] * table.rows
        for row, (own, terms) in enumerate(zip(paths, licences)):
            name = PurePosixPath(own.replace("\\", "/")).name if own else ""
            yield Cell(f"{column}/{row}/{name or row}", terms)


def read_cell(path: str | Path, member: str) -> bytes | None:
    """A cell's bytes, None where it is null; ValueError if the table is damaged or has no such cell."""
    parts = member.rsplit("/", 2)
    if len(parts) != 3 or not parts[1].isdigit():
        raise ValueError(f"expected a cell's name COLUMN/ROW/NAME, got {member!r:.80}")
    column, row = parts[0], int(parts[1])
    table = _open(path)
    if column not in table.schema.names or row >= table.rows:
        raise ValueError(f"has no row {row} of a column {column!r}")
    return table.cell(column, row)


class _Parquet:
    """A Parquet file, read a row group of one column at a time."""

    def __init__(self, path: str):
        self.file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        self.schema: pa.Schema = self.file.schema_arrow
        self.rows: int = self.file.metadata.num_rows
        counts = [self.file.metadata.row_group(n).num_rows for n in range(self.file.num_row_groups)]
        self.starts = list(accumulate(counts, initial=0))[:-1]
        self.group = lru_cache(maxsize=1)(self._group)

    def column(self, name: str, inner: str = "") -> list[Any]:
        """All values of one column, or of one field of a struct."""
        values = self.file.read(columns=[f"{name}.{inner}" if inner else name]).column(0).to_pylist()
        return [v and v[inner] for v in values] if inner else values

    def first(self, name: str, count: int) -> list[Any]:
        """The first values of one column."""
        batch = next(self.file.iter_batches(count, columns=[name]), None)
        return batch.column(0).to_pylist() if batch is not None else []

    def cell(self, name: str, row: int) -> bytes | None:
        """One value of a column of pictures."""
        number = bisect_right(self.starts, row) - 1
        return _value(self.group(name, number)[row - self.starts[number]])

    def _group(self, name: str, number: int) -> pa.ChunkedArray:
        wanted = f"{name}.bytes" if pa.types.is_struct(self.schema.field(name).type) else name
        return self.file.read_row_group(number, columns=[wanted]).column(0)


class _Arrow:
    """An Arrow stream or file, mapped into memory: nothing is read before it is asked for."""

    def __init__(self, path: str):
        mapped = pa.memory_map(path)
        stream = mapped.read(6) != b"ARROW1"
        mapped.seek(0)
        self.table = (pa.ipc.open_stream(mapped) if stream else pa.ipc.open_file(mapped)).read_all()
        self.schema: pa.Schema = self.table.schema
        self.rows: int = self.table.num_rows

    def column(self, name: str, inner: str = "") -> list[Any]:
        """All values of one column, or of one field of a struct."""
        chunks = self.table.column(name).chunks
        return [v for chunk in chunks for v in (chunk.field(inner) if inner else chunk).to_pylist()]

    def first(self, name: str, count: int) -> list[Any]:
        """The first values of one column."""
        return self.table.column(name).slice(0, count).to_pylist()

    def cell(self, name: str, row: int) -> bytes | None:
        """One value of a column of pictures."""
        return _value(self.table.column(name)[row])


def _open(path: str | Path) -> _Parquet | _Arrow:
    """The table, kept open while its file is the same; ValueError says how it is damaged."""
    found = os.stat(path)
    try:
        return _opened(os.fspath(path), found.st_size, found.st_mtime_ns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole table ({_first_line(error)})") from None


@lru_cache(maxsize=2)
def _opened(path: str, size: int, mtime_ns: int) -> _Parquet | _Arrow:
    return _Arrow(path) if path.lower().endswith(".arrow") else _Parquet(path)


def _bytes_of(type: pa.DataType) -> pa.DataType | None:
    """The type of a column's bytes, where it holds any."""
    if pa.types.is_struct(type):
        index = type.get_field_index("bytes")
        type = type.field(index).type if index >= 0 else pa.null()
    return type if pa.types.is_binary(type) or pa.types.is_large_binary(type) else None


def _has_path(type: pa.DataType) -> bool:
    return pa.types.is_struct(type) and type.get_field_index("path") >= 0


def _value(scalar: pa.Scalar) -> bytes | None:
    value = scalar.as_py()
    return value.get("bytes") if isinstance(value, dict) else value


def _begins_as_picture(table: _Parquet | _Arrow, column: str) -> bool:
    values = (v.get("bytes") if isinstance(v, dict) else v for v in table.first(column, PROBE))
    return any(v is not None and file_types.format_of(v[:16]) for v in values)


def _hugging_face(schema: pa.Schema) -> dict[str, str]:
    """Column -> Image, Audio, ... as the `datasets` library notes it in the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: str(kind.get("_type", "")) for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

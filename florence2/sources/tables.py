"""Pictures in tables: Parquet files, and the Arrow files that Hugging Face datasets save. Knows pyarrow, no pixels.

A column of pictures holds bytes, or a struct of `bytes` and `path`. A cell's name is COLUMN/ROW/NAME, NAME being its
path's base name, else the row again. Of a table that has several such columns `image` is taken, else all. A file may
be anything: what it says is checked before it is believed, and `child_process` lists it in a process of its own.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from florence2.labels import one_line
from florence2.object_store import ObjectFile, is_object_url
from florence2.sources import file_types
from florence2.structuring import parse_json

SUFFIXES = (".parquet", ".arrow")
NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
LICENCES = ("licence", "license")
PROBE = 4  # rows that tell whether a nameless column of bytes holds pictures
# a column chunk may unpack to this much, or else to so many times its size: pictures are packed already
UNPACKED, RATIO = 64 << 20, 100
BUFFER = 1 << 20  # bytes of a column that are read at once from an object
BATCH_BYTES = 16 << 20  # of cells that are held together


class TooLarge(ValueError):
    """A cell that would unpack to more than is allowed."""


@dataclass(frozen=True)
class Cell:
    """One picture of a table: its name in it, and its licence where a column says it."""

    member: str
    licence: str = ""
    path: str = ""  # as the table states it


def is_table(path: str | Path) -> bool:
    """By its suffix."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


@dataclass(frozen=True)
class Listing:
    """The pictures of a table, the columns left out though they hold some, and cells that other programs left."""

    cells: list[Cell]
    left_out: list[str]
    passed_over: list[str]


def listing(path: str | Path) -> Listing:
    """The cells of a table's columns of pictures, no picture read; ValueError says how the table is damaged."""
    columns, left_out = picture_columns(path)
    found = listed(path, columns)
    kept = [cell for cell in found if not file_types.is_left_behind(cell.path)]
    return Listing(kept, left_out, [cell.member for cell in found if file_types.is_left_behind(cell.path)])


def picture_columns(path: str | Path) -> tuple[list[str], list[str]]:
    """The columns to take pictures from, and those left out though they hold some; ValueError if unreadable."""
    with _explained(path):
        table = _open(path)
        twice = {name for name, count in Counter(table.schema.names).items() if count > 1}
        features = _hugging_face(table.schema)
        found, lists = [], []
        for field in table.schema:
            if _bytes_of(field.type) is not None:
                feature = features.get(field.name, "Image" if field.name.lower() in NAMES else "Value")
                if field.name in twice:
                    raise ValueError(f"{path}: has two columns called {field.name!r:.60}; name them apart")
                if feature == "Image" or (feature == "Value" and _begins_as_picture(table, field.name)):
                    found.append(field.name)
            elif pa.types.is_list(field.type) and _bytes_of(field.type.value_type) is not None:
                lists.append(field.name)
    taken = ["image"] if "image" in found else found
    return taken, [name for name in (*found, *lists) if name not in taken]


def column_names(path: str | Path) -> list[str]:
    """All columns of a table."""
    with _explained(path):
        return list(_open(path).schema.names)


def column(path: str | Path, name: str) -> list[Any]:
    """All values of a column that holds no pictures; ValueError if the table is damaged."""
    with _explained(path):
        return _open(path).column(name)


def class_names(path: str | Path) -> dict[str, list[str]]:
    """Column (or column.field) -> the names that its numbers stand for, as the `datasets` library notes them."""
    try:
        features = parse_json((_open(path).schema.metadata or {})[b"huggingface"])["info"]["features"]
        return dict(_class_labels(features, ""))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _class_labels(feature: Any, at: str) -> Iterator[tuple[str, list[str]]]:
    if isinstance(feature, list):
        feature = feature[0] if feature else {}
    if feature.get("_type") == "ClassLabel":
        yield at, [str(name) for name in feature["names"]]
    elif isinstance(feature.get("feature"), (dict, list)) and "_type" in feature:  # a Sequence or List of it
        yield from _class_labels(feature["feature"], at)
    else:
        for name, inner in feature.items():
            if isinstance(inner, (dict, list)):
                yield from _class_labels(inner, f"{at}.{name}" if at else name)


def listed(path: str | Path, columns: list[str]) -> list[Cell]:
    """Every cell of these columns, row by row; the pictures' bytes are not read. ValueError if damaged."""
    with _explained(path):
        return list(_cells(path, columns))


def _cells(path: str | Path, columns: list[str]) -> Iterator[Cell]:
    table = _open(path)
    names = table.schema.names
    licence = next((name for name in LICENCES if names.count(name) == 1), None)
    licences = [_text(v) for v in table.column(licence)] if licence else [""] * table.rows
    for column in columns:
        paths = table.column(column, "path") if _has_path(table.schema.field(column).type) else [None] * table.rows
        for row, (own, terms) in enumerate(zip(paths, licences)):
            place = _text(own).replace("\\", "/")
            yield Cell(f"{column}/{row}/{PurePosixPath(place).name or row}", terms, place)


def _text(value: Any) -> str:
    """A cell as text, whatever its type; bytes that are not UTF-8 as %XX."""
    if isinstance(value, bytes):
        return "".join(
            f"%{ord(c) - 0xDC00:02X}" if c > "\udc00" else c for c in value.decode("utf-8", "surrogateescape")
        )
    return "" if value is None else str(value)


def read_cell(path: str | Path, member: str) -> bytes | None:
    """A cell's bytes, None where it is null; ValueError if the table is damaged or has no such cell."""
    parts = member.rsplit("/", 2)
    if len(parts) != 3 or not parts[1].isdigit():
        raise ValueError(f"expected a cell's name COLUMN/ROW/NAME, got {member!r:.80}")
    column, row = parts[0], int(parts[1])
    with _explained(path):
        table = _open(path)
        if column not in table.schema.names or row >= table.rows:
            raise ValueError(f"has no row {row} of a column {column!r}")
        with _CELLS:
            return table.cell(column, row)


_CELLS = threading.Lock()  # an open table keeps its place, and pictures are read in threads
os.register_at_fork(after_in_child=_CELLS._at_fork_reinit)  # type: ignore[attr-defined]


class _Parquet:
    """A Parquet file, read a few cells of one column at a time, in order as long as they are asked for so."""

    def __init__(self, path: str):
        self.file = _parquet_file(path)
        self.schema: pa.Schema = self.file.schema_arrow
        self.rows: int = self.file.metadata.num_rows
        counts = [self.file.metadata.row_group(n).num_rows for n in range(self.file.num_row_groups)]
        self.starts = list(accumulate(counts, initial=0))[:-1]
        self._column = ""
        self._group = self._first = -1  # of the batch at hand
        self._batch: list[Any] | pa.Array = []
        self._batches: Iterator[Any] = iter(())

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
        if (name, number) != (self._column, self._group) or row < self._first:
            self._begin(name, number)
        while row >= self._first + len(self._batch):
            self._first += len(self._batch)
            batch = next(self._batches, None)
            if batch is None or not len(batch):
                raise ValueError(f"ends before its row {row}")
            self._batch = batch.column(0)
        return _value(self._batch[row - self._first])

    def _begin(self, name: str, number: int) -> None:
        """Read a row group's column from its beginning."""
        group = self.file.metadata.row_group(number)
        wanted = f"{name}.bytes" if pa.types.is_struct(self.schema.field(name).type) else name
        chunks = [group.column(n) for n in range(group.num_columns)]
        sizes = [(c.total_uncompressed_size, c.total_compressed_size) for c in chunks if c.path_in_schema == wanted]
        unpacked, packed = map(sum, zip(*sizes)) if sizes else (0, 0)
        if unpacked > max(UNPACKED, RATIO * packed):
            raise TooLarge(f"its column {name!r:.60} unpacks from {packed:,} to {unpacked:,} bytes")
        count = max(1, min(64, BATCH_BYTES * group.num_rows // max(1, unpacked)))
        self._column, self._group, self._first, self._batch = name, number, self.starts[number], []
        self._batches = self.file.iter_batches(count, row_groups=[number], columns=[wanted])


def _parquet_file(path: str) -> pq.ParquetFile:
    """Mapped into memory, or an object read in ranges."""
    if is_object_url(path):
        file = pa.PythonFile(ObjectFile(path), mode="r")
        return pq.ParquetFile(file, buffer_size=BUFFER, page_checksum_verification=True)
    return pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)


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
        for chunk in chunks:
            chunk.validate(full=True)
        return [v for chunk in chunks for v in (chunk.field(inner) if inner else chunk).to_pylist()]

    def first(self, name: str, count: int) -> list[Any]:
        """The first values of one column."""
        some = self.table.column(name).slice(0, count)
        some.validate(full=True)
        values: list[Any] = some.to_pylist()
        return values

    def cell(self, name: str, row: int) -> bytes | None:
        """One value of a column of pictures; where it lies is checked, as a flipped bit would lead anywhere."""
        one = self.table.column(name).slice(row, 1)
        one.validate(full=True)
        return _value(one[0])


def _open(path: str | Path) -> _Parquet | _Arrow:
    """The table, kept open while its file is the same; ValueError says how it is damaged."""
    if is_object_url(path):
        facts = ObjectFile(path).facts
        stamp: tuple[int, int | str] = (facts.size, facts.tag)
    else:
        found = os.stat(path)
        stamp = (found.st_size, found.st_mtime_ns)
    with _explained(path):
        return _opened(os.fspath(path), *stamp)


@contextmanager
def _explained(path: str | Path) -> Iterator[None]:
    """Around reading a table: what a damaged one raises, which may be anything, is a ValueError that names it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ValueError) and not isinstance(error, (pa.ArrowException, UnicodeError)):
            raise  # raised by this file
        if isinstance(error, OSError) and is_object_url(path):
            raise  # the object store does not answer, or has no such object
        raise ValueError(f"{path}: not a whole table ({one_line(error)})") from None


@lru_cache(maxsize=2)
def _opened(path: str, size: int, changed: int | str) -> _Parquet | _Arrow:
    return _Arrow(path) if path.lower().endswith(".arrow") else _Parquet(path)


def _bytes_of(type: pa.DataType) -> pa.DataType | None:
    """The type of a column's bytes, where it holds any."""
    if pa.types.is_struct(type):
        index = type.get_field_index("bytes")
        type = type.field(index).type if index >= 0 else pa.null()
    return type if pa.types.is_binary(type) or pa.types.is_large_binary(type) else None


def _has_path(type: pa.DataType) -> bool:
    return bool(pa.types.is_struct(type) and type.get_field_index("path") >= 0)


def _value(scalar: pa.Scalar) -> bytes | None:
    value = scalar.as_py()
    return value.get("bytes") if isinstance(value, dict) else value


def _begins_as_picture(table: _Parquet | _Arrow, column: str) -> bool:
    values = (v.get("bytes") if isinstance(v, dict) else v for v in table.first(column, PROBE))
    return any(v is not None and file_types.format_of(v[:16]) for v in values)


def _hugging_face(schema: pa.Schema) -> dict[str, str]:
    """Column -> Image, Audio, ... as the `datasets` library notes it in the file."""
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: str(kind.get("_type", "")) for name, kind in features.items() if isinstance(kind, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}

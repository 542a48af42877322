"""Fragments: the Parquet files of a store, as a snapshot lists them and before they are written; reading them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from florence2.object_store import NoAnswer
from florence2.store import layout, schema
from florence2.store.sealed import Damaged, Missing
from florence2.store.storage import Storage

ROW_GROUP = 65_536  # rows; a fragment of a unit is far smaller
THREADED = 100_000  # rows of a file above which its columns are read in threads


@dataclass(frozen=True)
class Fragment:
    """One Parquet file of a snapshot. `units` are the image units its rows belong to."""

    path: str
    rows: int
    sha256: str
    units: tuple[str, ...] = ()
    run_id: str = ""

    @property
    def table(self) -> str:
        """Which of the four tables it is part of."""
        return layout.table_of(self.path)

    @property
    def round(self) -> int:
        """The round of the operator that wrote it, -1 where its rows are of several or of pictures."""
        return layout.round_of(self.path)

    @property
    def is_compacted(self) -> bool:
        """Whether it holds the rows of other fragments once more."""
        return layout.is_compacted(self.path)

    @property
    def is_revised(self) -> bool:
        """Whether it holds rows of `images` that were written once more, changed."""
        return layout.is_revised(self.path)


@dataclass(frozen=True)
class PendingFragment:
    """A fragment to be written: path, rows, image units, run, and the facts of its maker that go into the file."""

    path: str
    rows: Sequence[schema.Row]
    units: Sequence[str]
    run_id: str
    about: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        name = layout.table_of(self.path)
        facts = tuple((f"florence2.{key}", str(value)) for key, value in self.about.items())
        return _data(name, self.rows, facts) if self.rows else _empty(name, facts)


def _data(name: str, rows: Sequence[schema.Row], facts: tuple[tuple[str, str], ...]) -> bytes:
    return parquet_bytes(schema.table(name, rows), dict(facts))


@lru_cache(maxsize=1024)
def _empty(name: str, facts: tuple[tuple[str, str], ...]) -> bytes:
    """A fragment of no rows: a chain of rules writes the same one for most units."""
    return _data(name, (), facts)


def parquet_bytes(table: pa.Table, metadata: dict[str, Any] | None = None, row_group: int = ROW_GROUP) -> bytes:
    """A table as Parquet: the same table and library give the same bytes. Nulls stay nulls, lists stay flat."""
    if metadata:
        table = table.replace_schema_metadata({key: str(value) for key, value in sorted(metadata.items())})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group, write_page_checksum=True)
    return sink.getvalue()


def open_file(storage: Storage, fragment: Fragment) -> pq.ParquetFile:
    """A fragment's file with its footer read; ValueError names one that is missing or is not what was written.

    Parquet's own checksums leave out the footer, so the whole file is hashed: a large one once while it is the same.
    """
    path = fragment.path
    with explain_read_errors(storage, path):
        source, found = storage.source(path), ""
        if fragment.sha256 and fragment.is_compacted:
            found = _hash_of(storage, path)
        elif fragment.sha256:
            data = storage.read(path)
            source, found = pa.BufferReader(data), hashlib.sha256(data).hexdigest()
        if found != fragment.sha256:
            raise pa.ArrowInvalid("its content is not what its snapshot says")
        file = pq.ParquetFile(source, page_checksum_verification=True)
        odd = set(file.schema_arrow.names) - set(schema.SCHEMAS[layout.table_of(path)].names)
        if odd:
            raise pa.ArrowInvalid(f"column {min(odd)!r:.40} is none of the table's, or of a later version's")
        _expect_readable(file, storage.location(path))
        return file


def _expect_readable(file: pq.ParquetFile, path: str) -> None:
    """Boxes were once lists of fixed size, and such lists with nulls among them pyarrow reads from 26 on only."""
    names = file.schema_arrow.names
    if "box" not in names or int(pa.__version__.split(".")[0]) >= 26:
        return
    if pa.types.is_fixed_size_list(file.schema_arrow.field("box").type):
        raise ValueError(
            f"{path}: its boxes have an earlier form, which needs pyarrow 26, and this is {pa.__version__}"
        )


_HASHES: dict[tuple[str, Any], str] = {}  # (place, stamp) -> SHA-256 of the file


def _hash_of(storage: Storage, path: str) -> str:
    key = storage.location(path), storage.stamp(path)
    if key not in _HASHES:
        _HASHES[key] = storage.sha256(path)
    return _HASHES[key]


def facts(storage: Storage, fragment: Fragment) -> dict[str, str]:
    """What a fragment's file says of its maker, by the keys that its writer gave (`PendingFragment.about`)."""
    metadata = open_file(storage, fragment).schema_arrow.metadata or {}
    prefix = b"florence2."
    return {key[len(prefix) :].decode(): v.decode() for key, v in metadata.items() if key.startswith(prefix)}


def read(storage: Storage, fragment: Fragment, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one fragment; ValueError names a damaged or missing one."""
    file = open_file(storage, fragment)
    with explain_read_errors(storage, fragment.path):
        many = file.metadata.num_rows > THREADED  # of a few rows threads cost more than they bring
        table = file.read(columns=list(columns) if columns else None, use_threads=many)
    place = table.schema.get_field_index("box")
    if place >= 0 and table.schema.field(place).type != schema.COORDS:  # of an earlier version
        table = table.set_column(place, "box", table["box"].cast(schema.COORDS))
    return table


def read_table(
    storage: Storage, name: str, fragments: Sequence[Fragment], columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of several fragments of one table, in order."""
    if not fragments:
        empty = schema.SCHEMAS[name].empty_table()
        return empty.select(columns) if columns else empty
    tables = [read(storage, fragment, columns).replace_schema_metadata(None) for fragment in fragments]
    return pa.concat_tables(tables, promote_options="default")  # an older fragment may lack a column


def readable(storage: Storage, path: str) -> bool:
    """Whether a Parquet file can be read through, its page checksums included."""
    try:
        for _ in pq.ParquetFile(storage.source(path), page_checksum_verification=True).iter_batches():
            pass
    except NoAnswer:
        raise
    except (pa.ArrowException, OSError):
        return False
    return True


@contextmanager
def explain_read_errors(storage: Storage, path: str) -> Iterator[None]:
    """Around reading a fragment: what goes wrong is Missing or Damaged, which name the file and the remedy."""
    remedy = f"florence2 verify {storage.location()} --repair makes it again"
    try:
        yield
    except FileNotFoundError:
        raise Missing(f"{storage.location(path)}: missing; {remedy}") from None
    except NoAnswer:
        raise  # it says nothing of the file
    except (pa.ArrowException, OSError) as error:
        what = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise Damaged(f"{storage.location(path)}: damaged ({what}); {remedy}") from None

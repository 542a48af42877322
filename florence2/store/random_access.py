"""Samples by position, in bounded memory; records are made of the rows that are asked for alone.

A compacted file holds its rows in the order of its pictures, in small row groups: where a picture's rows are is
computed once from the file's column of picture ids. The small fragments of any other group are read whole, and their
rows put in that order in memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from florence2.records import Sample
from florence2.store import import_metadata, layout, parquet, scan, schema
from florence2.store.image_rows import sample_of
from florence2.store.parquet import Fragment
from florence2.store.scan import UnitGroup
from florence2.store.snapshots import Snapshot
from florence2.store.storage import Storage

TABLES_READ = ("images", "annotations", "decisions")
HELD_BYTES = 64 << 20  # of rows that are held, whatever `keep` says
TOGETHER = 16  # samples that are made at once: of one row it costs nearly as much
MADE = 4  # times so many samples are held


class RandomSamples(Sequence[Sample]):
    """The samples of a snapshot by position. `keep` groups of units or compacted files are held at a time."""

    def __init__(self, storage: Storage, snapshot: Snapshot, view: str = "current", keep: int = 16):
        self.storage, self.view, self.keep = storage, scan.known_view(view), keep
        self.groups = scan.unit_groups(snapshot)
        self.group_sizes = [sum(scan.count_ok(storage, f) for f in group.fragments["images"]) for group in self.groups]
        self._starts = [0, *accumulate(self.group_sizes)]
        self._row_indices: dict[int, RowIndex | None] = {}
        self._open: OrderedDict[int, GroupRows | CompactedReader] = OrderedDict()
        self._made: OrderedDict[tuple[int, int], list[Sample]] = OrderedDict()

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.storage.location()}: no sample {index}; it has {len(self)}")
        index %= len(self)
        number = bisect_right(self._starts, index) - 1
        part, place = divmod(index - self._starts[number], TOGETHER)
        if (number, part) not in self._made:
            self._made[number, part] = self._make(number, part * TOGETHER)
            if len(self._made) > MADE:
                self._made.popitem(last=False)
        return self._made[number, part][place]

    def _make(self, number: int, start: int) -> list[Sample]:
        """The next samples of a group from a position on."""
        if number not in self._open:
            self._open[number] = self._open_group(number)
        self._open.move_to_end(number)
        samples = self._open[number].samples(start, min(start + TOGETHER, self.group_sizes[number]))
        self._give_up_old()
        return [sample.current() for sample in samples] if self.view == "current" else samples

    def _give_up_old(self) -> None:
        """Close the groups that were used longest ago, but never the last one."""
        held = sum(reader.nbytes for reader in self._open.values()) if len(self._open) > 1 else 0
        while len(self._open) > 1 and (len(self._open) > self.keep or held > HELD_BYTES):
            held -= self._open.popitem(last=False)[1].nbytes

    def _open_group(self, number: int) -> GroupRows | CompactedReader:
        group = self.groups[number]
        if number not in self._row_indices:
            self._row_indices[number] = row_index_of(self.storage, group)
        index = self._row_indices[number]
        if index is None:
            return GroupRows(self.storage, group)
        return CompactedReader(self.storage, group, index)


class RowIndex:
    """Where a compacted file's good pictures are among its rows, and where each picture's rows are in each table."""

    def __init__(self, good: np.ndarray, bounds: dict[str, np.ndarray]):
        self.good, self.bounds = good, bounds


def row_index_of(storage: Storage, group: UnitGroup) -> RowIndex | None:
    """The row index of a compacted group; None where its rows are not one file a table, in the pictures' order."""
    if any(len(group.fragments.get(name, ())) > 1 for name in TABLES_READ) or not _compacted(group.fragments["images"]):
        return None
    images = parquet.read(storage, group.fragments["images"][0], ["id", "status"])
    ids = images["id"].combine_chunks()
    bounds = {}
    for name in TABLES_READ[1:]:
        for fragment in group.fragments.get(name, ()):
            column = parquet.read(storage, fragment, ["image_id"])["image_id"]
            rows = image_positions(column, ids)
            if (np.diff(rows) < 0).any() or (rows >= len(ids)).any():
                return None
            bounds[name] = np.searchsorted(rows, np.arange(len(ids) + 1)).astype(np.int32)
    good = np.flatnonzero(pc.equal(images["status"], "ok").to_numpy()).astype(np.int32)
    return RowIndex(good, bounds)


def image_positions(column: pa.ChunkedArray, ids: pa.Array) -> np.ndarray:
    """For each row the position of its picture among `ids`; those of none after all others."""
    positions: np.ndarray = pc.fill_null(pc.index_in(column, ids), len(ids)).to_numpy()
    return positions


def _compacted(found: Sequence[Fragment]) -> bool:
    return all(layout.is_compacted(fragment.path) for fragment in found)


class GroupRows:
    """The rows of a group of small fragments in memory, in the order of its pictures."""

    def __init__(self, storage: Storage, group: UnitGroup):
        tables = {
            name: parquet.read_table(storage, name, group.fragments.get(name, ()), schema.COLUMNS_READ[name])
            for name in TABLES_READ
        }
        images = tables["images"].filter(pc.equal(tables["images"]["status"], "ok"))
        ids = images["id"].combine_chunks()
        self.metadata = scan.import_metadata_of(storage, group.imports)
        self.images = images.combine_chunks()
        self.tables, self.bounds = {}, {}
        for name in TABLES_READ[1:]:
            positions = image_positions(tables[name]["image_id"], ids)
            order = np.argsort(positions, kind="stable")
            self.tables[name] = tables[name].take(order).combine_chunks()
            self.bounds[name] = np.searchsorted(positions[order], np.arange(len(ids) + 1))
        self.nbytes = sum(table.nbytes for table in (self.images, *self.tables.values()))

    def samples(self, start: int, stop: int) -> list[Sample]:
        """The good pictures from the `start`-th on, up to the `stop`-th, with all their annotations and verdicts."""
        bare = [sample_of(columns) for columns in schema.each_row(self.images.slice(start, stop - start))]
        found = []
        for name in TABLES_READ[1:]:
            first, last = self.bounds[name][[start, stop]].tolist()
            found.append(self.tables[name].slice(first, last - first) if last > first else None)
        return import_metadata.apply(schema.samples(bare, *found), self.metadata)


class CompactedReader:
    """The open files of a compacted group; of each table the row groups that were read last are held."""

    def __init__(self, storage: Storage, group: UnitGroup, index: RowIndex):
        self.storage, self.index = storage, index
        self.paths = {n: found[0].path for n, found in group.fragments.items()}
        self.files = {
            n: parquet.open_file(storage, group.fragments[n][0]) for n in TABLES_READ if group.fragments.get(n)
        }
        self.starts = {name: _row_group_starts(file) for name, file in self.files.items()}
        self._held: dict[str, tuple[int, int, pa.Table]] = {}

    @property
    def nbytes(self) -> int:
        """Of the rows that are held."""
        return sum(table.nbytes for _, _, table in self._held.values())

    def samples(self, start: int, stop: int) -> list[Sample]:
        """The good pictures from the `start`-th on, up to the `stop`-th, with all their annotations and verdicts."""
        good = self.index.good[start:stop]
        first, last = int(good[0]), int(good[-1]) + 1
        rows = self._rows("images", first, last).take(good - first)
        bare = [sample_of(columns) for columns in schema.each_row(rows)]
        tables = []
        for name in TABLES_READ[1:]:
            bounds = self.index.bounds.get(name)
            low, high = (0, 0) if bounds is None else bounds[[first, last]].tolist()
            tables.append(self._rows(name, low, high) if high > low else None)
        return schema.samples(bare, *tables)

    def _rows(self, name: str, start: int, end: int) -> pa.Table:
        low, high, table = self._held.get(name, (0, 0, None))
        if not low <= start < end <= high:
            starts = self.starts[name]
            first, last = bisect_right(starts, start) - 1, bisect_right(starts, end - 1)
            with parquet.explain_read_errors(self.storage, self.paths[name]):
                table = self.files[name].read_row_groups(list(range(first, last)))
            low, high = starts[first], starts[last]
            self._held[name] = low, high, table
        return table.slice(start - low, end - start)


def _row_group_starts(file: pq.ParquetFile) -> list[int]:
    metadata = file.metadata
    return [0, *accumulate(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))]

"""One picture's sample at a time, of any snapshot, in any layout: what a person who leafs through a store asks for.

The tables of fragments that were read are kept, up to a number of bytes. A fragment is never changed, so that a new
snapshot costs the reading of what it added.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from florence2.records import Sample
from florence2.store import import_metadata, parquet, schema
from florence2.store.image_rows import ImageRow, row_of
from florence2.store.import_metadata import Covered, ImportMetadata
from florence2.store.parquet import Fragment
from florence2.store.scan import UnitGroup
from florence2.store.storage import Storage

KEEP_BYTES = 256 << 20
OVERHEAD = 20_000  # of a table of few rows
_KEY = {"images": "id", "annotations": "image_id", "decisions": "image_id"}


@dataclass(frozen=True)
class PictureState:
    """All that a snapshot holds of one picture.

    `sample` holds rejected items and every verdict; `runs[n]` names the run that brought `sample.decisions[n]`.
    `stated` is what the picture's row, then each import says of its coverage, in order.
    """

    row: ImageRow
    sample: Sample
    runs: tuple[str, ...]
    stated: tuple[ImportMetadata, ...]

    def coverage_before(self, number: int) -> Covered:
        """The coverage by the first of `stated` alone, up to `number`."""
        of_imports = import_metadata.combine({"": one} for one in self.stated[1:number])
        return {**self.row.coverage, **of_imports.get("", ImportMetadata()).coverage}


class _Kept(NamedTuple):
    table: pa.Table
    pictures: frozenset[str]
    metadata: dict[str, ImportMetadata]

    @property
    def size(self) -> int:
        """Bytes in memory, about."""
        return OVERHEAD + int(self.table.nbytes)


class PictureReader:
    """Reads pictures by id; safe to share among threads."""

    def __init__(self, storage: Storage, keep_bytes: int = KEEP_BYTES) -> None:
        self.storage, self.keep_bytes = storage, keep_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, group: UnitGroup, image_id: str) -> PictureState | None:
        """The picture's state by the fragments of its group; None where the group has no such picture."""
        rows: dict[str, list[pa.Table]] = {}
        stated: list[ImportMetadata] = []
        imports = {fragment.path for fragment in group.imports}
        for name, key in _KEY.items():
            rows[name] = []
            for fragment in group.fragments.get(name, ()):
                if not fragment.rows and fragment.path not in imports:
                    continue
                kept = self._table(fragment)
                if fragment.path in imports and image_id in kept.metadata:
                    stated.append(kept.metadata[image_id])
                if image_id in kept.pictures:
                    rows[name].append(kept.table.filter(pc.field(key) == image_id))
        if not rows["images"]:
            return None
        row = row_of(schema.rows(rows["images"][-1])[0])
        annotations, decisions = (_joined(name, rows[name]) for name in ("annotations", "decisions"))
        (sample,) = schema.samples([row.sample()], annotations, decisions)
        (sample,) = import_metadata.apply([sample], import_metadata.combine({image_id: one} for one in stated))
        order = decisions.select(["round", "seq", "run_id"]).to_pylist()
        runs = [one["run_id"] or "" for one in sorted(order, key=lambda one: (one["round"], one["seq"]))]
        return PictureState(row, sample, tuple(runs), (ImportMetadata(row.split, row.coverage), *stated))

    def _table(self, fragment: Fragment) -> _Kept:
        with self._lock:
            found = self._kept.get(fragment.path)
            if found is not None:
                self._kept.move_to_end(fragment.path)
                return found
        table = parquet.read(self.storage, fragment).combine_chunks()
        pictures = frozenset(table[_KEY[fragment.table]].to_pylist())
        found = _Kept(table.replace_schema_metadata(None), pictures, import_metadata.decode(table.schema.metadata))
        with self._lock:
            if fragment.path not in self._kept:
                self._kept[fragment.path] = found
                self._bytes += found.size
            while self._bytes > self.keep_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].size
        return found


def _joined(name: str, tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables(tables, promote_options="default") if tables else schema.SCHEMAS[name].empty_table()

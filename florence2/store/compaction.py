"""Compaction: the rows of a snapshot once more in few large files, in the pictures' order. The small files stay."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from florence2 import arguments
from florence2.store import failures, layout, parquet, random_access, scan, snapshots
from florence2.store.chain import Chain
from florence2.store.image_rows import coverage_of, coverage_rows
from florence2.store.import_metadata import ImportMetadata
from florence2.store.layout import TABLES
from florence2.store.parquet import Fragment
from florence2.store.sealed import Missing
from florence2.store.snapshots import Snapshot
from florence2.store.storage import Storage

COMPACT_ROWS = 20_000  # annotations in one compacted file
ROW_GROUP = 1_000  # rows of it that random access reads at once


def compact(storage: Storage, number: int | None = None, rows: int = COMPACT_ROWS) -> Snapshot:
    """A new snapshot with the same rows in few large files; ends when no other command came between."""
    number = None if number is None else arguments.whole("snapshot", number, least=1)
    rows = arguments.whole("rows", rows, least=1)

    def once() -> Snapshot:
        newest = snapshots.read(storage)
        base = newest if number is None else snapshots.read(storage, number)
        if not base.fragments:
            raise ValueError(f"{storage.location()}: no snapshot to compact; annotate something first")
        if number is None and base.phase.get("compact") and base.phase.get("rows") == rows:
            return base  # nothing has come since
        made = Snapshot(
            parent=newest.number,
            fragments=tuple(_written(storage, *made) for made in _files(storage, base, rows)),
            operators=base.operators,
            phase={"compact": base.number, "rows": rows},
            compacts=base.number,
        )
        made = snapshots.write(storage, made, newest.number)
        Chain(storage).extend(made.number)
        return made

    return snapshots.attempts(storage, once)


def compact_again(storage: Storage, snapshot: Snapshot, lost: Collection[Fragment]) -> None:
    """Write those of a compacted snapshot's large files that are lost; Missing where that cannot be."""
    if snapshot.phase.get("compact") != snapshot.compacts:
        where = f"{storage.location(layout.COMPACT)}: the snapshot that compacted {snapshot.compacts} is lost"
        raise Missing(f"{where}, and with it which rows went into which file; compact the store again")
    base = snapshots.read(storage, snapshot.compacts)
    left = {fragment.path: fragment for fragment in lost}
    for made, data in _files(storage, base, snapshot.phase.get("rows", COMPACT_ROWS)):
        for path in [path for path, f in left.items() if (f.table, f.sha256) == (made.table, made.sha256)]:
            _written(storage, dataclasses.replace(made, path=path), data)
            del left[path]
    if left:
        path = storage.location(min(left))
        raise Missing(f"{path}: its rows are written otherwise by this version; compact the store again")


def _files(storage: Storage, base: Snapshot, rows: int) -> Iterator[tuple[Fragment, bytes]]:
    """The large files of a snapshot, one after another, and what is in them."""
    for part, chunk in enumerate(_chunks(scan.unit_groups(base), rows)):
        units = tuple(unit for group in chunk for unit in group.units)
        of = {name: [f for group in chunk for f in group.fragments.get(name, ())] for name in TABLES}
        ids = parquet.read_table(storage, "images", of["images"], ["id"])["id"].combine_chunks()
        metadata = scan.import_metadata_of(storage, [f for group in chunk for f in group.imports])
        for name in TABLES:
            if of[name] or name == "images":
                data, count = _compacted(storage, name, of, ids, metadata)
                sha256 = hashlib.sha256(data).hexdigest()
                yield Fragment(layout.compacted(base.number, name, part, sha256), count, sha256, units), data


def _chunks(groups: list[scan.UnitGroup], rows: int) -> Iterator[list[scan.UnitGroup]]:
    chunk: list[scan.UnitGroup] = []
    size = 0
    for group in groups:
        more = sum(fragment.rows for fragment in group.fragments.get("annotations", ()))
        if chunk and size + more > rows:
            yield chunk
            chunk, size = [], 0
        chunk.append(group)
        size += more
    if chunk:
        yield chunk


def _compacted(
    storage: Storage,
    name: str,
    of: Mapping[str, Sequence[Fragment]],
    ids: pa.Array,
    metadata: Mapping[str, ImportMetadata],
) -> tuple[bytes, int]:
    """One file of a table and its number of rows: in the order of the pictures `ids`, a picture's as they came."""
    facts = {}
    if name == "images":
        table = parquet.read_table(storage, name, of[name])
        if metadata:  # the imports' fragments are merged away: their metadata goes into the rows
            table = _with_metadata(table, metadata)
    elif name == "failures":
        tables, counts = zip(*failures.each_counted(storage, of[name], of["annotations"]))
        table, order = _ordered(pa.concat_tables(tables, promote_options="default"), ids)
        flags = [flag for each in counts for flag in each]
        facts = failures.superseded_facts([row for row, old in enumerate(order) if not flags[old]])
    else:
        table, _ = _ordered(parquet.read_table(storage, name, of[name]), ids)
    return parquet.parquet_bytes(table, facts, row_group=ROW_GROUP), table.num_rows


def _ordered(table: pa.Table, ids: pa.Array) -> tuple[pa.Table, np.ndarray]:
    """Rows in the order of their pictures, and where each was."""
    order = np.argsort(random_access.image_positions(table["image_id"], ids), kind="stable")
    return table.take(order), order


def _written(storage: Storage, fragment: Fragment, data: bytes) -> Fragment:
    """The fragment, its file written unless it is there and whole."""
    path = fragment.path
    if not storage.put_if_absent([(path, data)])[0] and storage.sha256(path) != fragment.sha256:
        storage.discard(path)
        storage.put_if_absent([(path, data)])
    return fragment


def _with_metadata(images: pa.Table, metadata: Mapping[str, ImportMetadata]) -> pa.Table:
    """The table `images` with the imports' metadata in its columns of split and coverage."""
    names = images["id"].to_pylist()
    coverage = [coverage_of(value) for value in images["label_coverage"].to_pylist()]
    every = [metadata.get(name, ImportMetadata()) for name in names]
    columns = {
        "split": [old or new.split or None for old, new in zip(images["split"].to_pylist(), every)],
        "label_coverage": [coverage_rows({**old, **new.coverage}) for old, new in zip(coverage, every)],
    }
    for name, values in columns.items():
        field = images.schema.field(name)
        images = images.set_column(images.schema.get_field_index(name), field, pa.array(values, field.type))
    return images

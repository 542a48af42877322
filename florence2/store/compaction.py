"""Compaction: the rows of a snapshot once more in few large files, in the pictures' order. The small files stay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from florence2.store import layout, parquet, random_access, scan, schema, snapshots
from florence2.store.chain import Chain
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
    while True:
        newest = snapshots.read(storage)
        base = newest if number is None else snapshots.read(storage, number)
        if not base.fragments:
            raise ValueError(f"{storage.location()}: no snapshot to compact; annotate something first")
        if number is None and base.phase.get("compact") and base.phase.get("rows") == rows:
            return base  # nothing has come since
        made = Snapshot(
            parent=newest.number,
            fragments=tuple(compacted(storage, base, rows)),
            operators=base.operators,
            phase={"compact": base.number, "rows": rows},
            compacts=base.number,
        )
        try:
            made = snapshots.write(storage, made, newest.number)
        except snapshots.StaleBase:
            continue
        Chain(storage).extend(made.number)
        return made


def compact_again(storage: Storage, snapshot: Snapshot) -> None:
    """Write the large files of a compacted snapshot where they are lacking or damaged."""
    if snapshot.phase.get("compact") != snapshot.compacts:
        lost = f"{storage.location(layout.COMPACT)}: the snapshot that compacted {snapshot.compacts} is lost"
        raise Missing(f"{lost}, and with it which rows went into which file; compact the store again")
    compacted(storage, snapshots.read(storage, snapshot.compacts), snapshot.phase.get("rows", COMPACT_ROWS))


def compacted(storage: Storage, base: Snapshot, rows: int) -> list[Fragment]:
    """The large files of a snapshot, written where they are lacking or damaged."""
    fragments = []
    for part, chunk in enumerate(_chunks(scan.unit_groups(base), rows)):
        units = tuple(unit for group in chunk for unit in group.units)
        images = [fragment for group in chunk for fragment in group.fragments["images"]]
        ids = parquet.read_table(storage, "images", images, ["id"])["id"].combine_chunks()
        metadata = scan.import_metadata_of(storage, [fragment for group in chunk for fragment in group.imports])
        for name in TABLES:
            parts = [fragment for group in chunk for fragment in group.fragments.get(name, ())]
            if parts or name == "images":
                fragments.append(_write_compacted(storage, base.number, name, part, parts, units, ids, metadata))
    return fragments


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


def _write_compacted(
    storage: Storage,
    number: int,
    name: str,
    part: int,
    parts: list[Fragment],
    units: tuple[str, ...],
    ids: pa.Array,
    metadata: Mapping[str, ImportMetadata],
) -> Fragment:
    """One file of a table, its rows in the order of the pictures `ids`, a picture's own in the order they came."""
    table = parquet.read_table(storage, name, parts)
    if name == "images" and metadata:  # the imports' fragments are merged away: their metadata goes into the rows
        table = _with_metadata(table, metadata)
    if name != "images":
        table = table.take(np.argsort(random_access.image_positions(table["image_id"], ids), kind="stable"))
    data = parquet.parquet_bytes(table, row_group=ROW_GROUP)
    path = layout.compacted(number, name, part)
    sha256 = hashlib.sha256(data).hexdigest()
    if not storage.put_if_absent([(path, data)])[0] and storage.sha256(path) != sha256:
        storage.discard(path)
        storage.put_if_absent([(path, data)])
    return Fragment(path, table.num_rows, sha256, units)


def _with_metadata(images: pa.Table, metadata: Mapping[str, ImportMetadata]) -> pa.Table:
    """The table `images` with the imports' metadata in its columns of split and coverage."""
    names = images["id"].to_pylist()
    coverage = [schema.coverage_of(value) for value in images["label_coverage"].to_pylist()]
    every = [metadata.get(name, ImportMetadata()) for name in names]
    columns = {
        "split": [old or new.split or None for old, new in zip(images["split"].to_pylist(), every)],
        "label_coverage": [schema.coverage_rows({**old, **new.coverage}) for old, new in zip(coverage, every)],
    }
    for name, values in columns.items():
        field = images.schema.field(name)
        images = images.set_column(images.schema.get_field_index(name), field, pa.array(values, field.type))
    return images

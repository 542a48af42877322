"""Keeping a store sound: verify its bytes, gather small fragments into large ones, step back to an earlier snapshot.

Nothing here changes or removes a fragment that a snapshot names; a damaged one is moved to tmp/ so that it can be made
again under its name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from florence2.store import commit, random_access, scan, schema, snapshots
from florence2.store.import_metadata import ImportMetadata
from florence2.store.schema import TABLES
from florence2.store.snapshots import Fragment, Snapshot

COMPACT_ROWS = 20_000  # annotations in one compacted file
ROW_GROUP = 1_000  # rows of it that random access reads at once


@dataclass(frozen=True)
class Damage:
    """A fragment that is not what its snapshot says, and how: missing, changed or unreadable."""

    path: str
    cause: str
    fragment: Fragment | None = None


def verify(root: Path, number: int | None = None) -> list[Damage]:
    """Every damaged or missing fragment of every snapshot (or of one), and unreferenced ones that cannot be read."""
    wanted: dict[str, Fragment] = {}
    runs: set[str] = set()
    found = []
    for n in snapshots.numbers(root) if number is None else [number]:
        try:
            commit.unsealed((root / snapshots.file_of(n)).read_bytes())
            snapshot = snapshots.read(root, n)
        except (ValueError, OSError):
            found.append(Damage(snapshots.file_of(n), "unreadable"))
            continue
        for fragment in snapshot.fragments:
            wanted.setdefault(fragment.path, fragment)
        runs.update(f"runs/{operator.run_id}.json" for operator in snapshot.operators)
    found += [Damage(path, cause) for path in sorted(runs) if (cause := _check_run(root / path))]
    for path, fragment in wanted.items():
        cause = check(root, fragment)
        if cause:
            found.append(Damage(path, cause, fragment))
    for path in unreferenced(root, wanted):
        if not readable(root / path):
            found.append(Damage(path, "unreadable"))
    return found


def _check_run(path: Path) -> str:
    try:
        commit.unsealed(path.read_bytes())
    except FileNotFoundError:
        return "missing"
    except (ValueError, OSError):
        return "unreadable"
    return ""


def check(root: Path, fragment: Fragment) -> str:
    """ "" if the fragment is what the snapshot says, else one word."""
    try:
        return "" if commit.sha256_of(root / fragment.path) == fragment.sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"


def readable(path: Path) -> bool:
    """Whether a Parquet file can be read through, its page checksums included."""
    try:
        for _ in pq.ParquetFile(path, page_checksum_verification=True).iter_batches():
            pass
    except (pa.ArrowException, OSError):
        return False
    return True


def unreferenced(root: Path, known: dict[str, Fragment]) -> Iterator[str]:
    """Fragments that no snapshot names: what an interrupted command left, to be taken up by the next."""
    for name in TABLES:
        for path in sorted((root / name).glob("**/*.parquet")):
            relative = path.relative_to(root).as_posix()
            if relative not in known:
                yield relative


def quarantine(root: Path, relative: str) -> None:
    """Move a damaged fragment into tmp/, so that its name is free to be made again."""
    commit.make_folder(root, root / "tmp")
    try:
        os.replace(root / relative, root / "tmp" / f"damaged-{os.urandom(4).hex()}-{Path(relative).name}")
    except FileNotFoundError:
        pass


def compact(root: Path, number: int | None = None, rows: int = COMPACT_ROWS) -> Snapshot:
    """A new snapshot with the same rows in few large files, pictures in their order; the old files stay."""
    base = snapshots.read(root, number)
    if not base.fragments:
        raise ValueError(f"{root}: no snapshot to compact; annotate something first")
    if number is None and base.phase.get("compact") and base.phase.get("rows") == rows:
        return base  # nothing has come since
    made = Snapshot(
        parent=snapshots.numbers(root)[-1],
        fragments=tuple(compacted(root, base, rows)),
        operators=base.operators,
        phase={"compact": base.number, "rows": rows},
        compacts=base.number,
    )
    return snapshots.write(root, made)


def compacted(root: Path, base: Snapshot, rows: int) -> list[Fragment]:
    """The large files of a snapshot, written where they are lacking or damaged."""
    fragments = []
    for part, chunk in enumerate(_chunks(scan.unit_groups(base), rows)):
        units = tuple(unit for group in chunk for unit in group.units)
        images = [fragment for group in chunk for fragment in group.fragments["images"]]
        ids = scan.read_table(root, "images", images, ["id"])["id"].combine_chunks()
        metadata = scan.import_metadata_of(root, [fragment for group in chunk for fragment in group.imports])
        for name in TABLES:
            parts = [fragment for group in chunk for fragment in group.fragments.get(name, ())]
            if parts or name == "images":
                fragments.append(_write_compacted(root, base.number, name, part, parts, units, ids, metadata))
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
    root: Path,
    number: int,
    name: str,
    part: int,
    parts: list[Fragment],
    units: tuple[str, ...],
    ids: pa.Array,
    metadata: Mapping[str, ImportMetadata],
) -> Fragment:
    """One file of a table, its rows in the order of the pictures `ids`, a picture's own in the order they came."""
    table = scan.read_table(root, name, parts)
    if name == "images" and metadata:  # the imports' fragments are merged away: their metadata goes into the rows
        table = _with_metadata(table, metadata)
    if name != "images":
        table = table.take(np.argsort(random_access.image_positions(table["image_id"], ids), kind="stable"))
    data = commit.parquet_bytes(table, row_group=ROW_GROUP)
    path = f"compact/{number:06d}/{name}/part-{part:05d}.parquet"
    if not commit.commit(root, path, data) and not readable(root / path):
        quarantine(root, path)
        commit.commit(root, path, data)
    return Fragment(path, table.num_rows, commit.sha256_of(root / path), units)


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


def undo(root: Path, to: int | None = None) -> Snapshot:
    """A new snapshot that holds what snapshot `to` held: the one before the newest, unless named."""
    newest = snapshots.read(root)
    named = to is not None
    if to is None:
        done = newest
        while "undo" in done.phase:  # a second undo goes one step further back
            done = snapshots.read(root, done.phase["undo"])
        to = done.parent
    if not to:
        raise ValueError(f"{root}: nothing to undo, snapshot {newest.number} is the first; remove the folder instead")
    if newest.phase == {"undo": to} and named:
        return newest
    back = snapshots.read(root, to)
    made = Snapshot(
        parent=newest.number,
        fragments=back.fragments,
        operators=back.operators,
        phase={"undo": to},
        compacts=back.compacts,
    )
    return snapshots.write(root, made)

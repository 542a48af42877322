"""Putting a file in its place once and whole: write to a temporary file, sync, link if absent, sync the folder.

Knows bytes and paths. The first writer of a name wins; a late one finds the name taken and changes nothing.
Half-written files exist only in `tmp/`.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

THREADS = 20  # that write and sync at once; they wait for the disk, not for a processor
ROW_GROUP = 65_536  # rows; a fragment of a unit is far smaller
STALE_S = 24 * 3600  # a file in tmp/ older than this belongs to nobody


def commit(root: Path, relative: str, data: bytes) -> bool:
    """Put `data` at root/relative unless something is there; says whether it was this call that did."""
    return commit_all(root, [(relative, data)])[0]


def commit_all(root: Path, files: Sequence[tuple[str, bytes]]) -> list[bool]:
    """`commit` several files: each is synced before it is linked, all at once, which takes little longer than one."""
    wanted = [(root / relative, data) for relative, data in files]
    todo = [(final, data) for final, data in wanted if not final.exists()]
    for folder in {final.parent for final, _ in todo}:
        make_folder(root, folder)
    temp_paths: dict[Path, Path] = {}

    def write(file: tuple[Path, bytes]) -> None:
        temp_paths[file[0]] = _write_temp(root, file[1], file[0].suffix)

    linked = set()
    try:
        _in_parallel(write, todo)
        for final, _ in todo:
            if _link(root, temp_paths[final], final):
                linked.add(final)
    finally:
        for temp_path in temp_paths.values():
            temp_path.unlink(missing_ok=True)
    _in_parallel(sync_folder, {final.parent for final in linked})
    return [final in linked for final, _ in wanted]


def _link(root: Path, temp_path: Path, final: Path) -> bool:
    try:
        os.link(temp_path, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
            raise OSError(
                error.errno, f"{root}: this file system has no hard links, which a store needs; put it on a local disk"
            ) from None
        raise
    return True


def _in_parallel(call: Callable[[Any], None], things: Collection[Any]) -> None:
    """Call for each thing, in threads: syncs that come together are one write of the file system's journal."""
    if len(things) < 2:
        for thing in things:
            call(thing)
        return
    with ThreadPoolExecutor(min(THREADS, len(things))) as pool:
        for _ in pool.map(call, things):
            pass


def replace(root: Path, relative: str, data: bytes) -> None:
    """Put `data` at root/relative, whole, in place of what is there: for journals, never for fragments."""
    final = root / relative
    make_folder(root, final.parent)
    os.replace(_write_temp(root, data, final.suffix), final)
    sync_folder(final.parent)


def append_line(root: Path, relative: str, line: str) -> None:
    """Append one line to a journal and sync it."""
    path = root / relative
    make_folder(root, path.parent)
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def delete_stale_temp(root: Path, age_s: float = STALE_S) -> int:
    """Remove files in tmp/ that are older than `age_s`; returns how many."""
    removed = 0
    for path in (root / "tmp").glob("*"):
        try:
            if path.is_file() and time.time() - path.stat().st_mtime > age_s:
                path.unlink()
                removed += 1
        except FileNotFoundError:  # another process swept it
            pass
    return removed


def make_folder(root: Path, folder: Path) -> None:
    """Create `folder` below `root`, syncing each new level into its parent."""
    if folder.is_dir():
        return
    if folder != root:
        make_folder(root, folder.parent)
    folder.mkdir(exist_ok=True, parents=folder == root)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's list of names durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parquet_bytes(table: pa.Table, metadata: dict[str, Any] | None = None, row_group: int = ROW_GROUP) -> bytes:
    """A table as Parquet: the same table and library give the same bytes. Nulls stay nulls, lists stay flat."""
    if metadata:
        table = table.replace_schema_metadata({key: str(value) for key, value in sorted(metadata.items())})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group, write_page_checksum=True)
    return sink.getvalue()


SEAL = "sha256"  # the key of a sealed file's hash over all its other keys


def sealed(data: Mapping[str, Any]) -> bytes:
    """JSON that says, under its last key, what its other keys hash to."""
    body = {key: value for key, value in data.items() if key != SEAL}
    return json_bytes({**body, SEAL: hashlib.sha256(json_bytes(body)).hexdigest()})


def unsealed(data: bytes) -> dict[str, Any]:
    """What `sealed` wrote, without the seal; ValueError where a byte of it has changed. Without a seal, as it is."""
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object, got {type(found).__name__}")
    seal = found.pop(SEAL, None)
    if seal is not None and seal != hashlib.sha256(json_bytes(found)).hexdigest():
        raise ValueError("its content is not what its sha256 says")
    return found


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """A plain mapping as the store writes JSON; what JSON cannot hold becomes a string."""
    return (json.dumps(data, ensure_ascii=False, indent=1, default=str) + "\n").encode("utf-8", "replace")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    value = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            value.update(piece)
    return value.hexdigest()


def _write_temp(root: Path, data: bytes, suffix: str) -> Path:
    folder = root / "tmp"
    make_folder(root, folder)
    temp_path = folder / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(6).hex()}{suffix}"
    try:
        with open(temp_path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise
    return temp_path

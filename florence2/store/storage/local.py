"""A store on a local disk: write to a temporary file, sync, link if absent, sync the folder.

Half-written files exist only in tmp/. The file system must have hard links: they are what makes the first writer of a
name win, whatever process or machine it is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

from florence2.atomic_files import sync_folder, write_atomic
from florence2.store import layout
from florence2.store.storage.commit_turn import commit_turn

THREADS = 20  # that write and sync at once; they wait for the disk, not for a processor
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK)


class LocalStorage:
    """Files below a folder."""

    def __init__(self, root: str | Path):
        self.root = Path(root)

    def _at(self, path: str) -> Path:
        """Where a path of the store lies; ValueError where it leads out of it, as a stranger may have written."""
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
            raise ValueError(f"{self.root}: {path!r:.100}: expected a path inside the store; it is not a store's own")
        return self.root / path

    def put_if_absent(self, files: Sequence[tuple[str, bytes]], durable: bool = True) -> list[bool]:
        """Write each file unless its name is taken. All are synced at once, which takes little longer than one."""
        wanted = [(self._at(path), data) for path, data in files]
        todo = [(final, data) for final, data in wanted if not final.exists()]
        for folder in {final.parent for final, _ in todo}:
            make_folder(self.root, folder)
        temp_paths: dict[Path, Path] = {}

        def write(file: tuple[Path, bytes]) -> None:
            temp_paths[file[0]] = write_temp(self.root, file[1], file[0].suffix, durable)

        linked = set()
        try:
            _in_parallel(write, todo)
            for final, _ in todo:
                if self._link(temp_paths[final], final):
                    linked.add(final)
        finally:
            for temp_path in temp_paths.values():
                temp_path.unlink(missing_ok=True)
        if durable:
            _in_parallel(sync_folder, {final.parent for final in linked})
        return [final in linked for final, _ in wanted]

    def _link(self, temp_path: Path, final: Path) -> bool:
        try:
            os.link(temp_path, final)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in NO_LINKS:
                raise OSError(
                    error.errno,
                    f"{self.root}: this file system has no hard links, which a store needs; put it on a local disk",
                ) from None
            raise
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write a file over what its name holds; it is not synced."""
        make_folder(self.root, self._at(path).parent)
        write_atomic(self._at(path), data)

    def read(self, path: str) -> bytes:
        """The bytes at a path."""
        return _plain(self._at(path)).read_bytes()

    def source(self, path: str) -> Any:
        """The file's own path: pyarrow maps and reads local files by itself."""
        return _plain(self._at(path))

    def stamp(self, path: str) -> tuple[int, ...]:
        """Inode, size and time."""
        found = os.stat(self._at(path))
        return found.st_ino, found.st_size, found.st_mtime_ns

    def exists(self, path: str) -> bool:
        """Whether there is a file at a path."""
        return self._at(path).is_file()

    def list(self, prefix: str) -> list[str]:
        """The paths of all files below a folder, sorted."""
        root = os.path.join(self.root, "")
        found = (os.path.join(folder, name) for folder, _, names in os.walk(self._at(prefix)) for name in names)
        return sorted(path.removeprefix(root).replace(os.sep, "/") for path in found)

    def sha256(self, path: str) -> str:
        """Hex SHA-256 of a file, read in pieces."""
        return sha256_of(self._at(path))

    def discard(self, path: str) -> None:
        """Move a damaged file into tmp/, where it stays for a while for inspection."""
        make_folder(self.root, self.root / layout.TEMPORARY)
        target = self.root / layout.TEMPORARY / f"damaged-{os.urandom(4).hex()}-{Path(path).name}"
        try:
            os.replace(self._at(path), target)
        except FileNotFoundError:
            pass

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files of tmp/, and the folders that they leave empty."""
        assert all(path.startswith(f"{layout.TEMPORARY}/") for path in paths), paths
        for path in paths:
            self._at(path).unlink(missing_ok=True)
        for folder in {self._at(path).parent for path in paths}:
            try:
                folder.rmdir()
            except OSError:  # another process put something there, or was first
                pass

    def delete_temporary(self, age_s: float) -> int:
        """Delete files in tmp/ that are older than `age_s`."""
        removed = 0
        for path in (self.root / layout.TEMPORARY).glob("*"):
            try:
                if path.is_file() and time.time() - path.stat().st_mtime > age_s:
                    path.unlink()
                    removed += 1
            except FileNotFoundError:  # another process deleted it
                pass
        return removed

    def temporary_folder(self, name: str) -> Path:
        """A folder of that name in tmp/, made if it is not there."""
        folder = self.root / layout.TEMPORARY / name
        make_folder(self.root, folder)
        return folder

    def keep_folder(self, made: Path, path: str) -> None:
        """Sync the files of a folder and move it to `path`, unless something is there."""
        for file in made.rglob("*"):
            if file.is_file():
                with open(file, "rb") as handle:
                    os.fsync(handle.fileno())
        final = self._at(path)
        make_folder(self.root, final.parent)
        try:
            os.rename(made, final)
        except OSError:
            if not final.is_dir():
                raise
        sync_folder(final.parent)

    def is_store(self) -> bool:
        """Whether a store was begun here."""
        return (self.root / layout.SNAPSHOTS).is_dir()

    def begin(self) -> None:
        """Make the folders of an empty store."""
        taken = self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir()))
        if taken and not self.is_store():  # another command may begin it now
            raise ValueError(f"{self.root}: holds other files and is not a store; name a new or empty folder")
        make_folder(self.root, self.root)
        make_folder(self.root, self.root / layout.SNAPSHOTS)

    def folder(self, path: str) -> Path:
        """The folder at a path."""
        return self._at(path)

    def commit_turn(self) -> AbstractContextManager[None]:
        """The lock of the folder of snapshots."""
        return commit_turn(self._at(layout.SNAPSHOTS))

    def location(self, path: str = "") -> str:
        """The path in the file system."""
        return str(self.root / path if path else self.root)


def make_folder(root: Path, folder: Path) -> None:
    """Create `folder` below `root`, syncing each new level into its parent."""
    if folder.is_dir():
        return
    if folder != root:
        make_folder(root, folder.parent)
    folder.mkdir(exist_ok=True, parents=folder == root)
    sync_folder(folder.parent)


def write_temp(root: Path, data: bytes, suffix: str = "", durable: bool = True) -> Path:
    """A new file in tmp/ with these bytes."""
    folder = root / layout.TEMPORARY
    make_folder(root, folder)
    temp_path = folder / f"{socket.gethostname()}-{os.getpid()}-{os.urandom(6).hex()}{suffix}"
    try:
        with open(temp_path, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise
    return temp_path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    value = hashlib.sha256()
    with open(_plain(path), "rb") as file:
        while piece := file.read(1 << 20):
            value.update(piece)
    return value.hexdigest()


def _plain(path: Path) -> Path:
    """The path, unless it leads to what is no file: to read a pipe, or a device, would never end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is not a file", str(path))
    return path


def _in_parallel(call: Callable[[Any], None], items: Collection[Any]) -> None:
    """Call for each item, in threads: syncs that come together are one write of the file system's journal."""
    if len(items) < 2:
        for item in items:
            call(item)
        return
    with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
        for _ in pool.map(call, items):
            pass

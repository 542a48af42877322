"""A store in an object store: a name is taken by one conditional put, which is whole or not there.

No object is ever half written, so nothing is synced or renamed. What must be a file of this machine (large fragments
that are read piece by piece, a student's folder, work in progress) lies in the cache folder; a large fragment is read
whole once in any case, for its hash.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

from florence2.atomic_files import write_atomic
from florence2.cache_folder import cache_folder
from florence2.object_store import THREADS, ObjectFacts, Objects
from florence2.store import layout
from florence2.store.storage.commit_turn import commit_turn

BEGUN = f"{layout.SNAPSHOTS}/begun"  # what shows that there is a store before its first snapshot
SMALL = 4 << 20  # bytes of an object that is read into memory
KEPT_BYTES = 64 << 30  # of large fragments in the cache folder; those used longest ago go first
WHOLE = ".whole"  # the object that names the copy of a folder whose files are all there


class ObjectStorage:
    """Objects below a URL."""

    def __init__(self, place: Any):
        self.objects = Objects(place)
        self.cache = cache_folder() / "objects" / hashlib.sha256(self.objects.url.encode()).hexdigest()[:24]

    def _at(self, path: str) -> str:
        """The path; ValueError where it leads out of the store, as a stranger may have written."""
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
            raise ValueError(f"{self.objects.url}: {path!r:.100}: expected a path inside the store; not a store's own")
        return path

    def put_if_absent(self, files: Sequence[tuple[str, bytes]], durable: bool = True) -> list[bool]:
        """Write each object unless its name is taken; what is acknowledged is durable."""
        wanted = [(self._at(path), data) for path, data in files]
        if len(wanted) == 1:
            return [self.objects.put_if_absent(*wanted[0])]
        with ThreadPoolExecutor(min(THREADS, len(wanted)) or 1) as pool:
            return list(pool.map(lambda file: self.objects.put_if_absent(*file), wanted))

    def replace(self, path: str, data: bytes) -> None:
        """Write an object over what its name holds."""
        self.objects.put(self._at(path), data)

    def read(self, path: str) -> bytes:
        """The bytes at a path."""
        return self.objects.get(self._at(path))

    def source(self, path: str) -> Any:
        """A small object in memory; of a large one a file in the cache folder."""
        facts = self._facts(path)
        return io.BytesIO(self.read(path)) if facts.size <= SMALL else self._copy(facts)

    def stamp(self, path: str) -> tuple[str, int]:
        """The object's tag and size."""
        facts = self._facts(path)
        return facts.tag, facts.size

    def exists(self, path: str) -> bool:
        """Whether there is an object at a path."""
        return self.objects.facts(self._at(path)) is not None

    def list(self, prefix: str) -> list[str]:
        """The paths of all objects below a folder, sorted."""
        return sorted(facts.path for facts in self.objects.list(self._at(prefix)))

    def sha256(self, path: str) -> str:
        """Hex SHA-256 of an object."""
        source = self.source(path)
        if isinstance(source, io.BytesIO):
            return hashlib.sha256(source.getbuffer()).hexdigest()
        value = hashlib.sha256()
        with open(source, "rb") as file:
            while piece := file.read(1 << 20):
                value.update(piece)
        return value.hexdigest()

    def discard(self, path: str) -> None:
        """Move a damaged object into tmp/, where it stays for a while for inspection."""
        try:
            name = f"damaged-{os.urandom(4).hex()}-{PurePosixPath(path).name}"
            self.objects.copy(self._at(path), f"{layout.TEMPORARY}/{name}")
        except FileNotFoundError:
            return
        self.objects.delete([path])

    def delete(self, paths: Sequence[str]) -> None:
        """Delete objects of tmp/."""
        assert all(path.startswith(f"{layout.TEMPORARY}/") for path in paths), paths
        self.objects.delete([self._at(path) for path in paths])

    def delete_temporary(self, age_s: float) -> int:
        """Delete what lies directly in tmp/ and is older than `age_s`."""
        found = self.objects.list(layout.TEMPORARY, below=False)
        old = [facts.path for facts in found if time.time() - facts.modified > age_s]
        self.objects.delete(old)
        return len(old)

    def is_store(self) -> bool:
        """Whether a store was begun here."""
        return next(iter(self.objects.list(layout.SNAPSHOTS)), None) is not None

    def begin(self) -> None:
        """Begin a store; ValueError where other objects lie, OSError where any writer of a name would win."""
        if (
            next(iter(self.objects.list()), None) is not None and not self.is_store()
        ):  # another command may begin it now
            raise ValueError(f"{self.objects.url}: holds other objects and is not a store; name a new or empty prefix")
        for _ in range(2):
            ours = self.objects.put_if_absent(BEGUN, b"a florence2 store\n")
        if ours:
            self.objects.delete([BEGUN])
            what = "is written twice: the object store takes no notice of If-None-Match, which a store needs"
            raise OSError(errno.ENOTSUP, what, self.location(BEGUN))

    def folder(self, path: str) -> Path:
        """A folder of this machine with the files below a path, fetched where it is not here yet."""
        try:
            name = self.read(path + WHOLE).decode()
        except FileNotFoundError:
            return self.cache / path
        here = self.cache / name / path
        if not here.is_dir():
            aside = self.temporary_folder(f"fetched-{os.urandom(6).hex()}")
            for file in self.list(f"{path}/{name}"):
                target = aside / PurePosixPath(file).relative_to(f"{path}/{name}")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.read(file))
            here.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.rename(aside, here)
            except OSError:  # another process has fetched it
                if not here.is_dir():
                    raise
        return here

    def temporary_folder(self, name: str) -> Path:
        """A folder for work in progress, made if it is not there."""
        folder = self.cache / layout.TEMPORARY / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keep_folder(self, made: Path, path: str) -> None:
        """Put the files of a folder below a name of their own, then say that they are whole; the first wins."""
        name = os.urandom(6).hex()
        for file in sorted(made.rglob("*")):
            if file.is_file():
                self.objects.put(f"{self._at(path)}/{name}/{file.relative_to(made).as_posix()}", file.read_bytes())
        self.objects.put_if_absent(path + WHOLE, name.encode())

    def commit_turn(self) -> AbstractContextManager[None]:
        """The lock of the cache folder's part: of this machine's commands alone."""
        self.cache.mkdir(parents=True, exist_ok=True)
        return commit_turn(self.cache)

    def location(self, path: str = "") -> str:
        """The URL."""
        return self.objects.location(path)

    def _facts(self, path: str) -> ObjectFacts:
        facts = self.objects.facts(self._at(path))
        if facts is None:
            raise FileNotFoundError(self.location(path))
        return facts

    def _copy(self, facts: ObjectFacts) -> Path:
        """A large object as a file of the cache folder, named by its tag."""
        name = hashlib.sha256(f"{facts.path}:{facts.tag}:{facts.size}".encode()).hexdigest()[:32]
        file = self.cache / "fragments" / name
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            _make_room(file.parent, facts.size)
            write_atomic(file, self.read(facts.path))
        os.utime(file)
        return file


def _make_room(folder: Path, size: int) -> None:
    """Delete the files that were used longest ago until so many bytes more are within the limit."""
    found = sorted((file for file in folder.iterdir() if file.is_file()), key=lambda file: file.stat().st_mtime)
    total = size + sum(file.stat().st_size for file in found)
    for file in found:
        if total <= KEPT_BYTES:
            return
        total -= file.stat().st_size
        file.unlink(missing_ok=True)  # who has it open keeps it

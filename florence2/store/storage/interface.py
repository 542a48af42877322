"""Where a store's files lie: a small interface over names and bytes. Behind it the local disk; others may follow.

Everything above asks only for this, so that a second implementation (an object store with conditional puts) needs
no change there: a name is written once and whole or not at all, and what is written never changes.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from florence2.store import layout


class Storage(Protocol):
    """Objects by path. Paths are relative to the store's root, with forward slashes."""

    def put_if_absent(self, files: Sequence[tuple[str, bytes]], durable: bool = True) -> list[bool]:
        """Write each file, whole, unless its name is taken; says of each whether this call wrote it.

        Of several writers of one name exactly one wins. With `durable` the files survive a power cut once this returns.
        """

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, whole, over what its name holds: of a cache that is no part of the data."""

    def read(self, path: str) -> bytes:
        """The bytes at a path; FileNotFoundError where there are none."""

    def source(self, path: str) -> Any:
        """What pyarrow opens to read the Parquet file at a path, piece by piece; it need not exist."""

    def stamp(self, path: str) -> Hashable:
        """A value that is another one where the file at a path was written anew; FileNotFoundError without one."""

    def exists(self, path: str) -> bool:
        """Whether there is a file at a path."""

    def list(self, prefix: str) -> list[str]:
        """The paths of all files below a folder, sorted; none where it does not exist."""

    def sha256(self, path: str) -> str:
        """Hex SHA-256 of the file at a path; FileNotFoundError where there is none."""

    def discard(self, path: str) -> None:
        """Free a name that holds damaged bytes, so that it can be written again. Nothing happens where it is free."""

    def delete(self, paths: Sequence[str]) -> None:
        """Delete files of tmp/ that were put there by name; nothing else is ever deleted."""

    def delete_temporary(self, age_s: float) -> int:
        """Delete what interrupted writes left that is older than `age_s`; returns how many files."""

    def is_store(self) -> bool:
        """Whether a store was begun here."""

    def begin(self) -> None:
        """Begin a store; ValueError where other files lie."""

    def folder(self, path: str) -> Path:
        """The folder of this machine's file system that holds what lies below a path."""

    def temporary_folder(self, name: str) -> Path:
        """A folder of this machine for work in progress, made if it is not there; no part of the store."""

    def keep_folder(self, made: Path, path: str) -> None:
        """Put a folder with all its files at `path`, whole; where something is, that stays."""

    def commit_turn(self) -> AbstractContextManager[None]:
        """The right to commit, for a while, where commands of one machine could overtake one another for ever."""

    def location(self, path: str = "") -> str:
        """Where a path lies, for messages and for other tools: a path of the file system, or a URL."""


def next_number(storage: Storage, folder: str) -> int:
    """The number that the next record in a folder of numbered records gets."""
    return 1 + max(map(layout.number_of, storage.list(folder)), default=0)

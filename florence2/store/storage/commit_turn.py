"""Whose turn it is to commit: a lock that lets a command end which others would overtake for ever.

A commit is right without it, by compare-and-swap. Every commit takes it for a moment; a command that was overtaken too
often holds it while it runs once more, and the others wait. It ends with its process, whatever became of that. Where
the file system has no locks nobody waits.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from florence2.store.storage.interface import Storage

COMMIT_TRIES = 3  # attempts of a command that others may overtake before it holds the lock

_held = threading.local()


@contextmanager
def commit_turn(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder of this machine; a thread that holds it already has it."""
    mine: set[str] = _held.__dict__.setdefault("folders", set())
    key = os.path.realpath(folder)
    if key in mine:
        yield
        return
    opened = _locked(folder)
    mine.add(key)
    try:
        yield
    finally:
        mine.discard(key)
        if opened is not None:
            _unlock(opened)


def turn_after(storage: Storage, overtaken: int) -> AbstractContextManager[None]:
    """What a command holds that was overtaken so often: from COMMIT_TRIES on the right to commit."""
    return storage.commit_turn() if overtaken >= COMMIT_TRIES else nullcontext()


def _locked(folder: Path) -> int | None:
    """A descriptor of the folder, locked; None where there are no locks."""
    import fcntl

    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
    except BaseException as error:
        os.close(opened)
        if isinstance(error, OSError):
            return None
        raise  # Ctrl-C while it waits
    return opened


def _unlock(opened: int) -> None:
    import fcntl

    fcntl.flock(opened, fcntl.LOCK_UN)  # a forked worker process may have the descriptor too
    os.close(opened)

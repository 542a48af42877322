"""Files that are whole or not there: written beside their place under another name, then moved onto it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)  # shares that cannot; EIO is a fault of the disk


@contextmanager
def replacing(path: str | Path, durable: bool = False, sole: bool = False) -> Iterator[Path]:
    """A hidden temporary path beside `path`, to be written; moved onto it at the end, deleted if the block raises.

    Two processes that write one file at once do not meet: the name holds the process and a random part. Where there can
    be but one (`sole`) the name is always the same, so that what a killed one left is written over by the next.
    `durable` syncs the file and its folder to the disk, so that the new content also survives a loss of power.
    """
    path = Path(path)
    own = "" if sole else f".{os.getpid()}-{os.urandom(4).hex()}"
    temp_path = path.with_name(f".{path.name}{own}.part")
    if sole:
        temp_path.unlink(missing_ok=True)
    try:
        yield temp_path
        if durable:
            _sync(temp_path)
        os.replace(temp_path, path)
    except BaseException:
        temp_path.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_atomic(path: str | Path, content: str | bytes, durable: bool = False, sole: bool = False) -> None:
    """Put bytes, or text as UTF-8 with its line breaks as they are, at `path`, whole or not at all.

    A lone surrogate becomes an escape such as \\udc80, which in JSON still means it.
    """
    with replacing(path, durable, sole) as temp_path:
        temp_path.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def check_replaceable(path: str | Path, beginning: bytes, what: str) -> None:
    """Refuse to write over a file that is not `what`, a file of ours that begins with these bytes in any case.

    Raises FileExistsError; a file that is not there or is empty may be written.
    """
    path = Path(path)
    if path.is_dir():
        raise FileExistsError(f"{path}: is a folder; expected the name of a file for {what}")
    if path.exists():
        with path.open("rb") as file:
            found = file.read(len(beginning))
        if found and found.lower() != beginning.lower():
            raise FileExistsError(f"{path}: exists and is not {what}; name another file")


def sync_folder(folder: Path) -> None:
    """Make the folder's list of names durable, where the file system can."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

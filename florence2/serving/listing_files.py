"""Listings that the server processes behind one port have in common: a file each with the ids of its pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from florence2.atomic_files import write_atomic

KEPT = 128
NAME = re.compile(r"[0-9a-f]{16}")


class ListingFiles:
    """A folder that ends with the server; "" where one process has all there is, and nothing is written."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder) if folder else None

    def put(self, name: str, ids: Sequence[str]) -> None:
        """Have the other processes find a listing; those made longest ago go first."""
        if self.folder is None or (self.folder / name).exists():
            return
        write_atomic(self.folder / name, "\n".join(ids))
        found = sorted(filter(lambda file: NAME.fullmatch(file.name), self.folder.iterdir()), key=_made)
        for file in found[:-KEPT]:
            file.unlink(missing_ok=True)

    def get(self, name: str) -> list[str] | None:
        """The pictures of a listing; None where no process knows it any more."""
        if self.folder is None or not NAME.fullmatch(name):  # a client's text, which is to be no path
            return None
        try:
            return (self.folder / name).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return None


def _made(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another process was first
        return 0.0

"""A journal: short lines that only ever grow, each a small numbered object, so that any storage can hold it.

It need not survive a power cut: it counts deaths of workers whose supervisor lived.
"""

from __future__ import annotations

from florence2.store import layout
from florence2.store.storage import Storage, next_number


class Journal:
    """The journal of one unit of work, under attempts/<key>."""

    def __init__(self, storage: Storage, key: str):
        self.storage = storage
        self.folder = layout.attempts(key)

    def append(self, line: str) -> None:
        """Add a line at the end."""
        if self.storage.exists(self.folder):  # of an earlier version: one file
            earlier = self.lines()
            self.storage.discard(self.folder)
            for each in earlier:
                self._put(each)
        self._put(line)

    def _put(self, line: str) -> None:
        data = (line + "\n").encode()
        while True:
            path = layout.numbered(self.folder, next_number(self.storage, self.folder))
            if self.storage.put_if_absent([(path, data)], durable=False)[0]:
                return

    def lines(self) -> list[str]:
        """All lines, oldest first."""
        paths = [self.folder] if self.storage.exists(self.folder) else self.storage.list(self.folder)
        return [line for path in paths for line in self.storage.read(path).decode("utf-8", "replace").splitlines()]

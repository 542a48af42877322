"""When the store last saw a picture's file: size and times, by which it is known without reading that it is the same.

Kept beside the fragments, never in them. Where nothing is known of a file, its hash decides.
"""

from __future__ import annotations

import os
import time
from hashlib import blake2b

from florence2.object_store import SCHEME, ObjectFacts, Objects, is_object_url
from florence2.store import Store

SETTLED_NS = 2_000_000_000  # a file changed later than this before now may change again within one tick of its clock

Stamp = tuple[int, ...]  # bytes, mtime and ctime in nanoseconds; of an object its tag in place of ctime


class PictureTimes:
    """What is known of the files, and what they are now; each is read once."""

    def __init__(self, store: Store):
        self.store = store
        self._known = store.picture_times()
        self._now: dict[str, Stamp | None] = {}

    def now(self, path: str) -> Stamp | None:
        """A file's stamp, None where there is none."""
        if path not in self._now and is_object_url(path):
            if "//" in path.removeprefix(SCHEME):  # a key with an empty part, which no folder's listing shows
                facts = Objects(path).facts()
                self._now[path] = _stamp(facts) if facts else None
            else:
                self._list_objects(os.path.dirname(path))
                self._now.setdefault(path, None)
        if path not in self._now:
            try:
                found = os.stat(path)
                self._now[path] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            except (OSError, ValueError):
                self._now[path] = None
        return self._now[path]

    def _list_objects(self, folder: str) -> None:
        """Note the objects of a folder: one request for a thousand of them, where each alone would need one."""
        for facts in Objects(folder).list(below=False):
            self._now[f"{folder}/{facts.path}"] = _stamp(facts)

    def unchanged(self, path: str) -> bool:
        """Whether a file is as it was when the store last saw it; False where that is not known."""
        stamp = self.now(path)
        return stamp is not None and self._known.get(path) == stamp

    def save(self) -> None:
        """Remember the files that were checked, except those too young to be identified by their times."""
        border = time.time_ns() - SETTLED_NS
        known = dict(self._known)
        for path, stamp in self._now.items():
            known.pop(path, None)
            if stamp is not None and (is_object_url(path) or max(stamp[1:]) < border):
                known[path] = stamp
        if known != self._known:
            self.store.keep_picture_times(known)


def _stamp(facts: ObjectFacts) -> Stamp:
    tag = int.from_bytes(blake2b(facts.tag.encode(), digest_size=6).digest(), "big")
    return facts.size, int(facts.modified * 1e9), tag

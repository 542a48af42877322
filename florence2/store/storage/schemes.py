"""The one place that decides by a path what a store lies on."""

from __future__ import annotations

import re
from pathlib import Path

from florence2.store.storage.interface import Storage
from florence2.store.storage.local import LocalStorage

URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")  # a Path has made one slash of two; one letter is a Windows drive


def is_url(place: str | Path) -> bool:
    """Whether a place is named by a URL."""
    return URL.match(str(place)) is not None


def open_storage(place: str | Path) -> Storage:
    """The storage at a place: a folder of this machine. ValueError for a URL: there is none behind one yet."""
    if found := URL.match(str(place)):
        raise ValueError(f"{place}: expected a folder of this machine, got a URL ({found[1]}): no store lies there yet")
    return LocalStorage(place)

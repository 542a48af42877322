"""The one place that decides by a path what a store lies on."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from florence2.object_store import is_object_url
from florence2.store.storage.interface import Storage
from florence2.store.storage.local import LocalStorage
from florence2.store.storage.objects import ObjectStorage

URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+):/")  # a Path has made one slash of two; one letter is a Windows drive


def is_url(place: str | PurePath) -> bool:
    """Whether a place is named by a URL."""
    return URL.match(str(place)) is not None


def open_storage(place: str | PurePath) -> Storage:
    """The storage at a place: a folder of this machine, or a prefix of an object store. ValueError for other URLs."""
    if is_object_url(place):
        return ObjectStorage(place)
    if found := URL.match(str(place)):
        raise ValueError(f"{place}: expected a folder of this machine or s3://BUCKET/PREFIX, got a URL ({found[1]})")
    return LocalStorage(Path(place))

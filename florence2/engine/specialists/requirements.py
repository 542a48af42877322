"""The version of a specialist's library and the hash of its files. Imports none of them."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path


class MissingLibrary(ValueError):
    """A specialist's library is not installed."""


def version_of(distribution: str, specialist: str, extra: str) -> str:
    """The installed version of a library, found without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingLibrary(
            f"specialist {specialist}: expected the library {distribution}, found none; "
            f"pip install 'florence2[{extra}]', or leave it out of --with"
        ) from None


def sha256_of(paths: Iterable[Path]) -> str:
    """One hash over files, in their order; OSError names a missing one."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()

"""Which pictures of a store an operator takes, where it is not all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from florence2.records import Sample
from florence2.sources import files
from florence2.sources.splits import fold_of


class ImageSelector(Protocol):
    """Which pictures an operator takes, where it is not all of a store."""

    def __call__(self, sample: Sample) -> bool:
        """Whether it takes this one."""

    def to_json(self) -> dict[str, Any]:
        """As runs/ keeps it."""


@dataclasses.dataclass(frozen=True)
class FoldSelector:
    """One of `folds` parts of all pictures, by hash of the image id."""

    fold: int
    folds: int

    def __call__(self, sample: Sample) -> bool:
        return fold_of(sample.image.id, self.folds) == self.fold

    def to_json(self) -> dict[str, Any]:
        return {"fold": self.fold, "folds": self.folds}


@dataclasses.dataclass(frozen=True)
class FolderSelector:
    """The pictures of one source: a folder, or an archive."""

    source: str

    def __call__(self, sample: Sample) -> bool:
        path = files.path_of(sample.image.uri)
        return path == self.source or path.startswith(self.source.rstrip("/") + "/")

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source}


def selector_from_json(fact: Mapping[str, Any] | None) -> ImageSelector | None:
    """What `fact` wrote."""
    if not fact:
        return None
    return FolderSelector(fact["source"]) if "source" in fact else FoldSelector(fact["fold"], fact["folds"])

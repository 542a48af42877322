"""Which pictures of a store an operator takes, where it is not all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from florence2.records import Sample
from florence2.sources import files
from florence2.sources.splits import fold_of
from florence2.store import Unit


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


@dataclasses.dataclass(frozen=True)
class ImportSelector:
    """The pictures of an import: `images` by id, those of whole `units` and `some` of others."""

    run_id: str
    images: frozenset[str]
    units: tuple[str, ...]
    some: tuple[str, ...]

    def __call__(self, sample: Sample) -> bool:
        return sample.image.id in self.images

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run_id, "units": list(self.units), "images": list(self.some)}


def selector_from_json(fact: Mapping[str, Any] | None, units: Callable[[], Iterable[Unit]]) -> ImageSelector | None:
    """What `to_json` wrote, of a store of these units. Imports of an earlier version were written as folders."""
    if not fact:
        return None
    if "run" in fact:
        whole = set(fact["units"])
        of_units = (p.image.id for u in units() if u.uid in whole for p in (*u.samples, *u.others))
        images = frozenset([*fact["images"], *of_units])
        return ImportSelector(fact["run"], images, tuple(fact["units"]), tuple(fact["images"]))
    return FolderSelector(fact["source"]) if "source" in fact else FoldSelector(fact["fold"], fact["folds"])

"""Pictures that are the same, to the byte or nearly: within a store or a data set, and across its parts (leakage)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import pixels, sources
from florence2.engine.execution.options import Progress
from florence2.engine.ingest import near_duplicates
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.inspection import perceptual_hash
from florence2.records import ImageRef
from florence2.sources import files
from florence2.store import Store, is_store

BANDS = 8  # bytes of a 64-bit hash; hashes up to seven bits apart share one
BLOCK = 1024  # pictures whose signatures are compared with all before them at a time


@dataclass(frozen=True)
class HashedPicture:
    """What is compared: a picture's hashes, the part of the data it is in, and whether it is kept (not rejected).

    `ref` is where its pixels are; `signature` is that of `near_duplicates`, for pictures that were opened.
    """

    id: str
    uri: str
    sha256: str
    ref: ImageRef
    phash: str = ""
    part: str = ""
    kept: bool = True
    signature: np.ndarray | None = None


@dataclass(frozen=True)
class Duplicate:
    """Two pictures that are the same: `kind` is exact or near, `bits` how many of 64 of their hashes differ."""

    kind: str
    first: HashedPicture
    second: HashedPicture
    bits: int

    @property
    def across(self) -> bool:
        """Whether they are in different parts."""
        return self.first.part != self.second.part

    @property
    def leaks(self) -> bool:
        """Whether one is trained on and the other scored on: they are in different parts, and both are kept."""
        return self.across and self.first.kept and self.second.kept

    def to_json(self) -> dict[str, Any]:
        """As plain values: each side's id, uri, hashes, part and whether it is kept."""
        sides = {
            name: {"id": p.id, "uri": p.uri, "sha256": p.sha256, "phash": p.phash, "part": p.part, "kept": p.kept}
            for name, p in (("first", self.first), ("second", self.second))
        }
        return {"kind": self.kind, **sides, "bits": self.bits, "across": self.across, "leaks": self.leaks}


def duplicates(
    pictures: Iterable[HashedPicture],
    bits: int = 4,
    unreadable: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Iterator[Duplicate]:
    """Every exact duplicate with the picture it repeats, then every near pair of different bytes.

    A hash within `bits` or a like signature makes a candidate: called near are pairs whose pixels agree everywhere.
    Where a picture can no longer be read its pairs are not called; `unreadable` is called with its name.
    """
    first: dict[str, HashedPicture] = {}
    for picture in pictures:
        original = first.setdefault(picture.sha256, picture)
        if original is not picture:
            yield Duplicate("exact", original, picture, 0)
    distinct = [picture for picture in first.values() if picture.phash]
    candidates = likely_pairs(distinct, bits)

    @lru_cache(maxsize=128)
    def grey_of(i: int) -> np.ndarray | None:
        try:
            return near_duplicates.grey(_pixels(distinct[i].ref))
        except pixels.BadImage as error:
            if unreadable:
                unreadable(str(error))
            return None

    for done, (i, j, apart) in enumerate(candidates, 1):
        one, other = grey_of(i), grey_of(j)
        if one is not None and other is not None and near_duplicates.same_picture(one, other):
            yield Duplicate("near", distinct[i], distinct[j], apart)
        if progress:
            progress("comparing", done, len(candidates))


def same_pixels(one: ImageRef, other: ImageRef) -> bool:
    """Whether two pictures that can be read are one picture; one that cannot is not called so."""
    try:
        return near_duplicates.same_picture(*(near_duplicates.grey(_pixels(ref)) for ref in (one, other)))
    except pixels.BadImage:
        return False


def _pixels(ref: ImageRef) -> np.ndarray:
    return pixels.load(files.bytes_or_no_answer(ref), frame=ref.frame, name=files.name_of(ref))


def likely_pairs(pictures: Sequence[HashedPicture], bits: int) -> list[tuple[int, int, int]]:
    """(earlier, later, bits apart) of pictures whose hashes are within `bits`, or whose signatures are alike."""
    index, found = NearIndex(), set()
    for j, picture in enumerate(pictures):
        found |= {(i, j) for i, _ in index.within(picture.phash, bits)}
        index.add(picture.phash)
    opened = [i for i, picture in enumerate(pictures) if picture.signature is not None]
    signatures = np.array([pictures[i].signature for i in opened], np.float32)  # (pictures, 10, cells)
    for start in range(0, len(opened), BLOCK):
        block, before = signatures[start : start + BLOCK], signatures[: start + BLOCK]
        alike = (np.tensordot(block[:, 0], before, (1, 2)).max(axis=2) >= near_duplicates.LIKELY) | (
            np.tensordot(before[:, 0], block, (1, 2)).max(axis=2).T >= near_duplicates.LIKELY
        )
        found |= {(opened[i], opened[start + j]) for j, i in zip(*np.nonzero(alike)) if i < start + j}
    numbers = index.numbers
    return [(i, j, (numbers[i] ^ numbers[j]).bit_count()) for i, j in sorted(found)]


def of_store(
    store: Store,
    snapshot: int | None = None,
    read: bool = False,
    progress: Progress | None = None,
    unreadable: Callable[[str], None] | None = None,
) -> Iterator[HashedPicture]:
    """A store's pictures that could be read; a part is the split that a row names, else the one of its file's name.

    With `read` each picture is opened, so that cut ones are found as well; else by the hash that the store holds.
    """
    rows = [row for row in store.images(snapshot) if row.status in ("ok", "rejected")]
    for n, row in enumerate(rows, 1):
        ref = row.image
        part = row.split or sources.split_of(ref.member or ref.uri)
        picture = HashedPicture(ref.id, ref.uri, ref.sha256, ref, row.phash, part, row.status == "ok")
        if read:
            try:
                picture = replace(picture, signature=near_duplicates.signature(_pixels(ref)))
            except pixels.BadImage as error:
                if unreadable:
                    unreadable(str(error))
            if progress:
                progress("reading", n, len(rows))
        yield picture


def of_path(
    path: str | Path, progress: Progress | None = None, unreadable: Callable[[str], None] | None = None
) -> Iterator[HashedPicture]:
    """The pictures of a store, of a data set in a known format, or of a folder, each read once."""
    if is_store(path):
        yield from of_store(Store(path), None, True, progress, unreadable)
        return
    refs = _references(path)
    for n, (ref, split) in enumerate(refs, 1):
        try:
            data = files.read_bytes(ref)
            array = pixels.load(data, name=files.name_of(ref))
        except pixels.BadImage as error:
            if unreadable:
                unreadable(str(error))
            continue
        finally:
            if progress:
                progress("reading", n, len(refs))
        part = split or sources.split_of(ref.member or ref.uri)
        name, sha256 = files.name_of(ref), hashlib.sha256(data).hexdigest()
        signature = near_duplicates.signature(array)
        yield HashedPicture(ref.id or name, name, sha256, ref, perceptual_hash(array), part, signature=signature)


def _references(path: str | Path) -> list[tuple[ImageRef, str]]:
    """(where, split) of every picture of a data set, or of a folder that is none; one named twice is one."""
    try:
        format = sources.format_of(path)
    except ValueError:
        return [(found.ref(), found.split) for found in discover(Path(path))[0]]
    out: dict[tuple[Any, ...], tuple[ImageRef, str]] = {}
    for sample in sources.open(path, format=format):
        ref = sample.image
        out.setdefault((ref.uri or ref.id, ref.member, ref.offset, sample.split), (ref, sample.split))
    return list(out.values())


class NearIndex:
    """Perceptual hashes in the order they came, asked for those near another.

    By the pigeonhole principle two hashes at most seven bits apart share one of their eight bytes: only those are
    compared.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.buckets: dict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, phash: str) -> None:
        """Note one more."""
        number = int(phash, 16)
        for key in _bands(number):
            self.buckets[key].append(len(self.numbers))
        self.numbers.append(number)

    def within(self, phash: str, bits: int) -> Iterator[tuple[int, int]]:
        """(place, bits apart) of each hash noted that is within `bits`."""
        if not 0 <= bits < BANDS:
            raise ValueError(f"bits: expected 0..{BANDS - 1}, got {bits}")
        number = int(phash, 16)
        for i in sorted({i for key in _bands(number) for i in self.buckets.get(key, ())}):
            apart = (self.numbers[i] ^ number).bit_count()
            if apart <= bits:
                yield i, apart


def _bands(number: int) -> list[tuple[int, int]]:
    return [(band, number >> (8 * band) & 0xFF) for band in range(BANDS)]

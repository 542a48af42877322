"""Pictures that are the same, to the byte or nearly: within a store or a data set, and across its parts (leakage)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2 import pixels, sources
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.inspection import perceptual_hash
from florence2.records import ImageRef
from florence2.sources import files
from florence2.store import Store, is_store

BANDS = 8  # bytes of a 64-bit hash; hashes up to seven bits apart share one

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Picture:
    """What is compared: a picture's hashes, the part of the data it is in, and whether it stands (is not rejected)."""

    id: str
    uri: str
    sha256: str
    phash: str = ""
    part: str = ""
    stands: bool = True


@dataclass(frozen=True)
class Duplicate:
    """Two pictures that are the same: `kind` is exact or near, `bits` how many of 64 differ."""

    kind: str
    first: Picture
    second: Picture
    bits: int

    @property
    def across(self) -> bool:
        """Whether they are in different parts."""
        return self.first.part != self.second.part

    @property
    def leaks(self) -> bool:
        """Whether one is trained on and the other scored on: they are in different parts, and both stand."""
        return self.across and self.first.stands and self.second.stands


def duplicates(pictures: Iterable[Picture], bits: int = 4) -> Iterator[Duplicate]:
    """Every exact duplicate with the picture it repeats, then every near pair of different bytes."""
    first: dict[str, Picture] = {}
    for picture in pictures:
        original = first.setdefault(picture.sha256, picture)
        if original is not picture:
            yield Duplicate("exact", original, picture, 0)
    distinct = [picture for picture in first.values() if picture.phash]
    for i, j, apart in near_pairs([picture.phash for picture in distinct], bits):
        yield Duplicate("near", distinct[i], distinct[j], apart)


def of_store(store: Store, snapshot: int | None = None) -> Iterator[Picture]:
    """A store's pictures that could be read; a part is the split that a row names, else the one of its file's name."""
    for row in store.images(snapshot):
        if row["status"] != "failed":
            part = row.get("split") or sources.split_of(row.get("member") or row["uri"])
            yield Picture(row["id"], row["uri"], row["sha256"], row.get("phash") or "", part, row["status"] == "ok")


def of_path(
    path: str | Path, progress: Progress | None = None, unreadable: Callable[[str], None] | None = None
) -> Iterator[Picture]:
    """The pictures of a store, of a data set in a known format, or of a folder, each read once."""
    if is_store(path):
        yield from of_store(Store(path))
        return
    refs = _references(path)
    for n, (ref, split) in enumerate(refs, 1):
        try:
            data = files.read_bytes(ref)
            phash = perceptual_hash(pixels.load(data, name=files.name_of(ref)))
        except pixels.BadImage as error:
            if unreadable:
                unreadable(str(error))
            continue
        finally:
            if progress:
                progress("reading", n, len(refs))
        part = split or sources.split_of(ref.member or ref.uri)
        yield Picture(ref.id or files.name_of(ref), files.name_of(ref), hashlib.sha256(data).hexdigest(), phash, part)


def _references(path: str | Path) -> list[tuple[ImageRef, str]]:
    """(where, split) of every picture of a data set, or of a folder that is none."""
    try:
        format = sources.format_of(path)
    except ValueError:
        return [(found.ref(), found.split) for found in discover(Path(path))[0]]
    return [(sample.image, sample.split) for sample in sources.open(path, format=format)]


def near_pairs(hashes: Sequence[str], bits: int) -> Iterator[tuple[int, int, int]]:
    """(earlier, later, bits apart) for each pair of perceptual hashes within `bits` of each other (7 at most)."""
    index = NearIndex()
    for j, phash in enumerate(hashes):
        for i, apart in index.within(phash, bits):
            yield i, j, apart
        index.add(phash)


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

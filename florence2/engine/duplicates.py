"""Pictures that are the same, to the byte or nearly: within a store, and between parts of it (leakage)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from florence2.store import Store

BANDS = 8  # bytes of a 64-bit hash; hashes up to seven bits apart share one


@dataclass(frozen=True)
class Duplicate:
    """Two pictures that are the same: `kind` is exact or near, `bits` how many of 64 differ; splits where known."""

    kind: str
    first: str
    second: str
    bits: int
    first_uri: str = ""
    second_uri: str = ""
    first_split: str = ""
    second_split: str = ""

    @property
    def leaks(self) -> bool:
        """Whether one is trained on and the other scored on."""
        return bool(self.first_split and self.second_split) and self.first_split != self.second_split


def duplicates(store: Store, bits: int = 4) -> Iterator[Duplicate]:
    """Every exact duplicate with the picture it repeats, then every near pair of different bytes."""
    rows = [row for row in store.images() if row["status"] != "failed"]
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        original = first.setdefault(row["sha256"], row)
        if original is not row:
            yield _pair("exact", original, row, 0)
    distinct = [row for row in first.values() if row.get("phash")]
    for i, j, apart in near_pairs([row["phash"] for row in distinct], bits):
        yield _pair("near", distinct[i], distinct[j], apart)


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


def first_of_each(hashes: Sequence[str], bits: int) -> list[int]:
    """For each hash the index of the first earlier one within `bits`, or its own."""
    out = list(range(len(hashes)))
    for i, j, _ in near_pairs(hashes, bits):
        if out[j] == j:
            out[j] = i
    return out


def _pair(kind: str, a: dict[str, Any], b: dict[str, Any], bits: int) -> Duplicate:
    splits = a.get("split") or "", b.get("split") or ""
    return Duplicate(kind, a["id"], b["id"], bits, a["uri"], b["uri"], *splits)

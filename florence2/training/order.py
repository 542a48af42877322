"""The order of pairs: an endless stream that can be entered at any place. Knows sources and numbers, no tensor.

The order is a pure function of (seed, epoch, place in the set): a run that goes on at a cursor reads what the
uninterrupted one would, and every rank sees the same stream and takes its share of each batch. Nothing is counted
beforehand: stretches of pictures are shuffled, then all pairs within a block of stretches, so that a block is all that
is ever held. A set of up to `BLOCK` pictures is shuffled as a whole.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from florence2.training.datasets import PlannedPicture, TrainingSource
from florence2.training.examples import LeftOut

BLOCK = 1024  # pictures whose pairs are shuffled together
HELD = 2  # blocks that are held, as the first is read for the loss before the first step as well
STRETCH = 16  # pictures that are read one after the other
EMPTY = 100  # epochs in a row of which small weights may leave nothing


@dataclass(frozen=True)
class Cursor:
    """A place in the stream: groups of pairs before it within a block of an epoch."""

    epoch: int = 0
    block: int = 0
    group: int = 0
    pair: int = 0  # within the group
    met: int = field(default=0, compare=False)
    """Pairs of the whole stream before it."""


@dataclass(frozen=True)
class PlannedPairs:
    """Asks put to one picture side by side."""

    epoch: int
    source: int
    picture: PlannedPicture
    asks: tuple[int, ...]
    held: bool = False
    """The process that trains holds the picture's features: its pixels are not needed."""


@dataclass(frozen=True)
class PlannedBatch:
    """The pairs of one forward; `spare` takes their place where none of them can be used."""

    pairs: tuple[PlannedPairs, ...]
    spare: tuple[PlannedPairs, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """Records that could not be read on the way to this batch."""
    cursor: Cursor = field(default_factory=Cursor)
    """Where the stream goes on after it."""
    epoch: int = 0

    def share(self, rank: int, ranks: int) -> PlannedBatch:
        """The pairs of one rank of several: as many for each."""
        pairs, spare = _share(self.pairs, rank, ranks), _share(self.spare, rank, ranks)
        return PlannedBatch(pairs, spare, self.left_out if rank == 0 else (), self.cursor, self.epoch)


class PairOrder:
    """The stream of pairs of several sources."""

    def __init__(self, sources: Sequence[TrainingSource], seed: int) -> None:
        self.sources, self.seed = sources, seed
        self._held: OrderedDict[tuple[int, int], tuple[list[PlannedPairs], list[LeftOut]]] = OrderedDict()

    def batches(self, size: int, start: Cursor, epochs: int = 0) -> Iterator[PlannedBatch]:
        """Batches of `size` pairs from a place on; an epoch's last batch goes on into the next epoch, the one after
        `epochs` (0: endless) is cut short."""
        waiting: list[tuple[PlannedPairs, Cursor]] = []
        lost: list[LeftOut] = []
        for found in self.stream(start, epochs):
            if isinstance(found, LeftOut):
                lost.append(found)
                continue
            waiting.append(found)
            while sum(len(pairs.asks) for pairs, _ in waiting) >= 2 * size:
                yield _cut(waiting, size, lost)
        while waiting:
            yield _cut(waiting, size, lost)

    def stream(self, start: Cursor, epochs: int = 0) -> Iterator[tuple[PlannedPairs, Cursor] | LeftOut]:
        """Groups of pairs, each with the place where it begins, and what cannot be read. It ends after the last epoch
        in which a source is used; an epoch that small weights leave without a pair is passed over."""
        cursor, met, empty = start, start.met, 0
        end = min([e for e in (epochs, self._end()) if e], default=0)
        while not end or cursor.epoch < end:
            order = self.pictures(cursor.epoch)
            any_pair = cursor.block > 0
            for block in range(cursor.block, -(-len(order) // BLOCK)):
                groups, lost = self._block(order, cursor.epoch, block)
                any_pair = any_pair or bool(groups)
                if block > cursor.block or (cursor.group, cursor.pair) == (0, 0):
                    yield from lost
                for number in range(cursor.group if block == cursor.block else 0, len(groups)):
                    group, first = groups[number], 0
                    if (block, number) == (cursor.block, cursor.group):
                        first = cursor.pair
                    asks = group.asks[first:]
                    if asks:
                        yield (
                            PlannedPairs(group.epoch, group.source, group.picture, asks),
                            Cursor(cursor.epoch, block, number, first, met),
                        )
                        met += len(asks)
            empty = 0 if any_pair else empty + 1
            if empty == EMPTY:
                raise ValueError(
                    f"data: no pair in {EMPTY} epochs in a row, up to epoch {cursor.epoch}; raise the weights of the "
                    "sources and of their tasks, and check the paths"
                )
            cursor = Cursor(cursor.epoch + 1)

    def _end(self) -> int:
        """The first epoch from which on no source is used; 0: there is none."""
        spans = [source.source.epochs for source in self.sources]
        return 0 if None in spans else max(span[1] + 1 for span in spans if span)

    def pictures(self, epoch: int) -> np.ndarray:
        """(pictures, 2) int32: source and number of every picture of an epoch, stretches in random order."""
        rows = []
        for number, source in enumerate(self.sources):
            if source.active(epoch):
                count = source.count(epoch)
                rows.append(np.stack([np.full(count, number, np.int32), np.arange(count, dtype=np.int32)], 1))
        if not rows:
            return np.empty((0, 2), np.int32)
        every = np.concatenate(rows)
        stretches = -(-len(every) // STRETCH)
        seed = int.from_bytes(blake2b(f"{self.seed}:{epoch}".encode(), digest_size=8).digest(), "big")
        shuffled = np.random.default_rng(seed).permutation(stretches)
        places = (shuffled[:, None] * STRETCH + np.arange(STRETCH)).ravel()
        return every[places[places < len(every)]]

    def _block(self, order: np.ndarray, epoch: int, number: int) -> tuple[list[PlannedPairs], list[LeftOut]]:
        """A block by its number, one of those held if it is there."""
        if (epoch, number) not in self._held:
            self._held[epoch, number] = self.block(order[number * BLOCK : (number + 1) * BLOCK], epoch)
            if len(self._held) > HELD:
                self._held.popitem(last=False)
        return self._held[epoch, number]

    def block(self, pictures: np.ndarray, epoch: int) -> tuple[list[PlannedPairs], list[LeftOut]]:
        """The pairs of a block's pictures in random order, a picture's asks in groups; and what cannot be read."""
        keyed: list[tuple[bytes, PlannedPairs]] = []
        lost: list[LeftOut] = []
        for source, number in sorted(pictures.tolist()):  # in the set's order, so that what lies together is read once
            planned = self.sources[source].plan(number, epoch, self.seed)
            if planned is None:
                continue
            if isinstance(planned, LeftOut):
                lost.append(planned)
                continue
            pairs = self.sources[source].pairs
            for start in range(0, len(planned.asks), pairs):
                text = f"{self.seed}:{epoch}:{source}:{planned.name}:{start}"
                key = blake2b(text.encode(), digest_size=8).digest()
                asks = tuple(planned.asks[start : start + pairs])
                keyed.append((key, PlannedPairs(epoch, source, planned, asks)))
        keyed.sort(key=lambda pair: pair[0])
        return [pairs for _, pairs in keyed], lost

    def count(self, epoch: int) -> int:
        """Pairs of an epoch, every picture's record read."""
        order = self.pictures(epoch)
        blocks = (order[start : start + BLOCK] for start in range(0, len(order), BLOCK))
        return sum(len(group.asks) for block in blocks for group in self.block(block, epoch)[0])


def seed_of(pairs: PlannedPairs, seed: int) -> random.Random:
    """What draws a picture's augmentation and, of a scene, its asks: the same on every rank."""
    return random.Random(f"{seed}:{pairs.epoch}:{pairs.picture.name}")


def _cut(waiting: list[tuple[PlannedPairs, Cursor]], size: int, lost: list[LeftOut]) -> PlannedBatch:
    """Take the first `size` pairs off; those after them are the spare."""
    taken = _take(waiting, size)
    spare = _take(list(waiting), size)
    left_out = tuple(lost)
    lost.clear()
    last, place = taken[-1]
    after = Cursor(place.epoch, place.block, place.group, place.pair + len(last.asks), place.met + len(last.asks))
    pairs = tuple(p for p, _ in taken)
    return PlannedBatch(pairs, tuple(p for p, _ in spare), left_out, after, pairs[0].epoch)


def _take(waiting: list[tuple[PlannedPairs, Cursor]], size: int) -> list[tuple[PlannedPairs, Cursor]]:
    taken: list[tuple[PlannedPairs, Cursor]] = []
    while waiting and size:
        pairs, place = waiting.pop(0)
        if len(pairs.asks) > size:
            rest = Cursor(place.epoch, place.block, place.group, place.pair + size, place.met + size)
            waiting.insert(0, (PlannedPairs(pairs.epoch, pairs.source, pairs.picture, pairs.asks[size:]), rest))
            pairs = PlannedPairs(pairs.epoch, pairs.source, pairs.picture, pairs.asks[:size])
        size -= len(pairs.asks)
        taken.append((pairs, place))
    return taken


def _share(pairs: Sequence[PlannedPairs], rank: int, ranks: int) -> tuple[PlannedPairs, ...]:
    """Every rank's stretch of a batch, in pairs."""
    if ranks == 1:
        return tuple(pairs)
    total = sum(len(group.asks) for group in pairs)
    waiting = [(group, Cursor()) for group in pairs]
    _take(waiting, total * rank // ranks)  # those of the ranks before
    return tuple(group for group, _ in _take(waiting, total * (rank + 1) // ranks - total * rank // ranks))

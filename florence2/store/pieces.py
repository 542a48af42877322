"""Parts of a unit that are done, remembered until the whole unit is.

A piece holds, for each of its pictures, what is to be committed; a unit put together from pieces is the same to the
byte as one done at once. Pieces are deleted when their unit is committed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from florence2.records import Failure, Sample, from_json, to_json
from florence2.store import layout
from florence2.store.storage import Storage
from florence2.structuring import parse_json

Signed = Sample | Failure  # of one picture: its annotations with ids and source, or why there are none


class Pieces:
    """The pieces of one unit of work; `uid` names it."""

    def __init__(self, storage: Storage, uid: str):
        self.storage, self.uid = storage, uid

    def remember(self, start: int, found: Sequence[Signed]) -> None:
        """Keep what was found of the pictures from `start` on."""
        lines = [{"failure" if isinstance(each, Failure) else "sample": to_json(each)} for each in found]
        data = json.dumps(lines, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        self.storage.put_if_absent([(layout.piece(self.uid, start, start + len(found)), data)])

    def gaps(self, count: int) -> list[tuple[int, int]]:
        """The parts of a unit of `count` pictures that no piece holds."""
        held = [False] * count
        for start, stop, _ in self._all():
            held[start:stop] = [True] * (min(stop, count) - start)
        out: list[tuple[int, int]] = []
        for index in (n for n, is_held in enumerate(held) if not is_held):
            if out and out[-1][1] == index:
                out[-1] = out[-1][0], index + 1
            else:
                out.append((index, index + 1))
        return out

    def collect(self, count: int) -> list[Signed] | None:
        """What was found of every picture of a unit, in order; None while some are lacking."""
        found: dict[int, Signed] = {}
        for start, _, path in self._all():
            try:
                lines = parse_json(self.storage.read(path))
            except FileNotFoundError:  # another worker has put the unit together
                return None
            for number, line in enumerate(lines, start):
                found[number] = (
                    from_json(Failure, line["failure"]) if "failure" in line else from_json(Sample, line["sample"])
                )
        return [found[n] for n in range(count)] if all(n in found for n in range(count)) else None

    def forget(self) -> None:
        """Remove them."""
        self.storage.delete([path for _, _, path in self._all()])

    def _all(self) -> Iterator[tuple[int, int, str]]:
        for path in self.storage.list(layout.pieces(self.uid)):
            start, _, stop = path.rsplit("/", 1)[-1].removesuffix(".json").partition("-")
            yield int(start), int(stop), path


def begun(storage: Storage) -> set[str]:
    """The units of work of which there are pieces."""
    return {path.split("/")[-2] for path in storage.list(layout.PIECES)}

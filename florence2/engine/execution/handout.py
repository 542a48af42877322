"""How large a piece of a unit is handed out at once: about half a minute of work, as measured, in whole batches."""

from __future__ import annotations

from collections import deque

PIECE_S = 30.0  # of work: what a kill loses at the most, but for a single batch that takes longer
SMALL_S = 2.0  # of work: not worth to be split
LEARNT_FROM = 20  # jobs


class Pace:
    """Seconds a picture of one operator, learnt from its jobs, and the pieces that follow from them."""

    def __init__(self, batch: int, workers: int):
        self.batch, self.workers = max(1, batch), workers
        self._took: deque[tuple[float, int]] = deque(maxlen=LEARNT_FROM)

    def learn(self, took_s: float, pictures: int) -> None:
        """A job of so many pictures took so long."""
        self._took.append((took_s, pictures))

    @property
    def picture_s(self) -> float | None:
        """Seconds a picture; None while nothing is known."""
        pictures = sum(n for _, n in self._took)
        return sum(took for took, _ in self._took) / pictures if pictures else None

    def piece(self, in_unit: int, in_all: int) -> int:
        """How many of the pictures left in a unit are handed out next; a batch while the pace is not known.

        Towards the end of all that is left, pieces become small, so that no worker is left alone with the last one.
        """
        pace = self.picture_s
        if pace is None:
            return min(in_unit, self.batch)
        if in_unit * pace <= SMALL_S:
            return in_unit
        wanted = PIECE_S / pace
        if self.workers > 1:
            wanted = min(wanted, in_all / (2 * self.workers))
        batches = max(1, int(wanted // self.batch))
        return min(in_unit, batches * self.batch)

"""Beam search over integers and scores alone: how beams are ranked, which end, when a request stops.

Knows no arrays: what each row could go on with is given as candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from florence2.decoding.generated import Generated, generated_of


@dataclass(frozen=True)
class Ranking:
    """How beams are ranked and when a sample stops: the official numbers of beam search."""

    width: int = 3
    length_penalty: float = 1.0
    early_stopping: bool | str = True

    def score(self, total: float, length: int) -> float:
        """A finished row's score; `length` counts every token after the start, `</s>` included."""
        return float(np.float32(total) / np.float32(length**self.length_penalty))  # as precise as the reference

    def first_rows(self, start: Candidate) -> list[Candidate]:
        """The live rows a sample begins with: one, or all beams would be equal."""
        return [start]

    def candidates(self) -> int:
        """How many continuations of one sample are kept for selection: enough to go on if the best `width` all end."""
        return 2 * self.width

    def may_finish(self, rank: int) -> bool:
        """Only a continuation among the best `width` may end; an ending further down is dropped."""
        return rank < self.width

    def keep(self, finished: list[Ended]) -> list[Ended]:
        """The finished rows that are kept: the best `width`."""
        return sorted(finished, key=lambda ended: -ended.score)[: self.width]

    def done(self, finished: list[Ended], best_total: float, length: int, budget: int) -> bool:
        """Whether a sample stops, its best live row having `best_total` after `length` tokens."""
        if len(finished) < self.width:
            return False
        if self.early_stopping is True:
            return True
        if self.early_stopping == "never" and self.length_penalty > 0:
            length = budget
        return self.score(best_total, length) <= finished[-1].score


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row going on with one token: its place in the tree of rows, and the sum of its log-probabilities."""

    parent: Candidate | None
    row: int  # of the parent, in the batch
    token: int
    total: float
    measured: Sequence[float]
    cut: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished row and its score."""

    score: float
    row: Candidate


class Beam:
    """One request's live rows, best first, and the rows that have finished."""

    def __init__(self, number: int, ranking: Ranking, rows: list[Candidate], eos: int):
        self.number = number
        self.ranking = ranking
        self.rows = rows
        self.eos = eos
        self.finished: list[Ended] = []
        self.length = 0
        self.done = False

    def step(self, options: list[Candidate], remaining: int) -> None:
        """Take the joint best of all rows' continuations: some end, the best others go on."""
        ranking, last = self.ranking, remaining == 1
        self.length += 1
        budget = self.length + remaining - 1
        best = sorted(options, key=lambda option: -option.total)[: ranking.candidates()]
        ends = [option.token == self.eos or last for option in best]
        for rank, option in enumerate(best):
            if ends[rank] and ranking.may_finish(rank):
                self.finished.append(Ended(ranking.score(option.total, self.length), option))
        self.finished = ranking.keep(self.finished)
        self.rows = [option for option, end in zip(best, ends) if not end][: ranking.width]
        self.done = last or not self.rows or ranking.done(self.finished, self.rows[0].total, self.length, budget)

    def answer(self) -> Generated:
        """The best finished row, its tokens read back along its parents."""
        path: list[Candidate] = []
        row: Candidate | None = self.finished[0].row
        while row is not None:
            path.append(row)
            row = row.parent
        path.reverse()
        return generated_of([r.token for r in path], [r.measured for r in path], path[-1].cut)

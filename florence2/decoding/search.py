"""Greedy and beam search over any model with `step` and a cache with `select`. Knows integers only.

    model.step(ids (R,), cache) -> logits (R, V);  cache.select(rows): row i goes on as the former row rows[i]

A sample that has ended leaves the batch, so no sample pays for the longest. Log-probabilities are taken before any
rule acts. R rows, V tokens; a sample has one row in greedy search and up to `width` in beam search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from florence2.decoding.constraints import MASKED, Constraint


class Steps(Protocol):
    """A model that takes one token a row and says what may follow."""

    def step(self, ids: Tensor, cache: Any) -> Tensor: ...


@dataclass(frozen=True)
class Generated:
    """One answer in token ids, the start token first, and the raw log-probability of each (0 for the start token).

    `truncated`: the budget ended or bent the answer where the model would have gone on.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool = False


@torch.inference_mode()
def greedy(model: Steps, cache: Any, constraint: Constraint, samples: int, device: Any = None) -> list[Generated]:
    """The likeliest allowed token at each step, for each of `samples` rows."""
    answers: dict[int, Generated] = {}
    live = list(range(samples))  # row -> sample
    ids = [[constraint.start] for _ in live]
    logprobs = [[0.0] for _ in live]
    truncated = [False] * samples
    tokens = [constraint.start] * samples
    while live:
        logits = model.step(torch.tensor(tokens, device=device), cache).float()
        scores = logits.clone()
        cut = constraint.apply(scores)
        best = scores.argmax(-1, keepdim=True)
        chosen = (logits.gather(1, best) - logits.logsumexp(-1, keepdim=True)).squeeze(1).tolist()
        tokens = best.squeeze(1).tolist()
        _check(chosen)
        kept = []
        for row, sample in enumerate(live):
            ids[sample].append(tokens[row])
            logprobs[sample].append(chosen[row])
            truncated[sample] |= cut[row]
            if tokens[row] == constraint.eos or constraint.remaining[row] == 1:
                answers[sample] = Generated(tuple(ids[sample]), tuple(logprobs[sample]), truncated[sample])
            else:
                kept.append(row)
        if len(kept) < len(live):
            live = [live[row] for row in kept]
            tokens = [tokens[row] for row in kept]
            constraint.select(kept)
            if live:
                cache.select(torch.tensor(kept, device=device))
        constraint.advance(tokens)
    return [answers[sample] for sample in range(samples)]


def _check(logprobs: list[float]) -> None:
    if any(math.isnan(value) for value in logprobs):
        raise ValueError("dtype: the model's numbers overflowed in this type; load it as float32 or bfloat16")


@dataclass(frozen=True)
class Ranking:
    """How beams are ranked and when a sample stops: the official numbers of beam search."""

    width: int = 3
    length_penalty: float = 1.0
    early_stopping: bool | str = True

    def score(self, total: float, length: int) -> float:
        """A finished row's score; `length` counts every token after the start, `</s>` included."""
        return float(np.float32(total) / np.float32(length**self.length_penalty))  # as precise as the reference

    def first_rows(self, start: Continuation) -> list[Continuation]:
        """The live rows a sample begins with: one, or the beams would all say the same."""
        return [start]

    def candidates(self) -> int:
        """How many continuations of one sample are looked at: enough to go on if the best `width` all end."""
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
class Continuation:
    """A row going on with one token: its place in the tree of rows, and the sum of its log-probabilities."""

    parent: Continuation | None
    row: int  # of the parent, in the batch
    token: int
    total: float
    logprob: float
    cut: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished row and its score."""

    score: float
    row: Continuation


@torch.inference_mode()
def beam(
    model: Steps, cache: Any, constraint: Constraint, samples: int, ranking: Ranking, device: Any = None
) -> list[Generated]:
    """The best finished row of each of `samples`, after transformers' `generate` (one live row a sample at first)."""
    answers: dict[int, Generated] = {}
    start = Continuation(None, -1, constraint.start, 0.0, 0.0, False)
    beams = [Beam(sample, ranking, ranking.first_rows(start), constraint.eos) for sample in range(samples)]
    while beams:
        live = [row for b in beams for row in b.rows]
        logits = model.step(torch.tensor([row.token for row in live], device=device), cache).float()
        logprobs = logits.log_softmax(-1)
        allowed = logprobs.clone()
        cut = constraint.apply(allowed)
        totals = allowed + torch.tensor([[row.total] for row in live], device=allowed.device)
        top, index = totals.topk(min(ranking.candidates(), totals.shape[-1]))
        _check(logprobs[:, 0].tolist())
        best = [list(zip(*row)) for row in zip(top.tolist(), index.tolist(), logprobs.gather(1, index).tolist())]
        first = 0
        for b in beams:
            own = range(first, first + len(b.rows))
            first += len(b.rows)
            options = [
                Continuation(live[row], row, token, total, logprob, live[row].cut or cut[row])
                for row in own
                for total, token, logprob in best[row]
                if total > MASKED
            ]
            b.step(options, constraint.remaining[own[0]])
        for b in beams:
            if b.done:
                answers[b.sample] = b.answer()
        beams = [b for b in beams if not b.done]
        chosen = [row for b in beams for row in b.rows]
        rows = [row.row for row in chosen]
        constraint.select(rows)
        constraint.advance([row.token for row in chosen])
        if rows and rows != list(range(len(live))):
            cache.select(torch.tensor(rows, device=device))
    return [answers[sample] for sample in range(samples)]


class Beam:
    """One sample's live rows, best first, and the rows that have finished."""

    def __init__(self, sample: int, ranking: Ranking, rows: list[Continuation], eos: int):
        self.sample = sample
        self.ranking = ranking
        self.rows = rows
        self.eos = eos
        self.finished: list[Ended] = []
        self.length = 0
        self.done = False

    def step(self, options: list[Continuation], remaining: int) -> None:
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
        path: list[Continuation] = []
        row: Continuation | None = self.finished[0].row
        while row is not None:
            path.append(row)
            row = row.parent
        path.reverse()
        return Generated(tuple(r.token for r in path), tuple(r.logprob for r in path), path[-1].cut)

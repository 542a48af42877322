"""Greedy and beam search, a step at a time, over any model with `states`, `logits` and a cache. Knows integers only.

    search.admit(cache, constraint) -> the requests' numbers;  search.step() -> the numbers and answers that ended
    search.drop(numbers): these are answered no longer

    model.states(ids (R,), cache) -> (R, C);  model.logits(states, span) -> (R, V), or (R, n) of a span of n ids
    cache.select(rows): row i goes on as the former row rows[i];  cache.admit(other): its rows go on behind

Requests may join at any step. A request that has ended leaves the batch, so none pays for the longest.
Log-probabilities are taken over the whole vocabulary before any rule acts. A step waits for the device once.
R rows, V tokens; a request has one row in greedy search and up to `width` in beam search.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from florence2.decoding.constraints import MASKED, Constraint
from florence2.decoding.measures import LOGPROB, columns, measures
from florence2.model.device import put

PENDING = 64  # so many states wait for their normaliser at the most


class Steps(Protocol):
    """A model that takes one token a row and scores what may follow."""

    def states(self, ids: Tensor, cache: Any) -> Tensor: ...
    def logits(self, states: Tensor, span: tuple[int, int] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Generated:
    """One answer in token ids, the start token first, and the raw log-probability of each (0 for the start token).

    `truncated`: the budget ended or bent the answer where the model would have gone on. `measures` (T, F) float32 are
    those of `decoding.measures`, a row an id.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool = False
    measures: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.float32), compare=False, repr=False)


def _generated(ids: Sequence[int], measured: Sequence[Sequence[float]], truncated: bool) -> Generated:
    table = np.array(measured, np.float32)
    return Generated(tuple(ids), tuple(row[LOGPROB] for row in measured), truncated, table)


class Search(Protocol):
    """Requests being answered."""

    @property
    def finished(self) -> bool:
        """Whether no request is being answered."""
        ...

    def admit(self, cache: Any, constraint: Constraint) -> range:
        """Take in a cache of one row a request, and what each may generate; the requests' numbers."""
        ...

    def step(self) -> list[tuple[int, Generated]]:
        """One more token for every request; those that ended."""
        ...

    def drop(self, numbers: Collection[int]) -> None:
        """Answer these requests no longer."""
        ...

    def so_far(self) -> dict[int, Sequence[int]]:
        """The ids of each request that can no longer change, the start token first; none in beam search."""
        ...


class _Requests:
    """What both searches share: the cache and the constraint of all requests, and how others join them."""

    cache: Any
    constraint: Constraint

    def __init__(self, model: Steps, device: Any = None, ordered: tuple[int, int] | None = None) -> None:
        self.model = model
        self.device = device
        self.ordered = ordered
        self.columns = columns(ordered)
        self.admitted = 0

    def _measured(self, logits: Tensor, chosen: Tensor) -> Tensor:
        return measures(logits, chosen, self.constraint.eos, self.ordered)

    def _join(self, cache: Any, constraint: Constraint, empty: bool) -> range:
        if empty:
            self.cache, self.constraint = cache, constraint
        else:
            self.constraint.admit(constraint)
            self.cache.admit(cache)
        first, self.admitted = self.admitted, self.admitted + len(constraint.remaining)
        return range(first, self.admitted)

    def _step(self, tokens: Sequence[int]) -> Tensor:
        return self.model.states(put(tokens, self.device), self.cache)

    def _go_on(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """These rows go on, each with its token."""
        self._keep(rows)
        self.constraint.advance(tokens)

    def _keep(self, rows: Sequence[int]) -> None:
        """Only these rows go on."""
        self.constraint.select(rows)
        if rows:
            self.cache.select(rows)


@dataclass(slots=True)
class _Row:
    """A request in greedy search. `owed`: tokens that have not been measured yet."""

    number: int
    ids: list[int]
    measured: list[Sequence[float]]
    truncated: bool = False
    owed: int = 0


@dataclass(frozen=True, slots=True)
class _Pending:
    """States whose token was chosen by a part of the output matrix; the whole of it measures many of them at once."""

    places: list[tuple[_Row, int]]
    states: Tensor  # (n, C)


class GreedySearch(_Requests):
    """The likeliest allowed token at each step.

    Where only a span of ids is allowed (a location, the first `<s>`), only those rows of the output matrix are
    multiplied; what is measured over all of them follows later, for up to 64 such tokens in one product.
    """

    def __init__(self, model: Steps, device: Any = None, ordered: tuple[int, int] | None = None) -> None:
        super().__init__(model, device, ordered)
        self.rows: list[_Row] = []
        self.ended: list[_Row] = []
        self.pending: list[_Pending] = []

    @property
    def finished(self) -> bool:
        return not self.rows and not self.ended

    @torch.inference_mode()
    def admit(self, cache: Any, constraint: Constraint) -> range:
        numbers = self._join(cache, constraint, empty=not self.rows)
        self.rows += [_Row(number, [constraint.start], [[0.0] * self.columns]) for number in numbers]
        return numbers

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Generated]]:
        due = self.pending if self.ended or sum(len(p.places) for p in self.pending) >= PENDING else []
        late = [self._measured_late(due)] if due else []
        self.pending = [] if due else self.pending
        order, chosen = self._choose() if self.rows else ([], [])
        values = torch.cat([tensor.flatten() for tensor in (*late, *chosen)]).tolist()  # the one wait for the device
        _check(values)
        places = [place for pending in due for place in pending.places]
        for number, (row, place) in enumerate(places):
            row.measured[place] = values[number * self.columns : (number + 1) * self.columns]
            row.owed -= 1
        if order:
            self._take(order, values[len(places) * self.columns :])
        done = [row for row in self.ended if not row.owed]
        self.ended = [row for row in self.ended if row.owed]
        return [(row.number, _generated(row.ids, row.measured, row.truncated)) for row in done]

    @torch.inference_mode()
    def drop(self, numbers: Collection[int]) -> None:
        kept = [place for place, row in enumerate(self.rows) if row.number not in numbers]
        self.ended = [row for row in self.ended if row.number not in numbers]
        if len(kept) < len(self.rows):
            self.rows = [self.rows[place] for place in kept]
            self._keep(kept)

    def so_far(self) -> dict[int, Sequence[int]]:
        return {row.number: row.ids for row in self.rows}

    def _choose(self) -> tuple[list[int], list[Tensor]]:
        """Rows in an order, and for each in that order (token, cut, what is measured or the logit) as float32."""
        states = self._step([row.ids[-1] for row in self.rows])
        order: list[int] = []
        chosen = []
        spans = self.constraint.spans()
        for rows, span in _grouped(spans):
            every = rows == list(range(len(self.rows)))  # grouping by spans may have changed the order
            own = states if every else states[put(rows, states.device)]
            logits = self.model.logits(own, span).float()
            if span is None:
                scores = logits.clone()
                cut = self.constraint.apply(scores, rows)
                best = scores.argmax(-1, keepdim=True)
                measured = self._measured(logits, best)[:, 0]
            else:
                within = put([spans[row] for row in rows], logits.device) - span[0]
                ids = torch.arange(logits.shape[1], device=logits.device)
                outside = (ids < within[:, :1]) | (ids >= within[:, 1:])
                best = logits.masked_fill(outside, MASKED).argmax(-1, keepdim=True)
                measured, cut = logits.gather(1, best), torch.zeros(len(rows), device=logits.device)
                measured = measured.expand(-1, self.columns)  # until they are measured
                places = [(self.rows[row], len(self.rows[row].ids)) for row in rows]
                for row in rows:
                    self.rows[row].owed += 1
                self.pending.append(_Pending(places, own))
                best = best + span[0]
            order += rows
            chosen.append(torch.cat([best.float(), cut[:, None].float(), measured], 1))  # ids are below 2**24
        return order, chosen

    def _take(self, order: Sequence[int], values: Sequence[float]) -> None:
        """Give each row its token; rows that end leave the batch."""
        width = 2 + self.columns
        for place, number in enumerate(order):
            token, cut, *measured = values[width * place : width * (place + 1)]
            row = self.rows[number]
            row.ids.append(int(token))
            row.measured.append(measured)
            row.truncated |= bool(cut)
        eos, remaining = self.constraint.eos, self.constraint.remaining
        kept = [n for n, row in enumerate(self.rows) if row.ids[-1] != eos and remaining[n] > 1]
        self.ended += [row for n, row in enumerate(self.rows) if n not in set(kept)]
        self.rows = [self.rows[n] for n in kept]
        self._go_on(kept, [row.ids[-1] for row in self.rows])

    def _measured_late(self, pending: Sequence[_Pending]) -> Tensor:
        logits = self.model.logits(torch.cat([p.states for p in pending])).float()
        chosen = [[row.ids[place]] for p in pending for row, place in p.places]
        return self._measured(logits, put(chosen, logits.device))[:, 0]


def _grouped(spans: Sequence[tuple[int, int] | None]) -> Iterator[tuple[list[int], tuple[int, int] | None]]:
    """Rows that need the whole output matrix, then those that need a part, spans that overlap together."""
    if whole := [row for row, span in enumerate(spans) if span is None]:
        yield whole, None
    rows: list[int] = []
    low = high = 0
    for (first, last), row in sorted((span, row) for row, span in enumerate(spans) if span is not None):
        if rows and first >= high:
            yield rows, (low, high)
            rows = []
        low, high = (min(low, first), max(high, last)) if rows else (first, last)
        rows.append(row)
    if rows:
        yield rows, (low, high)


def _check(logprobs: list[float]) -> None:
    if math.isnan(sum(logprobs)) and any(math.isnan(value) for value in logprobs):
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


class BeamSearch(_Requests):
    """The best finished row of each request, after transformers' `generate` (one live row a request at first).

    Totals are ranked over the whole vocabulary's log-probabilities, so the output matrix is always multiplied whole.
    """

    def __init__(
        self, model: Steps, ranking: Ranking, device: Any = None, ordered: tuple[int, int] | None = None
    ) -> None:
        super().__init__(model, device, ordered)
        self.ranking = ranking
        self.beams: list[Beam] = []

    @property
    def finished(self) -> bool:
        return not self.beams

    @torch.inference_mode()
    def admit(self, cache: Any, constraint: Constraint) -> range:
        start = Candidate(None, -1, constraint.start, 0.0, [0.0] * self.columns, False)
        numbers = self._join(cache, constraint, empty=not self.beams)
        rows = self.ranking.first_rows(start)
        self.beams += [Beam(number, self.ranking, rows, constraint.eos) for number in numbers]
        return numbers

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Generated]]:
        live = [row for b in self.beams for row in b.rows]
        options, remaining = self._options(live), self.constraint.remaining
        first = 0
        for b in self.beams:
            own = range(first, first + len(b.rows))
            first += len(b.rows)
            b.step([option for row in own for option in options[row]], remaining[own[0]])
        done = [(b.number, b.answer()) for b in self.beams if b.done]
        self.beams = [b for b in self.beams if not b.done]
        chosen = [row for b in self.beams for row in b.rows]
        self._go_on([row.row for row in chosen], [row.token for row in chosen])
        return done

    @torch.inference_mode()
    def drop(self, numbers: Collection[int]) -> None:
        owners = [b.number for b in self.beams for _ in b.rows]
        kept = [place for place, number in enumerate(owners) if number not in numbers]
        if len(kept) < len(owners):
            self.beams = [b for b in self.beams if b.number not in numbers]
            self._keep(kept)

    def so_far(self) -> dict[int, Sequence[int]]:
        return {}

    def _options(self, live: Sequence[Candidate]) -> list[list[Candidate]]:
        """The best continuations of each row."""
        logits = self.model.logits(self._step([row.token for row in live])).float()
        logprobs = logits.log_softmax(-1)
        allowed = logprobs.clone()
        cut = self.constraint.apply(allowed, range(len(live)))
        totals = allowed + put([[row.total] for row in live], allowed.device)
        count = min(self.ranking.candidates(), totals.shape[-1])
        top, index = totals.topk(count)
        parts = (logprobs[:, :1], cut[:, None].float(), top, index.float(), self._measured(logprobs, index).flatten(1))
        values = torch.cat(parts, 1).tolist()  # the one wait for the device
        _check([row[0] for row in values])
        width, measured = self.columns, 2 + 2 * count
        return [
            [
                Candidate(
                    live[row],
                    row,
                    int(token),
                    total,
                    v[measured + width * place : measured + width * (place + 1)],
                    live[row].cut or bool(v[1]),
                )
                for place, (total, token) in enumerate(zip(v[2 : 2 + count], v[2 + count : 2 + 2 * count]))
                if total > MASKED
            ]
            for row, v in enumerate(values)
        ]


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
        return _generated([r.token for r in path], [r.measured for r in path], path[-1].cut)

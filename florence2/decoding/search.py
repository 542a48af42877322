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
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from florence2.arrays import MASKED, Arrays
from florence2.decoding.beams import Beam, Candidate, Ranking
from florence2.decoding.constraints import Constraint
from florence2.decoding.generated import Generated, generated_of
from florence2.decoding.measures import columns, measures

P = ParamSpec("P")
R = TypeVar("R")
PENDING = 64  # so many states wait for their normaliser at the most


class Steps(Protocol):
    """A model that takes one token a row and scores what may follow."""

    @property
    def arrays(self) -> Arrays: ...
    def states(self, ids: Any, cache: Any) -> Any: ...
    def logits(self, states: Any, span: tuple[int, int] | None = None) -> Any: ...


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


def without_gradients(method: Callable[P, R]) -> Callable[P, R]:
    """A method of a search that keeps no gradient."""

    @wraps(method)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        search: Any = args[0]
        with search.arrays.inference():
            return method(*args, **kwargs)

    return wrapped


class _Requests:
    """What both searches share: the cache and the constraint of all requests, and how others join them."""

    cache: Any
    constraint: Constraint

    def __init__(self, model: Steps, ordered: tuple[int, int] | None = None) -> None:
        self.model = model
        self.arrays = model.arrays
        self.ordered = ordered
        self.columns = columns(ordered)
        self.admitted = 0

    def _measured(self, logits: Any, chosen: Any) -> Any:
        return measures(self.arrays, logits, chosen, self.constraint.eos, self.ordered)

    def _join(self, cache: Any, constraint: Constraint, empty: bool) -> range:
        if empty:
            self.cache, self.constraint = cache, constraint
        else:
            self.constraint.admit(constraint)
            self.cache.admit(cache)
        first, self.admitted = self.admitted, self.admitted + len(constraint.remaining)
        return range(first, self.admitted)

    def _step(self, tokens: Sequence[int]) -> Any:
        return self.model.states(self.arrays.put(tokens), self.cache)

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
    states: Any  # (n, C)


class GreedySearch(_Requests):
    """The likeliest allowed token at each step.

    Where only a span of ids is allowed (a location, the first `<s>`), only those rows of the output matrix are
    multiplied; what is measured over all of them follows later, for up to 64 such tokens in one product.
    """

    def __init__(self, model: Steps, ordered: tuple[int, int] | None = None) -> None:
        super().__init__(model, ordered)
        self.rows: list[_Row] = []
        self.ended: list[_Row] = []
        self.pending: list[_Pending] = []

    @property
    def finished(self) -> bool:
        return not self.rows and not self.ended

    @without_gradients
    def admit(self, cache: Any, constraint: Constraint) -> range:
        numbers = self._join(cache, constraint, empty=not self.rows)
        self.rows += [_Row(number, [constraint.start], [[0.0] * self.columns]) for number in numbers]
        return numbers

    @without_gradients
    def step(self) -> list[tuple[int, Generated]]:
        due = self.pending if self.ended or sum(len(p.places) for p in self.pending) >= PENDING else []
        late = [self._measured_late(due)] if due else []
        self.pending = [] if due else self.pending
        order, chosen = self._choose() if self.rows else ([], [])
        flat = [array.reshape(-1) for array in (*late, *chosen)]
        values = self.arrays.concat(flat, 0).tolist() if flat else []  # the one wait for the device
        check(values)
        places = [place for pending in due for place in pending.places]
        for number, (row, place) in enumerate(places):
            row.measured[place] = values[number * self.columns : (number + 1) * self.columns]
            row.owed -= 1
        if order:
            self._take(order, values[len(places) * self.columns :])
        done = [row for row in self.ended if not row.owed]
        self.ended = [row for row in self.ended if row.owed]
        return [(row.number, generated_of(row.ids, row.measured, row.truncated)) for row in done]

    @without_gradients
    def drop(self, numbers: Collection[int]) -> None:
        kept = [place for place, row in enumerate(self.rows) if row.number not in numbers]
        self.ended = [row for row in self.ended if row.number not in numbers]
        if len(kept) < len(self.rows):
            self.rows = [self.rows[place] for place in kept]
            self._keep(kept)

    def so_far(self) -> dict[int, Sequence[int]]:
        return {row.number: row.ids for row in self.rows}

    def _choose(self) -> tuple[list[int], list[Any]]:
        """Rows in an order, and for each in that order (token, cut, what is measured or the logit) as float32."""
        arrays = self.arrays
        states = self._step([row.ids[-1] for row in self.rows])
        order: list[int] = []
        chosen = []
        spans = self.constraint.spans()
        for rows, span in _grouped(spans):
            every = rows == list(range(len(self.rows)))  # grouping by spans may have changed the order
            own = states if every else states[arrays.put(rows)]
            logits = arrays.floats(self.model.logits(own, span))
            if span is None:
                scores = arrays.copy(logits)
                cut = self.constraint.apply(scores, rows, arrays)
                best = scores.argmax(-1)[:, None]
                measured = self._measured(logits, best)[:, 0]
            else:
                within = arrays.put([spans[row] for row in rows]) - span[0]
                ids = arrays.arange(logits.shape[1])
                outside = (ids < within[:, :1]) | (ids >= within[:, 1:])
                best = arrays.masked(logits, outside).argmax(-1)[:, None]
                cut = arrays.flags(len(rows))
                measured = arrays.concat([arrays.gather(logits, best)] * self.columns, 1)  # until they are measured
                places = [(self.rows[row], len(self.rows[row].ids)) for row in rows]
                for row in rows:
                    self.rows[row].owed += 1
                self.pending.append(_Pending(places, own))
                best = best + span[0]
            order += rows
            chosen.append(arrays.concat([arrays.floats(best), arrays.floats(cut)[:, None], measured], 1))  # ids < 2**24
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

    def _measured_late(self, pending: Sequence[_Pending]) -> Any:
        logits = self.arrays.floats(self.model.logits(self.arrays.concat([p.states for p in pending], 0)))
        chosen = [[row.ids[place]] for p in pending for row, place in p.places]
        return self._measured(logits, self.arrays.put(chosen))[:, 0]


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


def check(logprobs: Sequence[float]) -> None:
    """Refuse numbers that are none."""
    if math.isnan(sum(logprobs)) and any(math.isnan(value) for value in logprobs):
        raise ValueError("dtype: the model's numbers overflowed in this type; load it as float32 or bfloat16")


class BeamSearch(_Requests):
    """The best finished row of each request, after transformers' `generate` (one live row a request at first).

    Totals are ranked over the whole vocabulary's log-probabilities, so the output matrix is always multiplied whole.
    """

    def __init__(self, model: Steps, ranking: Ranking, ordered: tuple[int, int] | None = None) -> None:
        super().__init__(model, ordered)
        self.ranking = ranking
        self.beams: list[Beam] = []

    @property
    def finished(self) -> bool:
        return not self.beams

    @without_gradients
    def admit(self, cache: Any, constraint: Constraint) -> range:
        start = Candidate(None, -1, constraint.start, 0.0, [0.0] * self.columns, False)
        numbers = self._join(cache, constraint, empty=not self.beams)
        rows = self.ranking.first_rows(start)
        self.beams += [Beam(number, self.ranking, rows, constraint.eos) for number in numbers]
        return numbers

    @without_gradients
    def step(self) -> list[tuple[int, Generated]]:
        remaining, first = self.constraint.remaining, 0
        for b, options in zip(self.beams, self._options()):
            own = remaining[first]
            first += len(b.rows)
            b.step(options, own)
        done = [(b.number, b.answer()) for b in self.beams if b.done]
        self.beams = [b for b in self.beams if not b.done]
        chosen = [row for b in self.beams for row in b.rows]
        self._go_on([row.row for row in chosen], [row.token for row in chosen])
        return done

    @without_gradients
    def drop(self, numbers: Collection[int]) -> None:
        owners = [b.number for b in self.beams for _ in b.rows]
        kept = [place for place, number in enumerate(owners) if number not in numbers]
        if len(kept) < len(owners):
            self.beams = [b for b in self.beams if b.number not in numbers]
            self._keep(kept)

    def so_far(self) -> dict[int, Sequence[int]]:
        return {}

    def _options(self) -> list[list[Candidate]]:
        """The best continuations of each request, best first."""
        arrays = self.arrays
        live = [row for b in self.beams for row in b.rows]
        logits = arrays.floats(self.model.logits(self._step([row.token for row in live])))
        logprobs = arrays.log_softmax(logits)
        allowed = arrays.copy(logprobs)
        cut = self.constraint.apply(allowed, range(len(live)), arrays)
        totals = allowed + arrays.put([[row.total] for row in live])
        count = min(self.ranking.candidates(), totals.shape[-1])
        top, index = arrays.topk(totals, count)
        measured = self._measured(logprobs, index).reshape(len(live), -1)
        parts = (logprobs[:, :1], arrays.floats(cut)[:, None], top, arrays.floats(index), measured)
        values = arrays.host(arrays.concat(parts, 1))  # the one wait for the device
        check(values[:, 0].tolist())
        out, first = [], 0
        for b in self.beams:
            own = values[first : first + len(b.rows)]
            out.append(
                [self._candidate(live, first, own, count, place) for place in _best(own[:, 2 : 2 + count], count)]
            )
            first += len(b.rows)
        return out

    def _candidate(
        self, live: Sequence[Candidate], first: int, values: np.ndarray, count: int, place: int
    ) -> Candidate:
        """The continuation at a place, counted over a request's rows of `count` each."""
        number, rank = divmod(place, count)
        row, parent = values[number], live[first + number]
        own = row[2 + 2 * count + self.columns * rank :][: self.columns].tolist()
        total, token = float(row[2 + rank]), int(row[2 + count + rank])
        return Candidate(parent, first + number, token, total, own, parent.cut or bool(row[1]))


def _best(totals: np.ndarray, count: int) -> list[int]:
    """The places of the `count` largest of all rows that are not masked, largest first, the first of equals first."""
    flat = totals.ravel()
    order = np.argsort(-flat, kind="stable")[:count]
    return [place for place in order.tolist() if flat[place] > MASKED]

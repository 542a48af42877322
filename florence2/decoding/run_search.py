"""Greedy search in runs of steps that the model takes by itself: the host looks once a run, not once a token.

A model that was trained to say what its grammar allows seldom wants anything else. So a run takes the likeliest of all
tokens at each step; then the rules are asked of each whether they would have chosen it. Up to the first where that is
not sure the tokens are those of the search a step at a time, exactly; that one is chosen under the rules from the state
that the run had reached, and the next run goes on from there. Tokens that the rules leave no choice of are given to the
run. Knows integers only.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from florence2.arrays import Arrays
from florence2.decoding.constraints import Constraint
from florence2.decoding.generated import Generated, generated_of
from florence2.decoding.measures import columns, measures
from florence2.decoding.search import check, without_gradients


class RunningModel(Protocol):
    """A model that takes several steps between two looks."""

    @property
    def arrays(self) -> Arrays: ...
    @property
    def run_pool(self) -> Any: ...
    def begin_runs(self, cache: Any, key: object, measured: Any) -> Any: ...
    def logits(self, states: Any, span: tuple[int, int] | None = None) -> Any: ...


@dataclass(slots=True)
class _RunRow:
    """A request: what it may say, and what it has said."""

    number: int
    constraint: Constraint
    ids: list[int]
    measured: list[Sequence[float]]
    truncated: bool = False
    ended: bool = False
    given: list[int] = field(default_factory=list)
    """Tokens of the coming run that the rules leave no choice of; taken already, not yet measured."""

    def take(self, token: int) -> None:
        last = self.constraint.remaining[0] == 1
        self.ids.append(token)
        self.ended = token == self.constraint.eos or last
        if not self.ended:
            self.constraint.advance([token])


class RunSearch:
    """The likeliest allowed token at each step, many steps at a time; requests cannot join others."""

    def __init__(self, model: RunningModel, ordered: tuple[int, int] | None = None) -> None:
        self.model = model
        self.arrays = model.arrays
        self.ordered = ordered
        self.columns = columns(ordered)
        self.rows: list[_RunRow] = []
        self.runs: Any = None

    @property
    def finished(self) -> bool:
        return all(row.ended for row in self.rows)

    @without_gradients
    def admit(self, cache: Any, constraint: Constraint) -> range:
        if not self.finished:
            raise ValueError("admit: requests cannot join a search in runs; give them a search of their own")
        count = len(constraint.remaining)
        self.rows = [_RunRow(n, constraint.alone(n), [constraint.start], [[0.0] * self.columns]) for n in range(count)]
        self._give_back()
        eos = constraint.eos

        def measured(logits: Any, chosen: Any) -> Any:
            return measures(self.arrays, logits, chosen, eos, self.ordered)

        self.runs = self.model.begin_runs(cache, (eos, self.ordered), measured)
        return range(count)

    @without_gradients
    def step(self) -> list[tuple[int, Generated]]:
        """A run of every request; those that ended."""
        live = [row for row in self.rows if not row.ended]
        if not live:
            return []
        steps = self.runs.steps
        inputs = [0 if row.ended else row.ids[-1] for row in self.rows]
        for row in live:
            row.given = _forced(row, steps)
        given = [[row.given[n] if n < len(row.given) else -1 for row in self.rows] for n in range(steps)]
        taken, states, measured = self.runs.run(inputs, given)
        self._read(live, taken, states, measured)
        self.runs.rewind([0 if row.ended else len(row.ids) - 1 for row in self.rows])
        done = [(row.number, generated_of(row.ids, row.measured, row.truncated)) for row in live if row.ended]
        if self.finished:
            self._give_back()
        return done

    @without_gradients
    def drop(self, numbers: Collection[int]) -> None:
        for row in self.rows:
            row.ended |= row.number in numbers
        if self.finished:
            self._give_back()

    def so_far(self) -> dict[int, Sequence[int]]:
        return {row.number: row.ids for row in self.rows if not row.ended}

    def _read(self, live: Sequence[_RunRow], taken: Any, states: Any, measured: Any) -> None:
        """Give each row what its run took, as far as the rules agree, and the token after it that they choose."""
        steps, count = taken.shape
        flat = [self.arrays.floats(taken).reshape(-1), measured.reshape(-1)]
        values = self.arrays.concat(flat, 0).tolist()  # the one wait, but for what is chosen late
        check(values)
        ids, rest = values[: steps * count], values[steps * count :]
        late: list[tuple[_RunRow, int]] = []
        for row in live:
            for step in range(steps):
                place = step * count + row.number
                token = int(ids[place])
                if step >= len(row.given):
                    if row.ended:
                        break
                    if not row.constraint.agrees(0, token):
                        late.append((row, place))
                        break
                    row.take(token)
                row.measured.append(rest[place * self.columns : (place + 1) * self.columns])
            row.given = []
        if late:
            self._choose(late, states)

    def _choose(self, late: Sequence[tuple[_RunRow, int]], states: Any) -> None:
        """The next token of rows whose run took one that the rules may not choose."""
        arrays = self.arrays
        own = states.reshape(-1, states.shape[-1])[arrays.put([place for _, place in late])]
        logits = arrays.floats(self.model.logits(own))
        scores = arrays.copy(logits)
        cuts = [row.constraint.apply(scores[n : n + 1], [0], arrays) for n, (row, _) in enumerate(late)]
        best = scores.argmax(-1)[:, None]
        measured = measures(arrays, logits, best, late[0][0].constraint.eos, self.ordered)[:, 0]
        parts = [arrays.floats(best), arrays.floats(arrays.concat(cuts, 0))[:, None], measured]
        for (row, _), (token, cut, *found) in zip(late, arrays.concat(parts, 1).tolist()):
            check(found)
            row.truncated |= bool(cut)
            row.measured.append(found)
            row.take(int(token))

    def _give_back(self) -> None:
        if self.runs is not None:
            self.model.run_pool.give_back(self.runs)
            self.runs = None


def _forced(row: _RunRow, most: int) -> list[int]:
    """The tokens that follow whatever the model holds, taken by the row."""
    out: list[int] = []
    while len(out) < most and not row.ended:
        (span,) = row.constraint.spans()
        if span is None or span[1] - span[0] > 1:
            break
        out.append(span[0])
        row.take(span[0])
    return out

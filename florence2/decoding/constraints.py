"""What each row of a batch may say next: a grammar with a budget, or the official rules. Knows integers only.

A constraint holds one state a row. `apply` masks tokens (-inf, in place), `select` picks, repeats or drops rows,
`advance` gives every row the token it took, `admit` lets the rows of another join. Masks lie on the device, and nothing
here waits for it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from florence2.arrays import MASKED, Arrays
from florence2.decoding.ngrams import History, select

BOS, EOS = 0, 2
UNLIMITED = 1 << 30


class TokenMask(Protocol):
    """The tokens allowed in one place: `mask` is (V,) bool, equal keys mean equal masks.

    `limited` says that the budget took tokens out of it; `span` that it is just the ids first <= id < last.
    """

    @property
    def mask(self) -> Any: ...
    @property
    def key(self) -> Hashable: ...
    @property
    def limited(self) -> bool: ...
    @property
    def span(self) -> tuple[int, int] | None: ...


class TokenAutomaton(Protocol):
    """A grammar over token ids that starts after the leading `<s>` and ends with `</s>`."""

    def start(self) -> Any: ...
    def allowed(self, state: Any, remaining: int) -> TokenMask: ...
    def advance(self, state: Any, token_id: int) -> Any: ...


class Constraint(Protocol):
    """One state a row of the batch, and what follows from it for the next token."""

    start: int  # the decoder's first input, never counted as generated
    eos: int
    remaining: list[int]  # how many tokens each row may still take, the final </s> included

    def spans(self) -> list[tuple[int, int] | None]:
        """Rows that may only take one of the ids first <= id < last, whatever the scores of others are."""
        ...

    def apply(self, scores: Any, rows: Sequence[int], arrays: Arrays) -> Any:
        """Mask what these rows (R, V) may not generate; (R,) True where only the budget masked a row's best token."""
        ...

    def agrees(self, row: int, token: int) -> bool:
        """Whether the token, likeliest of all for the row, is what `apply` leaves likeliest too, as far as is known
        without the scores."""
        ...

    def alone(self, row: int) -> Any:
        """A constraint of this row by itself, at its beginning."""
        ...

    def select(self, rows: Sequence[int]) -> None: ...
    def advance(self, tokens: Sequence[int]) -> None: ...
    def admit(self, other: Any) -> None: ...


class Grammar:
    """Rows that follow an automaton each, within a budget each: no item is begun that could not be closed.

    `margin`: the end is taken only where it is so many nats likelier than what could follow. `more_above`, a
    probability: wherever it may end, an answer goes on where the model's own probability of anything but the end is
    above it, and ends where it is not; whatever single token is likeliest.
    """

    start = eos = EOS

    def __init__(
        self,
        automata: Sequence[TokenAutomaton],
        budgets: Sequence[int],
        margin: float = 0.0,
        more_above: float | None = None,
    ):
        self.automata = list(automata)
        self.margin, self.more_above = margin, more_above
        self.remaining = list(budgets)
        self.states: list[Any] = [None] * len(self.automata)  # None: before the leading <s>
        self._allowed: list[TokenMask | None] | None = None  # of this step; None for a row before the leading <s>
        self._masks: dict[Hashable, Any] = {}

    def spans(self) -> list[tuple[int, int] | None]:
        spans: list[tuple[int, int] | None] = []
        for allowed, remaining in zip(self._sets(), self.remaining):
            if allowed is None:
                spans.append((BOS, BOS + 1) if remaining > 1 else None)
            else:
                spans.append(None if allowed.limited or self._weighs_end(allowed.span) else allowed.span)
        return spans

    def _weighs_end(self, span: tuple[int, int] | None) -> bool:
        """Whether it is weighed, and not only found likeliest, that the end comes and no other id of a span."""
        return (
            bool(self.margin or self.more_above is not None)
            and span is not None
            and span[0] <= EOS < span[1]
            and span[1] - span[0] > 1
        )

    def apply(self, scores: Any, rows: Sequence[int], arrays: Arrays) -> Any:
        sets = self._sets()
        more = None
        if self.more_above is not None:
            more = 1 - arrays.into_exp(arrays.log_softmax(scores)[:, EOS]) > self.more_above
        if self.margin:
            scores[:, EOS] -= self.margin
        cut = arrays.flags(len(rows))
        forbidden = []
        limited = []
        for place, row in enumerate(rows):
            allowed = sets[row]
            if allowed is None:
                only = BOS if self.remaining[row] > 1 else EOS
                forbidden.append(self._all_but(only, scores, arrays))
                cut[place] = only == EOS
            else:
                forbidden.append(self._mask(allowed, scores, arrays))
                if allowed.limited:
                    limited.append(place)
        masks = arrays.stack(forbidden)
        if limited:
            free = [
                self._mask(self.automata[rows[i]].allowed(self.states[rows[i]], UNLIMITED), scores, arrays)
                for i in limited
            ]
            index = arrays.put(limited)
            wanted = arrays.masked(scores[index], arrays.stack(free)).argmax(-1)[:, None]
            cut[index] = arrays.gather(masks[index], wanted)[:, 0]
        if more is not None:
            end = masks[:, EOS] | False  # a copy
            either = ~end & ((~masks).sum(1) > 1)  # rows that may end and may go on
            masks |= (either & ~more)[:, None]
            masks[:, EOS] = (either & more) | (~either & end)
        arrays.mask(scores, masks)
        return cut

    def agrees(self, row: int, token: int) -> bool:
        allowed = self._sets()[row]
        if allowed is None or token >= len(allowed.mask) or not allowed.mask[token]:
            return False
        if self.more_above is not None:
            return not allowed.mask[EOS]
        return token != EOS or not self.margin

    def alone(self, row: int) -> Grammar:
        own = Grammar([self.automata[row]], [self.remaining[row]], self.margin, self.more_above)
        own._masks = self._masks
        return own

    def select(self, rows: Sequence[int]) -> None:
        self.automata = [self.automata[row] for row in rows]
        self.states = [self.states[row] for row in rows]
        self.remaining = [self.remaining[row] for row in rows]
        self._allowed = None

    def advance(self, tokens: Sequence[int]) -> None:
        for row, token in enumerate(tokens):
            state = self.states[row]
            automaton = self.automata[row]
            self.states[row] = automaton.start() if state is None else automaton.advance(state, token)
            self.remaining[row] -= 1
        self._allowed = None

    def admit(self, other: Grammar) -> None:
        _same_rules(self, other)
        self.automata += other.automata
        self.states += other.states
        self.remaining += other.remaining
        self._allowed = None

    def _sets(self) -> list[TokenMask | None]:
        if self._allowed is None:
            self._allowed = [
                None if state is None else automaton.allowed(state, remaining)
                for automaton, state, remaining in zip(self.automata, self.states, self.remaining)
            ]
        return self._allowed

    def _mask(self, allowed: TokenMask, scores: Any, arrays: Arrays) -> Any:
        key = allowed.key
        if key not in self._masks:
            if len(self._masks) >= 512:  # 25 MB over the official vocabulary
                self._masks.clear()
            forbidden = np.ones(scores.shape[-1], bool)  # the model may have rows no token names
            forbidden[: len(allowed.mask)] = ~np.asarray(allowed.mask)
            self._masks[key] = arrays.put(forbidden)
        return self._masks[key]

    def _all_but(self, token: int, scores: Any, arrays: Arrays) -> Any:
        forbidden = np.ones(scores.shape[-1], bool)
        forbidden[token] = False
        return arrays.put(forbidden)


class Official:
    """The official rules: a forced first and last token, and no n tokens in a row twice.

    They come in the order of transformers' processors: ban, first token, last token; a forced token has score 0.
    Nothing is renormalised.
    """

    def __init__(
        self,
        budgets: Sequence[int],
        no_repeat_ngram_size: int = 3,
        forced_bos: int | None = BOS,
        forced_eos: int | None = EOS,
        start: int = EOS,
        eos: int = EOS,
    ):
        self.start, self.eos = start, eos
        self.size = no_repeat_ngram_size
        self.forced_bos = forced_bos
        self.forced_eos = forced_eos
        self.remaining = list(budgets)
        self.first = [True] * len(self.remaining)
        self.histories = [History(self.size, start) for _ in self.remaining] if self.size else []

    def spans(self) -> list[tuple[int, int] | None]:
        bos = self.forced_bos
        forced = None if bos is None else (bos, bos + 1)
        return [forced if first and left > 1 else None for first, left in zip(self.first, self.remaining)]

    def agrees(self, row: int, token: int) -> bool:
        if self.remaining[row] == 1 or (self.first[row] and self.forced_bos is not None):
            return False
        return not self.size or all(token not in followers for followers in self.histories[row].followers())

    def alone(self, row: int) -> Official:
        rules = self.size, self.forced_bos, self.forced_eos, self.start, self.eos
        return Official([self.remaining[row]], *rules)

    def apply(self, scores: Any, rows: Sequence[int], arrays: Arrays) -> Any:
        V = scores.shape[-1]
        banned = [
            np.frombuffer(followers, np.int64) + place * V
            for place, row in enumerate(rows)
            if self.size
            for followers in self.histories[row].followers()
        ]
        if banned:
            arrays.mask_flat(scores, arrays.put(np.concatenate(banned)))
        cut = arrays.flags(len(rows))
        for place, row in enumerate(rows):
            if self.remaining[row] == 1:
                cut[place] = scores[place].argmax() != self.eos
            if self.remaining[row] == 1 and self.forced_eos is not None:
                self._force(scores[place], self.forced_eos)
            elif self.first[row] and self.forced_bos is not None:
                self._force(scores[place], self.forced_bos)
        return cut

    def select(self, rows: Sequence[int]) -> None:
        self.remaining = [self.remaining[row] for row in rows]
        self.first = [self.first[row] for row in rows]
        self.histories = select(self.histories, rows) if self.size else []

    def advance(self, tokens: Sequence[int]) -> None:
        for history, token in zip(self.histories, tokens):
            history.append(token)
        self.remaining = [remaining - 1 for remaining in self.remaining]
        self.first = [False] * len(self.remaining)

    def admit(self, other: Official) -> None:
        _same_rules(self, other)
        self.remaining += other.remaining
        self.first += other.first
        self.histories += other.histories

    @staticmethod
    def _force(row: Any, token: int) -> None:
        row[:] = MASKED
        row[token] = 0.0


def _same_rules(one: Constraint, other: Constraint) -> None:
    numbers = ("start", "eos", "size", "forced_bos", "forced_eos", "margin", "more_above")
    if type(one) is not type(other) or any(getattr(one, n, None) != getattr(other, n, None) for n in numbers):
        raise ValueError("admit: expected a request under the rules of those that run; give it a search of its own")

"""What each row of a batch may say next: a grammar with a budget, or the official rules. Knows integers only.

A constraint holds one state a row. `apply` masks tokens (-inf, in place), `select` picks, repeats or drops rows,
`advance` gives every row the token it took.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from florence2.decoding.ngrams import History, select

BOS, EOS = 0, 2
UNLIMITED = 1 << 30
MASKED = float("-inf")


class TokenSet(Protocol):
    """The tokens allowed in one place: `mask` is (V,) bool, equal keys mean equal masks.

    `limited` says that the budget took tokens out of it.
    """

    @property
    def mask(self) -> Any: ...
    @property
    def key(self) -> Hashable: ...
    @property
    def limited(self) -> bool: ...


class Automaton(Protocol):
    """A grammar over token ids that starts after the leading `<s>` and ends with `</s>`."""

    def start(self) -> Any: ...
    def allowed(self, state: Any, remaining: int) -> TokenSet: ...
    def advance(self, state: Any, token_id: int) -> Any: ...


class Constraint(Protocol):
    """One state a row of the batch, and what follows from it for the next token."""

    start: int  # the decoder's first input, never counted as generated
    eos: int
    remaining: list[int]  # how many tokens each row may still take, the final </s> included

    def apply(self, scores: Tensor) -> list[bool]:
        """Mask what a row (R, V) may not say; True where only the budget masked what the row would have said."""
        ...

    def select(self, rows: Sequence[int]) -> None: ...
    def advance(self, tokens: Sequence[int]) -> None: ...


class Grammar:
    """Rows that follow an automaton each, within a budget each: no item is begun that could not be closed."""

    start = eos = EOS

    def __init__(self, automata: Sequence[Automaton], budgets: Sequence[int]):
        self.automata = list(automata)
        self.remaining = list(budgets)
        self.states: list[Any] = [None] * len(self.automata)  # None: before the leading <s>
        self._masks: dict[tuple[Hashable, torch.device], Tensor] = {}

    def apply(self, scores: Tensor) -> list[bool]:
        cut = [False] * len(self.states)
        forbidden = []
        for row, (automaton, state, remaining) in enumerate(zip(self.automata, self.states, self.remaining)):
            if state is None:
                forbidden.append(self._all_but(BOS if remaining > 1 else EOS, scores))
                cut[row] = remaining == 1
                continue
            allowed = automaton.allowed(state, remaining)
            forbidden.append(self._mask(allowed, scores))
            if allowed.limited:
                free = self._mask(automaton.allowed(state, UNLIMITED), scores)
                wanted = int(scores[row].masked_fill(free, MASKED).argmax())
                cut[row] = bool(forbidden[-1][wanted])
        scores.masked_fill_(torch.stack(forbidden), MASKED)
        return cut

    def select(self, rows: Sequence[int]) -> None:
        self.automata = [self.automata[row] for row in rows]
        self.states = [self.states[row] for row in rows]
        self.remaining = [self.remaining[row] for row in rows]

    def advance(self, tokens: Sequence[int]) -> None:
        for row, token in enumerate(tokens):
            state = self.states[row]
            automaton = self.automata[row]
            self.states[row] = automaton.start() if state is None else automaton.advance(state, token)
            self.remaining[row] -= 1

    def _mask(self, allowed: TokenSet, scores: Tensor) -> Tensor:
        key = (allowed.key, scores.device)
        if key not in self._masks:
            if len(self._masks) >= 512:  # 25 MB over the official vocabulary
                self._masks.clear()
            forbidden = torch.ones(scores.shape[-1], dtype=torch.bool)  # the model may have rows no token names
            mask = torch.tensor(allowed.mask)
            forbidden[: len(mask)] = ~mask
            self._masks[key] = forbidden.to(scores.device)
        return self._masks[key]

    def _all_but(self, token: int, scores: Tensor) -> Tensor:
        forbidden = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
        forbidden[token] = False
        return forbidden


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

    def apply(self, scores: Tensor) -> list[bool]:
        for row, history in enumerate(self.histories):
            for followers in history.followers():
                scores[row, torch.from_numpy(np.frombuffer(followers, np.int64)).to(scores.device)] = MASKED
        cut = [False] * len(self.remaining)
        for row, remaining in enumerate(self.remaining):
            if remaining == 1:
                cut[row] = int(scores[row].argmax()) != self.eos
            if remaining == 1 and self.forced_eos is not None:
                self._force(scores[row], self.forced_eos)
            elif self.first[row] and self.forced_bos is not None:
                self._force(scores[row], self.forced_bos)
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

    @staticmethod
    def _force(row: Tensor, token: int) -> None:
        row.fill_(MASKED)
        row[token] = 0.0

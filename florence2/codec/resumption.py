"""An answer that goes on: what of its ids is whole, what of them the decoder is given again, the grammar after them.

Knows ids and the grammar; no model and no scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from florence2.codec.grammar import DONE, TEXT, Automaton, TokenSet


def whole_ids(automaton: Automaton, ids: Sequence[int]) -> list[int]:
    """The ids up to the end of the last whole item, of an answer's after `<s>`; its `</s>` and a torn item are cut."""
    state, end = automaton.start(), 0
    for place, index in enumerate(ids):
        try:
            state = automaton.advance(state, index)
        except ValueError:  # an end, or what the official rules let through
            break
        if state.phase == DONE or (state.phase == TEXT and not automaton.shape.length):
            end = place + 1
    return list(ids[:end])


def item_starts(automaton: Automaton, ids: Sequence[int]) -> list[int]:
    """Places in whole ids where a part of them may begin that is an answer itself."""
    starts, state = [], automaton.start()
    for place, index in enumerate(ids):
        if state.phase == DONE or (state.phase == TEXT and not automaton.shape.length):
            try:
                automaton.advance(automaton.start(), index)
            except ValueError:  # a further box of a label that was named before
                pass
            else:
                starts.append(place)
        state = automaton.advance(state, index)
    return starts


class Resumed:
    """An automaton whose answer begins with given ids; a state is how many of them have come, then the automaton's."""

    def __init__(self, automaton: Automaton, ids: Sequence[int]) -> None:
        self.automaton = automaton
        self.ids = tuple(ids)
        state = automaton.start()
        for index in self.ids:
            state = automaton.advance(state, index)
        self._after = state

    def start(self) -> Any:
        """No given id has come yet."""
        return 0 if self.ids else self._after

    def allowed(self, state: Any, remaining: int) -> TokenSet:
        """The given id whose turn it is, then what the automaton allows."""
        if isinstance(state, int):
            return self.automaton.just(self.ids[state])
        return self.automaton.allowed(state, remaining)

    def advance(self, state: Any, token_id: int) -> Any:
        """The state after one more id."""
        if not isinstance(state, int):
            return self.automaton.advance(state, token_id)
        if token_id != self.ids[state]:
            raise ValueError(f"id {token_id} is not the given one, {self.ids[state]}, at place {state}")
        return state + 1 if state + 1 < len(self.ids) else self._after

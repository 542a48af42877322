"""The legal next token: one automaton an answer kind, over ids. Knows no model and no scores.

It starts after the forced leading `<s>`. Labels begin with a letter that can be seen, places are complete, a box has
x1 <= x2 and y1 <= y2, and of special tokens only the kind's own and `</s>` occur. The budget is known: an item is begun
only if it can be closed, so an answer is never cut inside one.

    labelled kinds   START --letters--> TEXT --location--> PLACE --locations--> DONE --letters--> TEXT
                       |                  |                                      | --location--> PLACE
                       |                  +----<poly>----> POLY ----</poly>----> |     (open_boxes)
                       +-----</s>-----> END <----------------</s>----------------+
    polygons         START --location--> POLY --</s>--> END,  START --<poly>--> POLY --</poly>--> DONE --<poly>--> POLY
    text             START --letters--> TEXT --</s>--> END
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from florence2.codec.answer_parser import BLANKS
from florence2.codec.label_trie import label_trie
from florence2.codec.locations import BINS
from florence2.codec.tasks import CLOSED, Task, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.records import Ask

START, TEXT, PLACE, POLY, DONE, END = "start", "text", "place", "poly", "done", "end"
POINTS = 6  # locations of the smallest polygon


@dataclass(frozen=True)
class AnswerShape:
    """What one answer kind allows. `length`: locations of a place; `again`: what may follow a complete place."""

    text: bool = False
    length: int = 0
    polygons: bool = False
    again: tuple[str, ...] = ()


SHAPES = {
    "text": AnswerShape(text=True),
    "quads": AnswerShape(text=True, length=8, again=("text",)),
    "labelled_boxes": AnswerShape(text=True, length=4, again=("text", "place")),
    "boxes": AnswerShape(length=4, again=("place",)),
    "phrases": AnswerShape(text=True, length=4, again=("text", "place")),
    "polygons": AnswerShape(polygons=True, again=("poly",)),
    "open_boxes": AnswerShape(text=True, length=4, polygons=True, again=("text", "place", "poly")),
    "region_text": AnswerShape(text=True, length=4),
}


class State(NamedTuple):
    """Where in an answer: `done` locations into a place, a box's first corner, the node of a closed label."""

    phase: str
    done: int = 0
    x: int = 0
    y: int = 0
    wrapped: bool = False
    node: int = 0


class TokenSet:
    """A set of legal ids. Equal keys are equal sets; `limited` says that the budget took something out of it."""

    def __init__(self, vocabulary: _Vocabulary, key: tuple[Any, ...]) -> None:
        self._vocabulary = vocabulary
        self.key = key
        self.text, self.lowest, self.specials, self.children, self.limited = key

    @property
    def locations_only(self) -> bool:
        """Whether all of it are locations: those from bin `lowest` to the last."""
        return self.lowest >= 0 and not self.text and not self.specials and not self.children

    @property
    def span(self) -> tuple[int, int] | None:
        """(first, last) where the set is just the ids first <= id < last: some locations, or the one id there is."""
        if self.locations_only:
            return self._vocabulary.loc0 + self.lowest, self._vocabulary.loc0 + BINS
        only = [*self.specials, *self.children]
        return (only[0], only[0] + 1) if len(only) == 1 and not self.text and self.lowest < 0 else None

    @cached_property
    def mask(self) -> np.ndarray:
        """The set as bools over the vocabulary's rows, read-only."""
        vocabulary = self._vocabulary
        mask = np.zeros(vocabulary.rows, dtype=bool)
        if self.text:
            mask |= vocabulary.visible if self.text == "visible" else vocabulary.letters
        if self.lowest >= 0:
            mask[vocabulary.loc0 + self.lowest : vocabulary.loc0 + BINS] = True
        mask[[*self.specials, *self.children]] = True
        mask.flags.writeable = False
        return mask

    def __contains__(self, token_id: int) -> bool:
        return bool(self.mask[token_id])


class _Vocabulary:
    """Which ids are letters, which of them can be seen, and the sets made of them so far."""

    def __init__(self, tokenizer: Tokenizer, rows: int) -> None:
        self.rows = rows
        self.loc0 = tokenizer.loc0
        self.specials = {token: tokenizer.id_of(token) for token in ("</s>", "<sep>", "<poly>", "</poly>")}
        blanks = BLANKS.encode()
        self.letters = np.zeros(rows, dtype=bool)
        self.visible = np.zeros(rows, dtype=bool)
        for index in range(tokenizer.vocab_size):
            if index not in tokenizer.special_ids:
                token = tokenizer.token_bytes(index)
                self.letters[index] = bool(token)
                self.visible[index] = bool(token.strip(blanks))
        self._sets: dict[tuple[object, ...], TokenSet] = {}

    def token_set(self, *key: object) -> TokenSet:
        found = self._sets.get(key)
        if found is None:
            if len(self._sets) >= 1024:  # 50 MB of masks over the official vocabulary
                self._sets.clear()
            found = self._sets[key] = TokenSet(self, key)
        return found


@lru_cache(maxsize=8)
def _vocabulary(tokenizer: Tokenizer, rows: int) -> _Vocabulary:
    return _Vocabulary(tokenizer, rows)


class Automaton:
    """The legal answers of one task: `start`, then `allowed` and `advance` until `</s>`."""

    def __init__(self, task: Task, tokenizer: Tokenizer, labels: tuple[str, ...], rows: int) -> None:
        self.task = task
        self.shape = SHAPES[task.output_kind]
        self._vocabulary = _vocabulary(tokenizer, rows)
        self._loc0 = tokenizer.loc0
        self._names = {index: token for token, index in self._vocabulary.specials.items()}
        self._labels = label_trie(labels, tokenizer) if labels else None

    def start(self) -> State:
        """The state after the forced `<s>`."""
        return State(START)

    def accepts(self, state: State) -> bool:
        """Whether the answer so far is a whole one: `</s>` has come or may come."""
        return state.phase == END or any(token == "</s>" for token, _ in self._steps(state))

    def allowed(self, state: State, remaining: int) -> TokenSet:
        """The legal next ids when `remaining` more are allowed, the final `</s>` included."""
        text, lowest, limited = "", -1, False
        specials: list[int] = []
        children: tuple[int, ...] = ()
        for token, after in self._steps(state):
            slack = remaining - 1 - self.closing(after)
            if slack < 0:
                limited = True
            elif token == "text" and self._labels:
                node = state.node if state.phase == TEXT else 0
                children = self._labels.within(node, slack)
                limited |= len(children) < len(self._labels.next[node])
            elif token == "text":
                text = "letters" if state.phase == TEXT else "visible"
            elif token == "location":
                lowest = self._lowest(state)
            else:
                specials.append(self._vocabulary.specials[token])
        return self._vocabulary.token_set(text, lowest, tuple(specials), children, limited)

    def just(self, token_id: int) -> TokenSet:
        """The set of this one id."""
        return self._vocabulary.token_set("", -1, (), (token_id,), False)

    def advance(self, state: State, token_id: int) -> State:
        """The state after one more id; ValueError where it is not legal whatever the budget."""
        place = token_id - self._loc0
        if 0 <= place < BINS:
            token = "location"
            legal = place >= self._lowest(state)
        elif self._labels and token_id not in self._names:
            token = "text"
            legal = token_id in self._labels.next[state.node if state.phase == TEXT else 0]
        else:
            token = self._names.get(token_id, "text")
            letters = self._vocabulary.letters if state.phase == TEXT else self._vocabulary.visible
            legal = token != "text" or (0 <= token_id < len(letters) and bool(letters[token_id]))
        after = next((after for step, after in self._steps(state) if step == token), None) if legal else None
        if after is None:
            raise ValueError(
                f"{self.task.name}: id {token_id} is not legal after {state}; choose one that `allowed` has"
            )
        if token == "text" and self._labels:
            return after._replace(node=self._labels.next[state.node if state.phase == TEXT else 0][token_id])
        if after.phase == PLACE and after.done == 1:
            return after._replace(x=place)
        return after._replace(y=place) if after.phase == PLACE and after.done == 2 else after

    def closing(self, state: State) -> int:
        """The least number of ids that end the answer from here, `</s>` included (a closed label's own apart)."""
        if state.phase == TEXT:
            return 1 + self.shape.length
        if state.phase == PLACE:
            return 1 + self.shape.length - state.done
        if state.phase == POLY:
            return 1 + state.wrapped + (POINTS - state.done if state.done < POINTS else state.done % 2)
        return 1 if state.phase != END else 0

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        """(kind of token, state after it): the automaton as drawn above, but for the corners of boxes."""
        shape = self.shape
        if state.phase == TEXT:
            yield "text", state
            if shape.length == 0:
                yield "</s>", State(END)
            elif self._labels is None or self._labels.ends[state.node]:
                yield from self._places()
        elif state.phase == PLACE:
            done = state.done + 1
            yield "location", State(DONE) if done == shape.length else state._replace(done=done)
        elif state.phase == POLY:
            done = state.done + 1  # beyond the smallest polygon only its parity matters
            yield "location", state._replace(done=done if done <= POINTS + 1 else POINTS)
            if state.done == POINTS:
                yield "<sep>", state._replace(done=0)
                yield ("</poly>", State(DONE)) if state.wrapped else ("</s>", State(END))
        elif state.phase in (START, DONE):
            yield "</s>", State(END)
            first = state.phase == START
            if shape.text and (first or "text" in shape.again):
                yield "text", State(TEXT)
            if not first and shape.text or not shape.text:
                yield from (step for step in self._places() if first or step[1].phase in shape.again)
            if first and shape.polygons and not shape.text:
                yield "location", State(POLY, done=1)

    def _places(self) -> Iterator[tuple[str, State]]:
        if self.shape.length:
            yield "location", State(PLACE, done=1)
        if self.shape.polygons:
            yield "<poly>", State(POLY, wrapped=True)

    def _lowest(self, state: State) -> int:
        """The lowest legal bin: the second corner of a box is not before its first."""
        if state.phase != PLACE or self.shape.length != 4 or state.done < 2:
            return 0
        return state.x if state.done == 2 else state.y


def automaton(task: Task | str, tokenizer: Tokenizer, ask: Ask | None = None, rows: int | None = None) -> Automaton:
    """The grammar of a task's answers, of those among `ask.labels` where given; `rows` of the model's output matrix."""
    task = task_of(task)
    labels = ask.labels if ask else ()
    if labels and task.output_kind not in CLOSED:
        raise ValueError(f"{task.name}: takes no labels; they close detection, grounding and region-to-category only")
    return Automaton(task, tokenizer, labels, max(rows or 0, tokenizer.vocab_size))

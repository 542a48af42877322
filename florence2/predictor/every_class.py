"""Several classes in one open-vocabulary question: those that its answer does not name are asked about alone.

    Locate cat<and>dog<and>hen      <s> dog 4 locations </s>
    Locate cat   Locate hen         <s> </s>     <s> hen 4 locations </s>
    one answer                      <s> dog 4 locations hen 4 locations </s>

The questions about single classes go on in the batch of the first one, on the picture as it is encoded. Knows what was
generated; no search and no model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from florence2.codec import answers
from florence2.codec.label_trie import label_names
from florence2.codec.tasks import Task
from florence2.codec.tokenizer import Tokenizer
from florence2.decoding.generated import Generated
from florence2.predictor.asks import Decoding
from florence2.records import Ask

AT_ONCE = 8  # classes of one question that are asked about together
START = 2  # the ids before the first item: the decoder's start token and <s>


class AskedRow(Protocol):
    """What is known of a question."""

    @property
    def picture(self) -> Any: ...
    @property
    def task(self) -> Task: ...
    @property
    def ask(self) -> Ask: ...
    @property
    def decoding(self) -> Decoding: ...


def unnamed(tokenizer: Tokenizer, row: AskedRow, generated: Generated) -> list[str]:
    """The classes of a question that its whole answer leaves open, in its order; none of any other question."""
    asked = row.task.output_kind == "open_boxes" and len(row.ask.labels) > 1
    if not asked or not row.decoding.each_class or generated.truncated:
        return []
    parsed, _ = answers.parse_ids(generated.ids, tokenizer, row.task, row.picture.size_wh, row.ask)
    named = {region.label for region in parsed.regions}
    return [label for label in label_names(row.ask.labels) if label not in named]


class ClassQuestions:
    """The answer to one question, and to those about its classes: `waiting` to be asked, `open` being answered."""

    def __init__(self, first: Generated, classes: Iterable[str]) -> None:
        self.first = first
        self.waiting = list(classes)
        self.answers: dict[str, Generated | None] = dict.fromkeys(self.waiting)  # in the question's order
        self.open = 0

    def next(self) -> list[str]:
        """The classes to be asked about now; none while others are being answered."""
        if self.open:
            return []
        due, self.waiting = self.waiting[:AT_ONCE], self.waiting[AT_ONCE:]
        self.open = len(due)
        return due

    def add(self, label: str, generated: Generated) -> None:
        """What was answered about one class."""
        self.answers[label] = generated
        self.open -= 1

    def joined(self) -> Generated:
        """All items as one answer, each with what was measured of it where it was said; cut where one of them was."""
        first, answered = self.first, [part for part in self.answers.values() if part is not None]
        others = [part for part in answered if len(part.ids) > START + 1]
        if not others:
            return first
        end = len(first.ids) - 1
        inner = [(first, slice(0, end)), *((part, slice(START, -1)) for part in others), (first, slice(end, None))]
        measured = all(len(part.measures) for part in (first, *others))
        return dataclasses.replace(
            first,
            ids=tuple(index for part, place in inner for index in part.ids[place]),
            logprobs=tuple(value for part, place in inner for value in part.logprobs[place]),
            truncated=any(part.truncated for part in (first, *answered)),
            measures=np.concatenate([part.measures[place] for part, place in inner]) if measured else first.measures,
        )

"""An answer that the token limit cut goes on: its whole items are given to the decoder again, then new ones follow.

    before    <s> item item item item | </s>             the limit ended it, or tore an item
    again     <s>      item item item | item item </s>   the oldest are left out where the positions would not suffice
    answer    <s> item item item item | item item </s>   all of them, a repeated one rejected
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from florence2 import geometry
from florence2.codec.answer_parser import ItemSpan
from florence2.codec.grammar import Automaton
from florence2.codec.resumption import Resumed, item_starts, whole_ids
from florence2.decoding.search import Generated
from florence2.predictor.answer import Answer
from florence2.records import Ask, Decision, Parsed

RULE = "continue_from"
REPEATED = 0.8  # IoU from which a further box of a label is one that was said before


@dataclass(frozen=True)
class Continuation:
    """`ids` (after `<s>`) are what was said, whole items only; the first `dropped` of them the decoder is not given."""

    before: Answer
    ids: tuple[int, ...]
    dropped: int

    @property
    def given(self) -> tuple[int, ...]:
        """What the decoder is given again."""
        return self.ids[self.dropped :]

    def resumed(self, automaton: Automaton) -> Resumed:
        """The grammar of what the decoder says: the given ids, then what may follow them."""
        return Resumed(automaton, self.given)

    def budget(self, budget: int, positions: int) -> int:
        """Tokens of the decoder's whole answer for `budget` further ones, within its positions."""
        return min(positions, budget + len(self.given))

    def joined(self, generated: Generated) -> Generated:
        """All that was said: what the decoder was not given again, as it was, in its place."""
        start, rest = generated.ids[:2], generated.ids[2:]
        old = slice(2, 2 + self.dropped)
        logprobs = (*generated.logprobs[:2], *self.before.token_logprobs[old], *generated.logprobs[2:])
        return dataclasses.replace(generated, ids=(*start, *self.ids[: self.dropped], *rest), logprobs=logprobs)

    def without_repeats(
        self, parsed: Parsed, spans: Mapping[str, ItemSpan]
    ) -> tuple[Parsed, tuple[Decision, ...]]:
        """The answer without new regions that were said before, and a verdict on each of those."""
        names = {i: g.phrase for g in parsed.groundings for i in g.region_ids}
        old: dict[str, list[tuple[str, object]]] = {}
        decisions = []
        for region in parsed.regions:
            span, box = spans.get(region.id), geometry.region_box(region)
            name = region.label or region.description or names.get(region.id, "")
            known = old.setdefault(name, [])
            if box is None or span is None:
                continue
            if min((*span.location_tokens, len(self.ids) + 2)) >= len(self.ids) + 2 and known:
                overlaps = geometry.iou(box, [other for _, other in known])[0]
                if overlaps.max() >= REPEATED:
                    by = known[int(overlaps.argmax())][0]
                    found = float(overlaps.max())
                    decisions.append(Decision(region.id, "rejected", RULE, "repeated", found, REPEATED, by))
                    continue
            known.append((region.id, box))
        return parsed, tuple(decisions)


def continuation(before: Answer, automaton: Automaton, positions: int) -> Continuation:
    """What of an answer goes on. Where it fills over half of the positions, its newest items within that half."""
    ids = whole_ids(automaton, before.token_ids[2:])
    dropped = 0
    if len(ids) > positions // 2:
        starts = [place for place in item_starts(automaton, ids) if len(ids) - place <= positions // 2]
        dropped = starts[0] if starts else len(ids)
    return Continuation(before, tuple(ids), dropped)


def checked(before: object, asks: Sequence[Ask], given: bool) -> Answer:
    """The answer that is to go on; ValueError where it cannot, or is asked something else."""
    if not isinstance(before, Answer):
        raise ValueError(f"continue_from: expected an answer of predict, got {before!r:.80}")
    if len(before.token_ids) < 2:
        raise ValueError("continue_from: expected an answer that a model said in one piece, got one without tokens")
    if not before.truncated:
        raise ValueError("continue_from: the answer ended by itself, nothing was cut; leave continue_from out")
    if given and list(asks) != [before.ask]:
        raise ValueError(f"continue_from: is the answer to {before.ask.task or 'another prompt'}; ask nothing else")
    return before

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
from florence2.decoding.generated import Generated
from florence2.predictor.answer import Answer
from florence2.records import Ask, Box, Decision, Parsed

RULE = "continue_from"
REPEATED = 0.8  # IoU from which a further box of a label repeats an earlier one


@dataclass(frozen=True)
class Continuation:
    """`ids` (after `<s>`) are the earlier answer, whole items only; the decoder gets all but the first `dropped`."""

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
        """The whole answer: what the decoder was not given again, as it was, in its place."""
        start, old = slice(0, 2), slice(2, 2 + self.dropped)
        measures, known = generated.measures, self.before.token_measures
        if self.dropped and len(measures) and known is not None:
            measures = np.concatenate([measures[start], known[old], measures[2:]])
        return dataclasses.replace(
            generated,
            ids=(*generated.ids[start], *self.ids[: self.dropped], *generated.ids[2:]),
            logprobs=(*generated.logprobs[start], *self.before.token_logprobs[old], *generated.logprobs[2:]),
            measures=measures,
        )

    def repeats(self, parsed: Parsed, spans: Mapping[str, ItemSpan]) -> tuple[Decision, ...]:
        """Verdicts on new regions that are among the earlier ones, by name and place, or among the new ones."""
        names = {i: grounding.phrase for grounding in parsed.groundings for i in grounding.region_ids}
        known: dict[str, list[tuple[str, Box]]] = {}
        decisions = []
        for region in parsed.regions:
            box, places = geometry.region_box(region), spans[region.id].location_tokens
            if box is None or not places:
                continue
            own = known.setdefault(region.label or region.description or names.get(region.id, ""), [])
            if places[0] >= 2 + len(self.ids) and own:
                overlaps = geometry.iou(box, [other for _, other in own])[0]
                best = int(overlaps.argmax())
                if overlaps[best] >= REPEATED:
                    value = float(overlaps[best])
                    decisions.append(Decision(region.id, "rejected", RULE, "repeated", value, REPEATED, own[best][0]))
                    continue
            own.append((region.id, box))
        return tuple(decisions)


def continuation(before: Answer, automaton: Automaton, positions: int) -> Continuation:
    """What of an answer goes on. Where it fills over half of the positions, its newest items within that half."""
    ids = whole_ids(automaton, before.token_ids[2:])
    dropped = 0
    if len(ids) > positions // 2:
        starts = [place for place in item_starts(automaton, ids) if len(ids) - place <= positions // 2]
        dropped = starts[0] if starts else len(ids)
    return Continuation(before, tuple(ids), dropped)


def ask_of(before: object) -> Ask:
    """What the answer that is to go on was asked."""
    if not isinstance(before, Answer):
        raise ValueError(f"continue_from: expected an answer of predict, got {before!r:.80}")
    return before.ask


def check(before: object, asks: Sequence[Ask], many: bool, options: Mapping[str, object]) -> None:
    """Refuse what cannot go on: a whole answer, one without tokens, another ask, rules that no grammar holds."""
    own = ask_of(before)
    assert isinstance(before, Answer)
    if many or list(asks) != [own]:
        raise ValueError(f"continue_from: is the answer to {own.task or 'a prompt'} alone; ask nothing else")
    if options.get("official") or options.get("grammar") is False or options.get("tiles") is not None:
        raise ValueError("continue_from: goes on by the grammar, in one piece; drop official, grammar and tiles")
    if len(before.token_ids) < 2:
        raise ValueError("continue_from: expected an answer with its tokens; this one was parsed or made of tiles")
    if not before.truncated:
        raise ValueError("continue_from: the answer ended by itself, nothing was cut; leave continue_from out")

"""The grammar: targets are accepted, what is accepted parses whole, the budget is kept, labels can be closed."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from test_answers import ROWS, answered, tokenizer  # noqa: F401  (the laws share their answers)

from florence2.codec import answers
from florence2.codec.grammar import END, automaton
from florence2.codec.tasks import task_of
from florence2.records import Ask, Parsed, Region


def walk(machine, ids, budget=None):
    """The state after ids, each of which `allowed` must hold."""
    state = machine.start()
    for step, index in enumerate(ids):
        assert index in machine.allowed(state, (budget or len(ids)) - step), (step, index, state)
        state = machine.advance(state, index)
    return state


@pytest.mark.parametrize("task", ROWS, ids=lambda t: t.name)
def test_every_target_is_accepted_within_its_own_length(task, tokenizer):  # noqa: F811
    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(answered(task))
    def law(case):
        ask, parsed, size_wh = case
        ids = answers.encode(parsed, task, tokenizer, size_wh, ask)
        machine = automaton(task, tokenizer)
        assert machine.accepts(walk(machine, ids, budget=len(ids) + 1))
        assert machine.accepts(walk(machine, [*ids, tokenizer.eos]))

    law()


@pytest.mark.parametrize("labels", [(), ("car", "cat", "a cat", "汽车, loc_5>")], ids=["open", "closed"])
@pytest.mark.parametrize("task", ROWS, ids=lambda t: t.name)
def test_every_accepted_sequence_ends_in_its_budget_and_parses_without_leftover(task, labels, tokenizer):  # noqa: F811
    if labels and task.output_kind not in ("labelled_boxes", "phrases", "open_boxes", "region_text"):
        with pytest.raises(ValueError, match="no labels"):
            automaton(task, tokenizer, Ask(task.token, labels=labels))
        return
    machine = automaton(task, tokenizer, Ask(task.token, labels=labels))
    rng = random.Random(7)
    filled = 0
    for _ in range(60):
        budget = rng.choice([1, 2, 5, 6, 7, 9, 10, 20, 60])
        state, ids, limited = machine.start(), [], False
        while state.phase != END:
            legal = machine.allowed(state, budget - len(ids))
            choices = np.flatnonzero(legal.mask)
            assert len(choices) and len(ids) < budget
            special = [i for i in choices if i in tokenizer.special_ids]
            ids.append(int(rng.choice(special if special and rng.random() < 0.3 else choices)))
            limited |= legal.limited
            assert legal.locations_only == all(0 <= i - tokenizer.loc0 < 1000 for i in choices)
            state = machine.advance(state, ids[-1])
        assert ids[-1] == tokenizer.eos and answers.unused_positions(ids, tokenizer, task) == []
        size_wh = (1000, 1000)
        read, _ = answers.parse_ids(ids, tokenizer, task, size_wh)
        canonical = answers.canonical(read, task, size_wh)
        assert not read.truncated and [len(canonical.texts), len(canonical.regions), len(canonical.groundings)] == [
            len(read.texts), len(read.regions), len(read.groundings)
        ]  # fmt: skip
        filled += bool(read.regions or read.texts)
        if labels:
            said = {r.label or r.description for r in read.regions} | {g.phrase for g in read.groundings}
            assert said - {""} <= set(labels)
        assert limited or budget > 1  # with one left only the end fits, and the set says that more was possible
    assert filled > 5


def test_corners_of_boxes_are_in_order_and_of_quads_are_free(tokenizer):  # noqa: F811
    x = tokenizer.loc0
    machine = automaton("REGION_PROPOSAL", tokenizer)
    state = walk(machine, [x + 500, x + 300], budget=50)
    assert machine.allowed(state, 9).lowest == 500 and x + 499 not in machine.allowed(state, 9)
    state = machine.advance(state, x + 500)
    assert machine.allowed(state, 9).lowest == 300
    with pytest.raises(ValueError, match="not legal"):
        machine.advance(state, x + 299)
    quads = automaton("OCR_WITH_REGION", tokenizer)
    walk(quads, [*tokenizer.encode("a"), *[x + 9, x + 9, x, x, x, x, x, x]], budget=50)


def test_nothing_special_but_the_kind_s_own(tokenizer):  # noqa: F811
    for task in ROWS:
        mask = automaton(task, tokenizer, rows=2000).allowed(automaton(task, tokenizer).start(), 99).mask
        assert len(mask) == 2000 and not mask[tokenizer.vocab_size :].any() and not mask.flags.writeable
        assert not mask[[tokenizer.bos, tokenizer.pad, tokenizer.unk, tokenizer.id_of("<and>")]].any()


def test_sets_are_shared(tokenizer):  # noqa: F811
    first, second = (automaton("OD", tokenizer) for _ in range(2))
    assert first.allowed(first.start(), 50) is second.allowed(second.start(), 60)


def test_a_label_that_another_begins_with_can_end_or_go_on(tokenizer):  # noqa: F811
    ask = Ask("<OPEN_VOCABULARY_DETECTION>", labels=("car", "car door"))
    machine = automaton(ask.task, tokenizer, ask)
    for label in ask.labels:
        parsed = Parsed(regions=(Region(label=label, box=(1, 2, 3, 4)),))
        ids = answers.encode(parsed, ask.task, tokenizer, (9, 9), ask)
        assert machine.accepts(walk(machine, ids, budget=len(ids) + 1))
    tight = machine.allowed(machine.start(), len(tokenizer.encode("car")) + 4)
    assert tight.limited and np.flatnonzero(tight.mask).tolist() == [tokenizer.eos]
    with pytest.raises(ValueError, match="expected a list of names"):
        automaton(task_of("OD"), tokenizer, Ask("<OD>", labels=(" ",)))

"""An answer taken up again: what of it is whole, where a part may begin, and a grammar that begins with given ids."""

import random

import numpy as np
import pytest
from test_answers import ROWS, tokenizer  # noqa: F401

from florence2.codec import answers
from florence2.codec.grammar import END, automaton
from florence2.codec.resumption import Resumed, item_starts, whole_ids


def walked(machine, rng, budget):
    """A random answer of the grammar."""
    state, ids = machine.start(), []
    while getattr(state, "phase", "") != END:
        ids.append(int(rng.choice(np.flatnonzero(machine.allowed(state, budget - len(ids)).mask).tolist())))
        state = machine.advance(state, ids[-1])
    return ids


@pytest.mark.parametrize("task", ROWS, ids=lambda t: t.name)
def test_what_is_whole_is_an_answer_and_goes_on_as_one(task, tokenizer):  # noqa: F811
    machine, rng = automaton(task, tokenizer), random.Random(3)
    for _ in range(25):
        ids = walked(machine, rng, 60)
        for cut in {len(ids), rng.randrange(len(ids) + 1)}:
            whole = whole_ids(machine, ids[:cut])
            assert whole == ids[: len(whole)] and len(whole) < len(ids)
            assert answers.unused_positions([*whole, tokenizer.eos], tokenizer, task) == []
            resumed = Resumed(machine, whole)
            more = walked(resumed, rng, len(whole) + 40)
            assert more[: len(whole)] == whole and len(more) <= len(whole) + 40
            assert answers.unused_positions(more, tokenizer, task) == []
            state = machine.start()
            for index in more:
                state = machine.advance(state, index)
            for start in item_starts(machine, whole):
                read, _ = answers.parse_ids([*whole[start:], tokenizer.eos], tokenizer, task, (999, 999))
                assert not answers.unused_positions([*whole[start:], tokenizer.eos], tokenizer, task)
                assert read.regions or read.texts or task.output_kind == "text"


def test_a_torn_item_is_cut_and_a_further_box_is_no_start(tokenizer):  # noqa: F811
    x, machine = tokenizer.loc0, automaton("OD", tokenizer)
    car = tokenizer.encode("car")
    ids = [*car, x + 1, x + 2, x + 3, x + 4, x + 5, x + 6, x + 7, x + 8, *tokenizer.encode("dog"), x + 1, x + 2]
    whole = whole_ids(machine, ids)
    assert whole == ids[: len(car) + 8]
    more = [*whole, *tokenizer.encode("dog"), x + 1, x + 2, x + 3, x + 4]
    assert item_starts(machine, more) == [len(whole)]
    assert whole_ids(machine, [x + 1]) == [] and whole_ids(machine, []) == []


def test_given_ids_come_one_by_one_and_no_other(tokenizer):  # noqa: F811
    machine = automaton("CAPTION", tokenizer)
    ids = tokenizer.encode("two cars")
    resumed = Resumed(machine, ids)
    state = resumed.start()
    for index in ids:
        allowed = resumed.allowed(state, 99)
        assert np.flatnonzero(allowed.mask).tolist() == [index] and allowed.span == (index, index + 1)
        with pytest.raises(ValueError, match="not the given one"):
            resumed.advance(state, index + 1)
        state = resumed.advance(state, index)
    assert resumed.allowed(state, 99) is machine.allowed(machine.advance(machine.start(), ids[0]), 99)
    assert Resumed(machine, []).start() == machine.start()

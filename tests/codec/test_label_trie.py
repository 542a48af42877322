"""Closed sets of labels: every label of any set can be said, nothing else can, and a set is compiled once."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_answers import tokenizer  # noqa: F401

from florence2.codec import answers
from florence2.codec.answer_parser import BLANKS
from florence2.codec.grammar import automaton
from florence2.codec.label_trie import LabelTrie, label_names, label_trie
from florence2.codec.segments import TOKENS
from florence2.codec.tasks import CLOSED, TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.records import Ask, Grounding, Parsed, Region

WORDS = st.text(st.sampled_from("cat, 汽é\u0301🐈-<>/\n"), min_size=1, max_size=6)
NAMES = st.one_of(WORDS, st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8))


def usable(name):
    return bool(name.strip()) and not TOKENS.search(name)


@st.composite
def label_sets(draw):
    """Labels of any letters; some begin with another, some contain one."""
    names = draw(st.lists(NAMES.filter(usable), min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 3))):
        one, other = draw(st.sampled_from(names)), draw(NAMES.filter(usable))
        names.append(draw(st.sampled_from([one + other, other + one, one + ", " + other, one + one])))
    return tuple(dict.fromkeys(name.strip(BLANKS) for name in names if usable(name)))


@pytest.mark.parametrize("task", [t for t in TASKS.values() if t.output_kind in CLOSED], ids=lambda t: t.name)
def test_every_label_of_a_set_is_reachable_and_nothing_else(task, tokenizer):  # noqa: F811
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(label_sets(), st.randoms(use_true_random=False))
    def law(labels, rng):
        ask = Ask(task.token, labels=labels)
        machine = automaton(task, tokenizer, ask)
        for label in labels:
            named = {"description" if task.storage_rule == "description" else "label": label}
            region = Region(id="r0", box=(1, 2, 3, 4), **({} if task.output_kind == "phrases" else named))
            phrases = (Grounding("g0", phrase=label, region_ids=("r0",)),) if task.output_kind == "phrases" else ()
            ids = answers.encode(Parsed(regions=(region,), groundings=phrases), task, tokenizer, (9, 9), ask)
            state = machine.start()
            for step, index in enumerate(ids):
                assert index in machine.allowed(state, len(ids) + 1 - step)
                state = machine.advance(state, index)
            assert machine.accepts(state)
        for _ in range(3):  # any other way through the grammar says labels of the set alone
            state, ids = machine.start(), []
            while state.phase != "end":
                ids.append(int(rng.choice(np.flatnonzero(machine.allowed(state, 60 - len(ids)).mask))))
                state = machine.advance(state, ids[-1])
            read, _ = answers.parse_ids(ids, tokenizer, task, (9, 9), ask)
            said = {r.label or r.description for r in read.regions} | {g.phrase for g in read.groundings}
            assert said - {""} <= set(labels) and not answers.unused_positions(ids, tokenizer, task)

    law()


def test_a_set_is_compiled_once(tokenizer):  # noqa: F811
    labels = tuple(f"label {n}" for n in range(1200))
    assert label_trie(labels, tokenizer) is label_trie(tuple(str(x) for x in labels), tokenizer)
    trie = LabelTrie(labels, tokenizer)
    assert trie.within(0, 99) is trie.within(0, 50) and sum(trie.ends) == 1200


def test_names_keep_their_order_and_lose_the_white_space_around_them():
    assert label_names([" b ", "a", np.str_("c\t")]) == ("b", "a", "c") and label_names(iter(["x"])) == ("x",)


@pytest.mark.parametrize(
    "labels, wanted",
    [
        ([], "at least one name, got an empty one"),
        (["cat", " "], "got ' ' at place 1"),
        (["cat", "\u2003"], "at place 1"),
        (["cat", 3], "got 3 at place 1"),
        (["cat", ["dog"]], "at place 1"),
        (["a <loc_5>"], "'a <loc_5>': holds the special token <loc_5>"),
        (["cat<and>dog"], "special token <and>"),
        (["</s>"], "special token </s>"),
        (["cat", "dog", "cat "], "'cat': is there twice, at places 0 and 2"),
        (["\ud800"], "lone surrogate"),
    ],
)
def test_what_is_no_set_of_names_is_refused_in_a_line(labels, wanted):
    with pytest.raises(ValueError, match=wanted) as caught:
        label_names(labels)
    assert len(str(caught.value).splitlines()) == 1


def test_a_label_that_the_tokenizer_cannot_write_is_refused():
    import tokenizers
    from tokenizers import models, pre_tokenizers

    vocabulary = {token: n for n, token in enumerate(("<s>", "<pad>", "</s>", "<unk>", "c", "a", "t"))}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    small = Tokenizer(backend)
    assert LabelTrie(["cat"], small).labels == ("cat",)
    with pytest.raises(ValueError, match="labels: 'dog': the tokenizer cannot write it"):
        LabelTrie(["cat", "dog"], small)

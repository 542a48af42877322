"""Rows under a grammar with a budget: what they say is legal, whole, and `truncated` tells where the budget cut in."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from florence2.decoding.constraints import Grammar, Official
from florence2.decoding.generate import Rules, constraint_of, generate, search_of
from florence2.model.torch_arrays import TorchArrays
from tests.decoding.mock import MockModel, NumpyMock, prompts

V = 40


@dataclass
class Allowed:
    ids: frozenset
    limited: bool = False
    mask: np.ndarray = field(init=False, compare=False)

    def __post_init__(self):
        self.mask = np.zeros(V - 4, bool)  # the tokenizer knows fewer ids than the model has rows
        self.mask[list(self.ids)] = True

    @property
    def key(self):
        return self.ids

    @property
    def span(self):
        low, high = min(self.ids), max(self.ids) + 1
        return (low, high) if len(self.ids) == high - low else None


class Items:
    """Items of `size` tokens: a letter (3..9), then numbers (10..35). The state counts the tokens of the open item."""

    def __init__(self, size):
        self.size = size

    def start(self):
        return 0

    def allowed(self, state, remaining):
        if state:
            return Allowed(frozenset(range(10, 36)))
        return (
            Allowed(frozenset([2, *range(3, 10)])) if remaining > self.size else Allowed(frozenset([2]), limited=True)
        )

    def advance(self, state, token):
        assert token in self.allowed(state, 10**6).ids
        return (state + 1) % self.size


def answer(count, budgets, sizes, beams=1, eos=-9.0, first=0, margin=0.0, more_above=None):
    features, ids, mask = prompts(first + count)
    automata = [Items(size) for size in sizes]
    model, rules = MockModel(V, eos), Rules(num_beams=beams, margin=margin, more_above=more_above)
    return generate(model, features[first:], ids[first:], mask[first:], budgets, automata, rules)


@pytest.mark.parametrize("beams", [1, 3])
def test_no_item_is_begun_that_cannot_be_closed(beams):
    budgets, sizes = [2, 5, 6, 7, 8, 30, 11], [4, 4, 4, 5, 3, 3, 2]
    for got, budget, size in zip(answer(7, budgets, sizes, beams), budgets, sizes, strict=True):
        assert got.ids[:2] == (2, 0) and got.ids[-1] == 2
        assert len(got.ids) - 1 <= budget
        assert (len(got.ids) - 3) % size == 0
        assert got.truncated and len(got.ids) - 1 > budget - size  # this model never wants to end


def test_not_truncated_where_the_model_ends_by_itself():
    answers = answer(6, [200] * 6, [3] * 6, eos=4.0)
    assert len(answers) == 6
    for got in answers:
        assert not got.truncated and got.ids[-1] == 2


def test_the_end_has_to_win_by_the_margin():
    model, lengths = MockModel(V, 1.0), []
    for margin in (0.0, 1.0, 3.0):
        for n, got in enumerate(answer(6, [60] * 6, [3] * 6, eos=1.0, margin=margin)):
            row = [3 + n] * 3
            for place, token in enumerate(got.ids):
                if place >= 2 and (place - 2) % 3 == 0 and place < 50:  # where an item may begin, or the end come
                    logits = model.scores(row)
                    lead = float(logits[2] - logits[3:10].max())
                    assert (token == 2) == (lead > margin)
                    assert got.logprobs[place] == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-5)
                row.append(token)
            lengths.append((margin, len(got.ids)))
    of_margin = {m: sum(length for margin, length in lengths if margin == m) for m in (0.0, 1.0, 3.0)}
    assert of_margin[0.0] < of_margin[1.0] < of_margin[3.0]


def test_an_answer_goes_on_exactly_where_anything_but_its_end_is_probable_enough():
    model, lengths = MockModel(V, 1.0), []
    for above in (0.9, 0.7, 0.5, 0.0):
        for n, got in enumerate(answer(6, [60] * 6, [3] * 6, eos=1.0, more_above=above)):
            row = [3 + n] * 3
            for place, token in enumerate(got.ids):
                if place >= 2 and (place - 2) % 3 == 0 and place < 50:  # where an item may begin, or the end come
                    scores = model.scores(row)
                    rest = 1 - float(scores.softmax(-1)[2])
                    assert (token == 2) == (rest <= above), (rest, above)
                    if token != 2:  # the likeliest name, even where the end is likelier than it
                        assert token == 3 + int(scores[3:10].argmax())
                row.append(token)
            lengths.append((above, len(got.ids)))
    by_threshold = [sum(length for a, length in lengths if a == above) for above in (0.9, 0.7, 0.5, 0.0)]
    assert by_threshold == sorted(by_threshold) and len(set(by_threshold)) == 4


def test_beams_under_a_threshold_of_more_end_later():
    early, late = (answer(6, [60] * 6, [3] * 6, 3, eos=1.0, more_above=above) for above in (0.95, 0.3))
    assert sum(len(got.ids) for got in late) > sum(len(got.ids) for got in early)


def test_beams_under_a_margin_end_later():
    plain, late = (answer(6, [60] * 6, [3] * 6, 3, eos=2.0, margin=margin) for margin in (0.0, 4.0))
    assert sum(len(got.ids) for got in late) > sum(len(got.ids) for got in plain)


def test_a_request_of_another_margin_does_not_join():
    with pytest.raises(ValueError, match="admit: .* a search of its own"):
        Grammar([Items(3)], [9]).admit(Grammar([Items(3)], [9], margin=1.0))
    with pytest.raises(ValueError, match="admit: .* a search of its own"):
        Grammar([Items(3)], [9]).admit(Grammar([Items(3)], [9], more_above=0.5))


@pytest.mark.parametrize("beams", [1, 3])
def test_rows_of_different_grammars_and_budgets_do_not_touch_each_other(beams):
    budgets, sizes = [9, 30, 4, 17], [2, 5, 3, 4]
    together = answer(4, budgets, sizes, beams, eos=1.0)
    for n in range(4):
        assert together[n] == answer(1, budgets[n : n + 1], sizes[n : n + 1], beams, 1.0, first=n)[0]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("grammar", [dict(margin=1.0), dict(more_above=0.6), None])
def test_a_search_is_the_same_in_numpy_as_in_torch(beams, grammar):
    budgets, rules = [9, 30, 4, 17], Rules(num_beams=beams, **(grammar or {}))
    found = []
    for model in (MockModel(V, 1.0), NumpyMock(V, 1.0)):
        automata = [Items(size) for size in (2, 5, 3, 4)] if grammar else None
        found.append(generate(model, *prompts(4), budgets, automata, rules, ordered=(10, 36)))
    for torchs, numpys in zip(*found, strict=True):
        assert (numpys.ids, numpys.truncated) == (torchs.ids, torchs.truncated)
        np.testing.assert_allclose(numpys.measures, torchs.measures, rtol=0, atol=1e-5)


def test_rows_of_the_model_that_no_token_names_are_barred():
    grammar = Grammar([Items(3)], [9])
    scores = torch.zeros(1, V)
    grammar.apply(scores, [0], TorchArrays())
    assert scores[0].isfinite().nonzero().flatten().tolist() == [0]
    grammar.advance([0])
    scores = torch.zeros(1, V)
    assert grammar.apply(scores, [0], TorchArrays()).tolist() == [False]
    assert scores[0].isfinite().nonzero().flatten().tolist() == list(range(2, 10))


def test_official_bans_then_forces_without_renormalising():
    rules = Official([9, 1])
    scores = torch.full((2, 5), -1.5)
    assert rules.apply(scores, [0, 1], TorchArrays()).tolist() == [False, True]
    assert scores[0].tolist() == [0.0] + [-np.inf] * 4  # <s> comes first
    assert scores[1, 2] == 0.0 and scores[1, 0] == -np.inf  # the last token wins over the first
    rules.select([0])
    for token in (0, 3, 4, 0, 3):
        rules.advance([token])
    scores = torch.full((1, 5), -1.5)
    rules.apply(scores, [0], TorchArrays())
    assert scores[0].tolist() == [-1.5, -1.5, -1.5, -1.5, -np.inf]


class Spans(MockModel):
    """Counts the columns of the output matrix that were asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.columns = []

    def logits(self, states, span=None):
        out = super().logits(states, span)
        self.columns.append(out.shape[1])
        return out


def test_where_a_span_is_allowed_only_its_columns_are_multiplied(monkeypatch):
    """The ids, the log-probabilities and what is truncated are those of the whole matrix."""
    budgets, sizes = [90, 5, 60, 17, 2, 1], [4, 4, 5, 3, 2, 6]

    def answers():
        model = Spans(V, -0.5)
        features, ids, mask = prompts(6)
        found = generate(model, features, ids, mask, budgets, [Items(size) for size in sizes], Rules(num_beams=1))
        return found, model.columns

    narrow, columns = answers()
    monkeypatch.setattr(Grammar, "spans", lambda self: [None] * len(self.states))
    whole, all_columns = answers()
    assert [(a.ids, a.truncated) for a in narrow] == [(a.ids, a.truncated) for a in whole]
    for a, b in zip(narrow, whole):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    assert set(all_columns) == {V}
    assert (
        set(columns) == {1, 8, 26, V} and columns.count(26) > 20
    )  # the first <s>, an item begins or all ends, numbers


@pytest.mark.parametrize("beams", [1, 3])
def test_requests_under_a_grammar_join_while_others_run(beams):
    budgets, sizes, rules = [30, 9, 17, 21], [4, 2, 3, 5], Rules(num_beams=beams)
    model, found = MockModel(V, 1.0), {}
    search = search_of(model, rules)
    features, ids, mask = prompts(4)
    for n in range(4):
        cache = model.prefill(features[n : n + 1], ids[n : n + 1], mask[n : n + 1])
        search.admit(cache, constraint_of(budgets[n : n + 1], [Items(sizes[n])], rules))
        for _ in range(3):
            found.update(search.step())
    while not search.finished:
        found.update(search.step())
    for n in range(4):
        alone = answer(1, budgets[n : n + 1], sizes[n : n + 1], beams, 1.0, first=n)[0]
        assert (found[n].ids, found[n].truncated) == (alone.ids, alone.truncated)
        assert found[n].logprobs == pytest.approx(alone.logprobs, abs=1e-5)

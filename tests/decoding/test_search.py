"""Greedy and beam search over a model made by hand: alone or in a batch the same answer, and the rules kept."""

import ast
import itertools
import math
import re
from pathlib import Path

import pytest
import torch

from florence2 import decoding
from florence2.decoding.generate import Rules, constraint_of, generate, search_of
from tests.decoding.mock import MockModel, prompts

GREEDY = Rules(num_beams=1)


def run(model, count=1, budget=12, rules=GREEDY, automata=None, first=0):
    features, ids, mask = prompts(first + count)
    budgets = [budget] * count if isinstance(budget, int) else budget
    return generate(model, features[first:], ids[first:], mask[first:], budgets, automata, rules)


def free_run(model, prompt, budget):
    """The plainest greedy search: argmax until `</s>`, no rule at all."""
    row, logprobs = [*prompt, 2], []
    while len(logprobs) < budget:
        logits = model.scores(row)
        row.append(int(logits.argmax()))
        logprobs.append(float(logits.log_softmax(-1)[row[-1]]))
        if row[-1] == 2:
            break
    return tuple(row[len(prompt) :]), logprobs


def test_greedy_without_rules_is_the_plain_loop():
    model = MockModel(eos=2.0)
    free = Rules(num_beams=1, no_repeat_ngram_size=0, forced_bos=None, forced_eos=None)
    answers = run(model, 8, 20, free)
    assert len(answers) == 8
    for n, got in enumerate(answers):
        ids, logprobs = free_run(model, [3 + n] * 3, 20)
        assert got.ids == ids
        assert got.logprobs == pytest.approx([0.0, *logprobs], abs=1e-5)
        assert got.truncated == (ids[-1] != 2)


@pytest.mark.parametrize("beams", [1, 2, 3, 5])
@pytest.mark.parametrize("early", [True, False, "never"])
def test_batched_is_single(beams, early):
    rules = Rules(num_beams=beams, early_stopping=early)
    budgets = [14, 3, 9, 14, 1, 2]
    model = MockModel(eos=1.5)
    batch = run(model, 6, budgets, rules)
    for n, budget in enumerate(budgets):
        assert batch[n] == run(model, 1, budget, rules, first=n)[0]


@pytest.mark.parametrize("beams", [1, 3])
def test_finished_samples_leave_the_batch(beams):
    model = MockModel(eos=3.0)
    answers = run(model, 8, 30, Rules(num_beams=beams))
    lengths = [len(a.ids) for a in answers]
    assert len(set(lengths)) > 2, "the samples should end at different lengths"
    assert model.steps[0] == 8
    assert sum(model.steps) < len(model.steps) * 8 * beams
    if beams == 1:
        assert sum(model.steps) == sum(n - 1 for n in lengths)


def test_log_probabilities_are_taken_before_any_rule():
    model = MockModel(vocab_size=6, eos=-4.0)
    answer = run(model, 1, 16)[0]
    row = [3, 3, 3]
    for token, logprob in zip(answer.ids, answer.logprobs):
        if len(row) > 3:
            assert logprob == pytest.approx(float(model.scores(row).log_softmax(-1)[token]), abs=1e-5)
        row.append(token)
    grams = list(zip(answer.ids, answer.ids[1:], answer.ids[2:]))
    assert len(set(grams)) == len(grams)
    assert answer.ids[:2] == (2, 0)


def test_truncated_says_whether_the_model_would_have_gone_on():
    seen = set()
    for n in range(12):
        model = MockModel(eos=3.0)
        full = run(model, 1, 200, first=n)[0]
        length = len(full.ids) - 1
        assert not full.truncated
        assert not run(model, 1, length, first=n)[0].truncated
        if length > 2:
            short = run(model, 1, length - 1, first=n)[0]
            assert short.truncated and short.ids == (*full.ids[: length - 1], 2)
            seen.add(length)
    assert len(seen) > 3


def best_of_all(model, prompt, length, rules):
    """Every sequence that ends with `</s>` or is `length` tokens long, scored; the best."""
    best = (-math.inf, ())
    others = [t for t in range(model.vocab_size) if t != 2]
    for n in range(1, length + 1):
        for tokens in itertools.product(*[others] * (n - 1), [2] if n < length else range(model.vocab_size)):
            row, total = [*prompt, 2], 0.0
            for token in tokens:
                total += float(model.scores(row).log_softmax(-1)[token])
                row.append(token)
            best = max(best, (total / n**rules.length_penalty, tuple(row[len(prompt) :])))
    return best


def test_a_beam_as_wide_as_the_tree_finds_the_best_answer():
    rules = Rules(num_beams=64, no_repeat_ngram_size=0, early_stopping="never", forced_bos=None, forced_eos=None)
    for n in range(4):
        model = MockModel(vocab_size=4, scale=1.0)
        assert run(model, 1, 4, rules, first=n)[0].ids == best_of_all(model, [3 + n] * 3, 4, rules)[1]


def test_budget_of_one_is_only_the_end():
    for beams in (1, 3):
        assert run(MockModel(), 1, 1, Rules(num_beams=beams))[0].ids == (2, 2)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_model_that_overflows_is_named(beams):
    model = MockModel()
    model.scores = lambda row: torch.full((40,), float("nan"))
    with pytest.raises(ValueError, match="dtype: .* float32"):
        run(model, rules=Rules(num_beams=beams))


@pytest.mark.parametrize("beams", [1, 3])
def test_requests_that_join_while_others_run_are_answered_as_alone(beams):
    rules, model = Rules(num_beams=beams), MockModel(eos=1.5)
    search, budgets, answers = search_of(model, rules), [14, 3, 9, 14, 20, 2], {}
    for joins in ([0], [], [1, 2], [3], [], [], [], [4, 5], *[[]] * 40):
        if joins:
            features, ids, mask = prompts(6)
            cache = model.prefill(features[joins], ids[joins], mask[joins])
            assert list(search.admit(cache, constraint_of([budgets[n] for n in joins], None, rules))) == joins
        if not search.finished:
            answers.update(search.step())
    assert search.finished
    for n, budget in enumerate(budgets):
        assert answers[n] == run(model, 1, budget, rules, first=n)[0]


@pytest.mark.parametrize("beams", [1, 3])
def test_requests_that_are_dropped_leave_the_others_as_they_were(beams):
    rules, model = Rules(num_beams=beams), MockModel(eos=-2.0)
    search, answers = search_of(model, rules), {}
    search.admit(model.prefill(*prompts(5)), constraint_of([14, 12, 9, 14, 3], None, rules))
    for drops in ([], [1], [], [], [], [0, 4, 99], *[[]] * 20):  # 4 has ended by then, 99 never was
        search.drop(drops)
        if not search.finished:
            answers.update(search.step())
    assert search.finished and sorted(answers) == [2, 3, 4]
    for n, budget in ((2, 9), (3, 14), (4, 3)):
        assert answers[n] == run(model, 1, budget, rules, first=n)[0]
    search.admit(model.prefill(*prompts(1)), constraint_of([9], None, rules))
    search.drop([5])
    assert search.finished  # the last one dropped: nothing is left to be stepped


def test_what_cannot_change_any_more_is_shown_while_a_request_runs():
    model = MockModel(eos=-2.0)
    for beams in (1, 3):
        search, shown = search_of(model, Rules(num_beams=beams)), []
        search.admit(model.prefill(*prompts(2)), constraint_of([9, 14], None, Rules(num_beams=beams)))
        answers = {}
        while not search.finished:
            answers.update(search.step())
            shown.append({n: list(ids) for n, ids in search.so_far().items()})
        if beams == 3:
            assert not any(shown)  # any beam may still win
            continue
        lengths = [len(ids) for step in shown for n, ids in step.items() if n == 1]
        assert lengths == list(range(2, len(answers[1].ids)))
        assert all(tuple(ids) == answers[n].ids[: len(ids)] for step in shown for n, ids in step.items())


def test_a_request_under_other_rules_does_not_join():
    model, rules = MockModel(), Rules(num_beams=1)
    search = search_of(model, rules)
    search.admit(model.prefill(*prompts(1)), constraint_of([9], None, rules))
    with pytest.raises(ValueError, match="admit: .* a search of its own"):
        search.admit(model.prefill(*prompts(1)), constraint_of([9], None, Rules(num_beams=1, no_repeat_ngram_size=2)))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_step_waits_for_the_device_once(beams, monkeypatch):
    waits = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero", "numpy", "cpu"):
        real = getattr(torch.Tensor, name)

        def counted(self, *args, _real=real, _name=name, **kwargs):
            waits.append(_name)
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    class Table(MockModel):  # the double itself must not wait
        table = torch.randn(40, 40, generator=torch.Generator().manual_seed(0)) - 9.0 * (torch.arange(40) == 2)

        def states(self, ids, cache):
            return self.table[ids]

    model, rules = Table(), Rules(num_beams=beams)
    search = search_of(model, rules)
    search.admit(model.prefill(*prompts(3)), constraint_of([9, 4, 12], None, rules))
    steps, waits[:] = 0, []
    while not search.finished:
        search.step()
        steps += 1
    assert steps >= 11
    assert len(waits) == steps


def test_numbers_go_to_the_device_by_one_way_that_does_not_wait():
    """A plain copy to a GPU waits for all that is queued there; a step is to wait once, for the tokens it chose."""
    room = Path(decoding.__file__).parent
    calls = [
        (path.name, node.lineno, ast.unparse(node))
        for path in (*room.glob("*.py"), room.parent / "model" / "cache.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    copies = [call for call in calls if re.match(r"torch\.(as_)?tensor\(|torch\.from_numpy\(|.*\.(to|cuda)\(", call[2])]
    waits = [call for call in calls if re.search(r"\.(tolist|item|cpu|numpy)\(\)$|arrays\.host\(", call[2])]
    waits = [call for call in waits if not re.search(r"^(order|values\[|row\[)", call[2])]  # what is on the host
    assert not copies, "use florence2.model.device.put"
    searches = ["run_search.py"] * 2 + ["search.py"] * 2  # one in each search; in runs one more for what is chosen late
    assert sorted(name for name, *_ in waits) == searches, waits

"""What is measured of tokens: equal to the plain sums, and the same in greedy and beam search, alone and in a batch."""

import numpy as np
import pytest
import torch

from florence2.decoding.constraints import EOS
from florence2.decoding.generate import Rules, generate
from florence2.decoding.measures import END, ENTROPY, LOGPROB, MASS, ORDERED, RADII, columns, measures
from florence2.model.torch_arrays import TorchArrays
from tests.decoding.mock import MockModel, prompts

ORDER = (10, 34)


def plain(logits, token):
    """The measures of one token, by definition."""
    p = logits.double().softmax(-1).numpy()
    first, last = ORDER
    near = [p[max(first, token - r) : min(last, token + r + 1)].sum() if first <= token < last else 0.0 for r in RADII]
    return [np.log(p[token]), p[EOS], -(p * np.log(p)).sum(), p[first:last].sum(), *near]


def test_measures_are_the_plain_sums():
    torch.manual_seed(0)
    logits = torch.randn(5, 40) * 3
    chosen = torch.tensor([[2, 10], [33, 34], [9, 20], [0, 39], [15, 16]])
    found = measures(TorchArrays(), logits, chosen, EOS, ORDER)
    assert found.shape == (5, 2, columns(ORDER)) and columns(None) == 1
    for row in range(5):
        for k in range(2):
            assert found[row, k].tolist() == pytest.approx(plain(logits[row], int(chosen[row, k])), abs=1e-5)
    assert measures(TorchArrays(), logits, chosen, EOS, None)[:, :, LOGPROB].flatten().tolist() == pytest.approx(
        found[:, :, LOGPROB].flatten().tolist()
    )


def test_what_is_impossible_is_no_nan():
    logits = torch.full((1, 40), float("-inf"))
    logits[0, 12] = 0.0
    found = measures(TorchArrays(), logits, torch.tensor([[12]]), EOS, ORDER)[0, 0]
    assert found.tolist() == pytest.approx([0, 0, 0, 1, *[1] * len(RADII)])


@pytest.mark.parametrize("beams", [1, 3])
def test_a_search_measures_each_token_it_took(beams):
    model, rules = MockModel(eos=1.5), Rules(num_beams=beams)
    together = generate(model, *prompts(4), [14, 9, 14, 3], None, rules, ORDER)
    for n, found in enumerate(together):
        assert found.measures.shape == (len(found.ids), columns(ORDER))
        features, ids, mask = prompts(n + 1)
        alone = generate(model, features[n:], ids[n:], mask[n:], [[14, 9, 14, 3][n]], None, rules, ORDER)[0]
        assert alone == found and alone.measures == pytest.approx(found.measures, abs=1e-6)
        row = [3 + n] * 3
        for place, token in enumerate(found.ids):
            if place:
                assert found.measures[place].tolist() == pytest.approx(plain(model.scores(row), token), abs=1e-4)
            row.append(token)
        assert found.logprobs == pytest.approx(found.measures[:, LOGPROB].tolist())
        assert (found.measures[1:, [END, ORDERED, *range(MASS, columns(ORDER))]] <= 1).all()
        assert (found.measures[:, ENTROPY] >= 0).all()

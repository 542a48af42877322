"""A model small enough to check by hand: what follows depends on the prompt and on all tokens so far, by a hash."""

from dataclasses import dataclass

import torch

from florence2.arrays import NumpyArrays
from florence2.model.torch_arrays import TorchArrays


@dataclass
class MockCache:
    """Each row's prompt and the tokens it has been fed."""

    rows: list[list[int]]

    def select(self, rows):
        self.rows = [list(self.rows[row]) for row in rows]

    def admit(self, other):
        self.rows += other.rows


class MockModel:
    """Logits of V tokens drawn by a generator that the row's tokens seed; `eos` is added to the logit of `</s>`.

    `steps` records how many rows each step had.
    """

    arrays = TorchArrays()
    in_runs = False

    def __init__(self, vocab_size=40, eos=0.0, scale=2.0):
        self.vocab_size, self.eos, self.scale = vocab_size, eos, scale
        self.steps = []

    def prefill(self, image_features, prompt_ids, prompt_mask):
        return MockCache([row[mask.bool()].tolist() for row, mask in zip(prompt_ids, prompt_mask)])

    def states(self, ids, cache):
        assert len(ids) == len(cache.rows)
        self.steps.append(len(ids))
        for row, token in zip(cache.rows, ids.tolist()):
            row.append(token)
        return torch.stack([self.scores(row) for row in cache.rows])

    def logits(self, states, span=None):
        return states if span is None else states[:, span[0] : span[1]]

    def scores(self, row):
        seed = hash(tuple(row)) % 2**31
        out = torch.randn(self.vocab_size, generator=torch.Generator().manual_seed(seed)) * self.scale
        out[2] += self.eos
        return out


class NumpyMock(MockModel):
    """The same model, in numpy's arrays."""

    arrays = NumpyArrays()

    def states(self, ids, cache):
        return super().states(torch.from_numpy(ids), cache).numpy()


def prompts(count, length=3):
    """Prompt ids, their mask and empty image features for `count` different prompts."""
    ids = torch.arange(3, 3 + count)[:, None].repeat(1, length)
    return torch.zeros(count, 1, 1), ids, torch.ones_like(ids)

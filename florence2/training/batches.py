"""The order of pairs, and batches of tensors made from them. Knows sources and tokens, not the model nor its loss.

The order is a pure function of (seed, epoch, sample id): a run that goes on at step n reads what the uninterrupted one
would. Asks put to one picture stand side by side, so that the picture is encoded once for all of them.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from florence2.codec.tokenizer import Tokenizer
from florence2.training.augment import augmented
from florence2.training.datasets import TrainingSource
from florence2.training.dense import Vocabulary, cell_targets
from florence2.training.examples import Example

PairKey = tuple[int, int, int, int]  # epoch, dataset, picture, ask
PART = 32  # pairs that are padded together: short targets by themselves


@dataclass(frozen=True)
class PaddedPairs:
    """Pairs of like length: `picture` (P,) says which picture of the batch each looks at."""

    picture: Tensor
    prompt_ids: Tensor
    prompt_mask: Tensor
    decoder_ids: Tensor
    labels: Tensor  # (P, T), -100 where nothing is asked

    @property
    def tokens(self) -> int:
        """Target ids that count in the loss."""
        return int((self.labels >= 0).sum())


@dataclass(frozen=True)
class Batch:
    """One forward: pictures (B, H, W, 3) uint8, the pairs in parts, what each cell should say."""

    pictures: Tensor
    parts: tuple[PaddedPairs, ...]
    cells: Mapping[str, Tensor]
    pairs: int
    left_out: int

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)


class Batches(Dataset[Batch]):
    """Batch number n of the run, for any n; what a worker process is given."""

    def __init__(
        self,
        datasets: Sequence[TrainingSource],
        tokenizer: Tokenizer,
        *,
        count: int,
        size: int,
        seed: int,
        max_target: int,
        map_side: int = 0,
        vocabulary: Vocabulary | None = None,
        augment: str = "none",
    ) -> None:
        self.datasets, self.tokenizer = datasets, tokenizer
        self.count, self.size, self.seed, self.max_target = count, size, seed, max_target
        self.map_side, self.vocabulary, self.augment = map_side, vocabulary, augment
        self._starts = [0]  # pairs before each epoch, as far as known

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Batch:
        pair_keys = self.pair_keys(number)
        pictures: list[np.ndarray] = []
        cells: list[dict[str, np.ndarray]] = []
        picked: list[tuple[int, Example]] = []
        left_out = 0
        for (epoch, dataset, index), group in groupby(pair_keys, key=lambda key: key[:3]):
            rng = random.Random(f"{self.seed}:{epoch}:{self.datasets[dataset].name(index)}")
            pixels, sample, examples = self.datasets[dataset].load(index, [key[3] for key in group], rng)
            if self.augment == "default":
                pixels = augmented(pixels, rng)
            fitting = [e for e in examples if len(e.target_ids) <= self.max_target]
            left_out += len(examples) - len(fitting)
            picked += [(len(pictures), e) for e in fitting]
            pictures.append(pixels)
            if self.map_side and self.vocabulary is not None:
                cells.append(cell_targets(sample, self.vocabulary, self.map_side))
        joined = {k: torch.from_numpy(np.stack([c[k] for c in cells])) for k in cells[0]} if cells else {}
        stacked = torch.from_numpy(np.stack(pictures))
        return Batch(stacked, tuple(parts(picked, self.tokenizer)), joined, len(picked), left_out)

    def pair_keys(self, number: int) -> list[PairKey]:
        """The pairs of a batch; an epoch's last batch goes on into the next epoch."""
        first = number * self.size
        out: list[PairKey] = []
        while len(out) < self.size:
            place = first + len(out)
            while self._starts[-1] <= place:
                self._starts.append(self._starts[-1] + len(self.epoch(len(self._starts) - 1)))
            epoch = bisect_right(self._starts, place) - 1
            start = place - self._starts[epoch]
            out += self.epoch(epoch)[start : start + self.size - len(out)]
        return out

    def epoch(self, number: int) -> list[PairKey]:
        """All pairs of an epoch in their order."""
        return _epoch(tuple(self.datasets), self.seed, number)


@lru_cache(maxsize=2)
def _epoch(datasets: tuple[TrainingSource, ...], seed: int, number: int) -> list[PairKey]:
    """Pictures sorted by a hash, drawn ones anew each epoch; a picture's asks in groups of `pairs`."""
    keyed = []
    for f, dataset in enumerate(datasets):
        if not dataset.active(number):
            continue
        for index in dataset.pictures(number):
            name = dataset.name(index)
            asks = dataset.asks(index, random.Random(f"{seed}:{number}:{name}:asks"))
            for start in range(0, len(asks), dataset.pairs):
                key = blake2b(f"{seed}:{number}:{f}:{name}:{start}".encode(), digest_size=8).digest()
                keyed.append((key, [(number, f, index, ask) for ask in asks[start : start + dataset.pairs]]))
    if not keyed:
        raise ValueError(f"data: no pair in epoch {number}; check the paths, the tasks and the epochs of the sources")
    return [key for _, group in sorted(keyed) for key in group]


def parts(picked: Sequence[tuple[int, Example]], tokenizer: Tokenizer) -> Iterator[PaddedPairs]:
    """Pairs sorted by length and padded in parts, so that a short target does not pay for a long one."""
    ordered = sorted(picked, key=lambda pair: (len(pair[1].target_ids), len(pair[1].prompt_ids)))
    for start in range(0, len(ordered), PART):
        chunk = ordered[start : start + PART]
        prompts = padded([e.prompt_ids for _, e in chunk], tokenizer.pad)
        labels = padded([e.target_ids for _, e in chunk], -100)
        decoder_ids = torch.full_like(labels, tokenizer.eos)  # the start token of the decoder is </s>
        decoder_ids[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == -100, tokenizer.pad)
        mask = padded([[1] * len(e.prompt_ids) for _, e in chunk], 0).bool()
        yield PaddedPairs(torch.tensor([p for p, _ in chunk]), prompts, mask, decoder_ids, labels)


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of ids as one tensor, filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

"""Batches of tensors made from planned pairs. Knows sources and tokens, not the model nor its loss.

Asks about one picture are adjacent, so that the picture is encoded once for all of them. What cannot be used is
left out and reported by name, never silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from florence2.codec.tokenizer import Tokenizer
from florence2.pixels import BadImage
from florence2.sources.files import NO_ANSWER
from florence2.training.augment import augmented
from florence2.training.datasets import TrainingSource, unreadable
from florence2.training.dense import Vocabulary, cell_counts, cell_targets
from florence2.training.examples import Example, LeftOut
from florence2.training.features import FeatureCache
from florence2.training.order import Cursor, PlannedBatch, PlannedPairs, seed_of

PART = 32  # pairs that are padded together: short targets by themselves
PADDING, UNSCORED = -100, -101  # labels of what is no token, and of tokens that the truth says nothing about


@dataclass(frozen=True)
class PaddedPairs:
    """Pairs of like length: `picture` (P,) says which picture of the batch each is about."""

    picture: Tensor
    prompt_ids: Tensor
    prompt_mask: Tensor
    decoder_ids: Tensor
    labels: Tensor  # (P, T), below 0 where nothing is asked

    @property
    def tokens(self) -> int:
        """Target ids that count in the loss."""
        return int((self.labels >= 0).sum())


@dataclass(frozen=True)
class Seen:
    """A picture of a batch whose features may be kept: its names in the cache, what was read of it from disk."""

    name: str = ""
    key: str = ""
    features: Tensor | None = None
    place: int = -1
    """In the batch's `pictures`; -1: not there, as its features are."""
    damaged: bool = False
    """Its file was there, and is to be written anew."""


@dataclass(frozen=True)
class Batch:
    """One forward: pictures (B, H, W, 3) uint8, the pairs in parts, the target of each cell.

    With a cache `seen` lists the pictures, and `pictures` holds those of them alone that had no features yet.
    """

    pictures: Tensor
    parts: tuple[PaddedPairs, ...]
    cells: Mapping[str, Tensor]
    examples: tuple[Example, ...]
    left_out: tuple[LeftOut, ...]
    pictures_of: tuple[int, ...] = ()
    """(examples,): the index of each example's picture."""
    cursor: Cursor = field(default_factory=Cursor)
    epoch: int = 0
    seen: tuple[Seen, ...] = ()
    spare: bool = False
    """Its pairs are in the place of those of which none could be used; they come again, and are counted then."""

    @property
    def picture_count(self) -> int:
        return len(self.seen) or len(self.pictures)

    @property
    def pairs(self) -> int:
        return len(self.examples)

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)

    def counts(self) -> dict[str, float]:
        """What each part of the loss is divided by, summed over a step's batches and ranks: tokens, cells, ..."""
        return {"tokens": float(self.tokens), **cell_counts(self.cells)}


@dataclass(frozen=True)
class Failed:
    """Why a batch could not be made, from another process: of an exception torch hands on its traceback as text."""

    text: str
    kind: type[OSError] | type[ValueError]

    def error(self) -> Exception:
        """To be raised where the batch was to come."""
        return self.kind(self.text)


class BatchMaker(Dataset[Batch]):
    """Makes the batch of a plan; what a worker process is given."""

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        tokenizer: Tokenizer,
        *,
        seed: int,
        map_side: int = 0,
        vocabulary: Vocabulary | None = None,
        augment: str = "none",
        on_error: str = "skip",
        size_wh: tuple[int, int] = (1, 1),
        features: FeatureCache | None = None,
    ) -> None:
        self.sources, self.tokenizer, self.seed = sources, tokenizer, seed
        self.map_side, self.vocabulary, self.augment = map_side, vocabulary, augment
        self.on_error, self.size_wh, self.features = on_error, size_wh, features

    def of(self, sources: Sequence[TrainingSource], features: FeatureCache | None = None) -> BatchMaker:
        """A maker of plain batches from other sources: no augmentation, no dense targets, what fails left out."""
        return BatchMaker(sources, self.tokenizer, seed=self.seed, size_wh=self.size_wh, features=features)

    def __getitem__(self, planned: PlannedBatch) -> Batch:
        """The batch; where none of its pairs can be used the spare ones, and a grey picture that asks nothing."""
        made = self._make(planned.pairs)
        if not made.examples and planned.spare:
            made = replace(self._make(planned.spare), left_out=made.left_out, spare=True)
        if not made.examples:
            made = self._blank(made.left_out)
        left_out = (*planned.left_out, *made.left_out)
        return replace(made, left_out=left_out, cursor=planned.cursor, epoch=planned.epoch)

    def _make(self, planned: Sequence[PlannedPairs]) -> Batch:
        pictures: list[np.ndarray] = []
        seen: list[Seen] = []
        cells: list[dict[str, np.ndarray]] = []
        picked: list[tuple[int, Example]] = []
        lost: list[LeftOut] = []
        for group in planned:
            rng = seed_of(group, self.seed)
            try:
                known = self._known(group)
                pixels, sample, found = self.sources[group.source].load(
                    group.picture, group.asks, rng, known is None or known.place >= 0
                )
            except BadImage as error:
                if self.on_error == "raise" or group.picture.sample is None or error.reason == NO_ANSWER:
                    raise  # of the last: the run goes on from its last state, once the object store answers
                lost.append(unreadable(group.picture.sample, error, len(group.asks)))
                continue
            examples = [one for one in found if isinstance(one, Example)]
            lost += [one for one in found if isinstance(one, LeftOut)]
            if not examples:
                continue
            picked += [(len(seen), one) for one in examples]
            seen.append(replace(known or Seen(), place=-1 if pixels is None else len(pictures)))
            if pixels is not None:
                pictures.append(augmented(pixels, rng) if self.augment == "default" else pixels)
            if self.map_side and self.vocabulary is not None:
                cells.append(cell_targets(sample, self.vocabulary, self.map_side))
        if not picked:
            return Batch(torch.empty(0), (), {}, (), tuple(lost))
        joined = {k: torch.from_numpy(np.stack([c[k] for c in cells])) for k in cells[0]} if cells else {}
        stacked = torch.from_numpy(np.stack(pictures)) if pictures else torch.empty(0)
        return Batch(
            stacked,
            tuple(parts_of(picked, self.tokenizer)),
            joined,
            tuple(one for _, one in picked),
            tuple(lost),
            tuple(place for place, _ in picked),
            seen=tuple(seen) if self.features is not None else (),
        )

    def _known(self, group: PlannedPairs) -> Seen | None:
        """What the cache knows of a picture, place 0 where its pixels are needed; None where nothing is kept of it."""
        sample = group.picture.sample
        if self.features is None or sample is None:
            return None
        name = self.features.of(sample.image)
        if group.held or name in self.features:
            return Seen(name)
        key, found, damaged = self.features.key(sample.image), None, False
        if key:
            try:
                found = self.features.read(key)
            except ValueError:
                damaged = True
        return Seen(name, key, found, -1 if found is not None else 0, damaged)

    def _blank(self, left_out: tuple[LeftOut, ...]) -> Batch:
        """A batch of which nothing counts: one grey picture, one target without a label."""
        width, height = self.size_wh
        grey = torch.full((1, height, width, 3), 128, dtype=torch.uint8)
        ids = torch.tensor([[self.tokenizer.bos, self.tokenizer.eos]])
        nothing = PaddedPairs(torch.tensor([0]), ids, torch.ones_like(ids).bool(), ids, torch.full_like(ids, PADDING))
        seen = (Seen(place=0),) if self.features is not None else ()
        return Batch(grey, (nothing,), {}, (), left_out, seen=seen)


class InWorker(Dataset["Batch | Failed"]):
    """A maker for a process that makes batches."""

    def __init__(self, maker: BatchMaker) -> None:
        self.maker = maker

    def __getitem__(self, planned: PlannedBatch) -> Batch | Failed:
        try:
            return self.maker[planned]
        except (ValueError, OSError) as error:
            return Failed(str(error), OSError if isinstance(error, OSError) else ValueError)


def parts_of(picked: Sequence[tuple[int, Example]], tokenizer: Tokenizer) -> Iterator[PaddedPairs]:
    """Pairs sorted by length and padded in parts, so that a short target does not pay for a long one."""
    ordered = sorted(picked, key=lambda pair: (len(pair[1].target_ids), len(pair[1].prompt_ids)))
    for start in range(0, len(ordered), PART):
        chunk = ordered[start : start + PART]
        prompts = padded([e.prompt_ids for _, e in chunk], tokenizer.pad)
        labels = padded([e.target_ids for _, e in chunk], PADDING)
        decoder_ids = torch.full_like(labels, tokenizer.eos)  # the start token of the decoder is </s>
        decoder_ids[:, 1:] = labels[:, :-1].masked_fill(labels[:, :-1] == PADDING, tokenizer.pad)
        for row, (_, e) in enumerate(chunk):
            labels[row, list(e.unscored)] = UNSCORED
        mask = padded([[1] * len(e.prompt_ids) for _, e in chunk], 0).bool()
        yield PaddedPairs(torch.tensor([p for p, _ in chunk]), prompts, mask, decoder_ids, labels)


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of ids as one tensor, filled up on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])

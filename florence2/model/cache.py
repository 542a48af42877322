"""What decoding keeps between steps: the decoder's own keys and values, and the picture's and prompt's, once a sample.

Legend: R rows being decoded, B samples, L layers, G heads, T tokens so far, M encoder positions, D width of a head.
A sample may have any number of rows (beams); they share its cross keys and values and are never copied for them.
Rows may be at different positions, since a sample can join while others are being decoded. Which row belongs to
which sample, and how long each is, is known on the host: nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from florence2.model.device import put


class OwnKeys(Protocol):
    """The decoder's own keys and values, a stretch of tokens for each row. `lengths`: how many tokens each row has."""

    lengths: list[int]

    def positions(self) -> int | Tensor:
        """The position of each row's next token: one number, or (R,) where rows differ."""
        ...

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Take in one token's keys and values (R, G, 1, D) of a layer.

        All of that layer so far, (R, G, T, D) each, and a mask (R, 1, 1, T) to add to scores where rows differ.
        """
        ...

    def advance(self) -> None:
        """Every layer has taken in the token."""
        ...

    def select(self, rows: Sequence[int]) -> None: ...
    def admit(self, other: OwnKeys) -> None: ...
    def stored(self) -> Tensor:
        """(L, 2, R, G, T, D), T the longest row."""
        ...


class GrowingKeys:
    """Room for sixteen tokens at first, doubled when it is full; rows that are dropped give their memory back."""

    def __init__(self, layers: int, rows: int, heads: int, width: int, like: Tensor, room: int = 16) -> None:
        self.store = like.new_empty(layers, 2, rows, heads, room, width)
        self.lengths = [0] * rows
        self._places: tuple[Tensor, Tensor] | None = None  # of this step, where rows differ: positions and mask

    def positions(self) -> int | Tensor:
        if self._even():
            return self.lengths[0]
        return self._uneven()[0]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        end = max(self.lengths) + 1
        self._make_room(end)
        own, mask = self.store[layer, :, : len(self.lengths)], None  # (2, R, G, capacity, D)
        if self._even():
            own[0, :, :, end - 1] = keys[:, :, 0]
            own[1, :, :, end - 1] = values[:, :, 0]
        else:
            places, mask = self._uneven()
            rows = torch.arange(len(places), device=places.device)
            own[0, rows, :, places] = keys[:, :, 0]
            own[1, rows, :, places] = values[:, :, 0]
        return own[0, :, :, :end], own[1, :, :, :end], mask

    def advance(self) -> None:
        self.lengths = [length + 1 for length in self.lengths]
        self._places = None

    def select(self, rows: Sequence[int]) -> None:
        chosen = self.stored().index_select(2, put(rows, self.store.device))
        make = self.store.new_empty if self._even() else self.store.new_zeros  # masked places must be finite
        self.store = make(*self.store.shape[:2], len(rows), *self.store.shape[3:])
        self._put(chosen, 0)
        self._forget([self.lengths[row] for row in rows])

    def admit(self, other: OwnKeys) -> None:
        mine, theirs = self.stored(), other.stored()
        room = max(self.store.shape[4], theirs.shape[4] + 1)
        rows = mine.shape[2] + theirs.shape[2]
        self.store = self.store.new_zeros(*self.store.shape[:2], rows, self.store.shape[3], room, self.store.shape[5])
        self._put(mine, 0)
        self._put(theirs, mine.shape[2])
        self._forget(self.lengths + other.lengths)

    def stored(self) -> Tensor:
        return self.store[:, :, : len(self.lengths), :, : max(self.lengths)]

    def _put(self, stretch: Tensor, row: int) -> None:
        self.store[:, :, row : row + stretch.shape[2], :, : stretch.shape[4]] = stretch

    def _forget(self, lengths: list[int]) -> None:
        self.lengths, self._places = lengths, None

    def _make_room(self, tokens: int) -> None:
        if tokens > self.store.shape[4]:
            self.store = torch.cat([self.store, torch.zeros_like(self.store)], 4)

    def _even(self) -> bool:
        return min(self.lengths) == max(self.lengths)

    def _uneven(self) -> tuple[Tensor, Tensor]:
        if self._places is None:
            places = put(self.lengths, self.store.device)
            beyond = torch.arange(max(self.lengths) + 1, device=places.device) > places[:, None]
            mask = self.store.new_zeros(beyond.shape).masked_fill_(beyond, float("-inf"))[:, None, None]
            self._places = places, mask
        return self._places


class FixedKeys(GrowingKeys):
    """Memory for a fixed number of rows and tokens, taken once and never moved; rows are reordered inside it.

    Every step has the same shapes, and where a row stands lies on the device: a step can be recorded and played again.
    """

    def __init__(self, layers: int, rows: int, heads: int, width: int, like: Tensor, room: int, most_rows: int) -> None:
        super().__init__(layers, max(rows, most_rows), heads, width, like, room)
        self.store.zero_()  # what a masked place holds is multiplied by zero, and must be finite
        self.places = torch.zeros(len(self.store[0, 0]), dtype=torch.int64, device=like.device)
        self.rewind([0] * rows)

    def positions(self) -> Tensor:
        return self.places[: len(self.lengths)]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        self._check(0, max(self.lengths) + 1)
        own = self.store[layer, :, : len(self.lengths)]  # (2, R, G, capacity, D)
        places, mask = self._uneven()
        rows = torch.arange(len(places), device=places.device)
        own[0, rows, :, places] = keys[:, :, 0]
        own[1, rows, :, places] = values[:, :, 0]
        return own[0], own[1], mask

    def advance(self) -> None:
        super().advance()
        self.places.add_(1)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Go on after so many tokens of each row; what lay behind is written over."""
        self.places[: len(lengths)].copy_(put(list(lengths), self.places.device))
        self._forget(list(lengths))

    def select(self, rows: Sequence[int]) -> None:
        self._check(len(rows), 0)
        self._put(self.stored().index_select(2, put(rows, self.store.device)), 0)
        self.rewind([self.lengths[row] for row in rows])

    def admit(self, other: OwnKeys) -> None:
        self._check(len(self.lengths) + len(other.lengths), max(other.lengths))
        self._put(other.stored(), len(self.lengths))
        self.rewind(self.lengths + other.lengths)

    def _uneven(self) -> tuple[Tensor, Tensor]:
        if self._places is None:
            places = self.positions()
            beyond = torch.arange(self.store.shape[4], device=places.device) > places[:, None]
            mask = self.store.new_zeros(beyond.shape).masked_fill_(beyond, float("-inf"))[:, None, None]
            self._places = places, mask
        return self._places

    def _check(self, rows: int, tokens: int) -> None:
        if rows > self.store.shape[2] or tokens > self.store.shape[4]:
            raise ValueError(
                f"cache: holds {self.store.shape[2]} rows of {self.store.shape[4]} tokens, got "
                f"{rows or len(self.lengths)} rows of {tokens or max(self.lengths)}; make it larger at prefill"
            )


class Cache:
    """Starts with one row a sample; `select` reorders, repeats and drops rows; `admit` lets other samples join."""

    def __init__(self, cross: list[tuple[Tensor, Tensor]], mask: Tensor | None, own: OwnKeys) -> None:
        self.cross = cross
        """A layer's keys and values of the encoder, (B, G, M, D) each."""
        self.mask = mask
        """(B, 1, 1, M), 0 where a row may attend and -inf at padding; None where nothing is padding."""
        self.own = own
        self.sample = list(range(len(cross[0][0])))
        """The sample that each row belongs to."""
        self.beam_rows: Tensor | None = None
        """(B, most rows) the rows of each sample, short ones filled up; None: one row a sample, in order."""
        self.row_slot: Tensor | None = None
        """(R,) the index of each row among the flattened beam_rows."""

    @property
    def rows(self) -> int:
        return len(self.sample)

    @property
    def samples(self) -> int:
        return len(self.cross[0][0])

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows, by index, in this order; a sample that loses its last row is let go."""
        if list(rows) == list(range(self.rows)):
            return
        self.own.select(rows)
        self.sample = [self.sample[row] for row in rows]
        kept = sorted(set(self.sample))
        if len(kept) < self.samples:
            index = put(kept, self.cross[0][0].device)
            self.cross = [(keys[index], values[index]) for keys, values in self.cross]
            self.mask = None if self.mask is None else self.mask[index]
            self.sample = [kept.index(sample) for sample in self.sample]
        self._pack_beams()

    def admit(self, other: Cache) -> None:
        """Let another cache's rows go on behind one's own; the shorter of the two encoder outputs is padded."""
        self.sample = self.sample + [self.samples + sample for sample in other.sample]
        mine, theirs = self.cross[0][0].shape[2], other.cross[0][0].shape[2]
        most = max(mine, theirs)
        if mine != theirs or self.mask is not None or other.mask is not None:
            self.mask = torch.cat([_masked_to(self, most), _masked_to(other, most)])
        self.cross = [
            tuple(torch.cat([_padded_to(a, most), _padded_to(b, most)]) for a, b in zip(*layers))  # type: ignore[misc]
            for layers in zip(self.cross, other.cross)
        ]
        self.own.admit(other.own)
        self._pack_beams()

    def _pack_beams(self) -> None:
        """Put each sample's rows side by side, so that they share one product with its cross keys."""
        if self.sample == list(range(self.samples)):
            self.beam_rows = self.row_slot = None
            return
        packed: list[list[int]] = [[] for _ in range(self.samples)]
        for row, sample in enumerate(self.sample):
            packed[sample].append(row)
        most = max(map(len, packed))
        slots = [0] * self.rows
        for sample, rows in enumerate(packed):
            for place, row in enumerate(rows):
                slots[row] = sample * most + place
        device = self.cross[0][0].device
        self.beam_rows = put([rows + [0] * (most - len(rows)) for rows in packed], device)
        self.row_slot = put(slots, device)


def _padded_to(keys: Tensor, length: int) -> Tensor:
    return F.pad(keys, (0, 0, 0, length - keys.shape[2]))


def _masked_to(cache: Cache, length: int) -> Tensor:
    keys = cache.cross[0][0]
    mask = keys.new_zeros(len(keys), 1, 1, keys.shape[2]) if cache.mask is None else cache.mask
    return F.pad(mask, (0, length - mask.shape[3]), value=float("-inf"))

"""What decoding keeps between steps: the decoder's own keys and values, and the picture's and prompt's, once a sample.

Legend: R rows being decoded, B samples, L layers, G heads, T tokens so far, M encoder positions, D width of a head.
A sample may have any number of rows (beams); they share its cross keys and values and are never copied for them.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Cache:
    """Starts with one row a sample; `select` reorders, repeats and drops rows."""

    def __init__(self, cross: list[tuple[Tensor, Tensor]], mask: Tensor | None, width: int, heads: int) -> None:
        self.cross = cross
        """A layer's keys and values of the encoder, (B, G, M, D) each."""
        self.mask = mask
        """(B, 1, 1, M), 0 where a row may attend and -inf at padding; None where nothing is padding."""
        keys = cross[0][0]
        self.own = keys.new_empty(len(cross), 2, len(keys), heads, 16, width // heads)  # (L, 2, R, G, capacity, D)
        self.length = 0
        self.sample = torch.arange(len(keys), device=keys.device)
        """(R,) the sample that each row belongs to."""
        self.beam_rows: Tensor | None = None
        """(B, most rows) the rows of each sample, short ones filled up; None: one row a sample, in order."""
        self.row_slot: Tensor | None = None
        """(R,) where each row sits among the flattened beam_rows."""

    @property
    def rows(self) -> int:
        return len(self.sample)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one token's keys and values (R, G, 1, D) of a layer; all of that layer so far, (R, G, T, D) each."""
        if self.length == self.own.shape[4]:
            self.own = torch.cat([self.own, torch.empty_like(self.own)], 4)
        self.own[layer, 0, :, :, self.length] = keys[:, :, 0]
        self.own[layer, 1, :, :, self.length] = values[:, :, 0]
        own = self.own[layer, :, :, :, : self.length + 1]
        return own[0], own[1]

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, by index, in this order; a sample that loses its last row is let go."""
        rows = rows.to(self.sample.device)
        if torch.equal(rows, torch.arange(self.rows, device=rows.device)):
            return
        own = self.own[:, :, :, :, : self.length].index_select(2, rows)
        grown = self.own.new_empty(*self.own.shape[:2], len(rows), *self.own.shape[3:])
        grown[:, :, :, :, : self.length] = own
        self.own, self.sample = grown, self.sample[rows]
        kept = torch.unique(self.sample)
        if len(kept) < len(self.cross[0][0]):
            self.cross = [(keys[kept], values[kept]) for keys, values in self.cross]
            self.mask = None if self.mask is None else self.mask[kept]
            self.sample = torch.searchsorted(kept, self.sample)
        self._pack_beams()

    def _pack_beams(self) -> None:
        samples = len(self.cross[0][0])
        counts = torch.bincount(self.sample, minlength=samples)
        most = int(counts.max())
        order = torch.argsort(self.sample, stable=True)
        place = torch.arange(self.rows, device=order.device) - (counts.cumsum(0) - counts)[self.sample[order]]
        self.row_slot = torch.empty_like(order)
        self.row_slot[order] = self.sample[order] * most + place
        self.beam_rows = torch.zeros(samples, most, dtype=torch.long, device=order.device)
        self.beam_rows.view(-1)[self.row_slot] = torch.arange(self.rows, device=order.device)
        if most == 1 and torch.equal(self.row_slot, torch.arange(samples, device=order.device)):
            self.beam_rows = self.row_slot = None

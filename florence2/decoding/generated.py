"""What a search gives: one answer in token ids, with what was measured of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from florence2.decoding.measures import LOGPROB


@dataclass(frozen=True)
class Generated:
    """One answer in token ids, the start token first, and the raw log-probability of each (0 for the start token).

    `truncated`: the budget ended or bent the answer where the model would have gone on. `measures` (T, F) float32 are
    those of `decoding.measures`, a row an id.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    truncated: bool = False
    measures: np.ndarray = field(default_factory=lambda: np.zeros((0, 1), np.float32), compare=False, repr=False)


def generated_of(ids: Sequence[int], measured: Sequence[Sequence[float]], truncated: bool) -> Generated:
    """The answer of ids and what was measured of each."""
    table = np.array(measured, np.float32)
    return Generated(tuple(ids), tuple(row[LOGPROB] for row in measured), truncated, table)

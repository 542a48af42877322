"""What the model held of each token that was taken: its probability, and that of what could have come in its place.

Knows integers only. Some ids may be ordered (locations: neighbours mean nearly the same): then the probability of the
neighbourhood of the token taken is measured too. All are taken over the whole vocabulary before any rule acts.
R rows, K tokens taken of each, V ids, F measures.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from florence2.model.device import put

LOGPROB, END, ENTROPY, ORDERED, MASS = range(5)
"""Columns: log-probability of the token; probability of the end in its place; entropy of the row in nats; probability
of the ordered ids together; from MASS on the probability of the ordered ids at most RADII away from the token."""
RADII = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def columns(ordered: tuple[int, int] | None) -> int:
    """How many measures there are: without ordered ids the log-probability alone."""
    return 1 if ordered is None else MASS + len(RADII)


def measures(logits: Tensor, chosen: Tensor, end: int, ordered: tuple[int, int] | None) -> Tensor:
    """(R, K, F) float32 of logits (R, V) float32 and the ids taken (R, K); `ordered` are the ids first <= id < last."""
    normaliser = logits.logsumexp(-1, keepdim=True)
    logprob = logits.gather(1, chosen) - normaliser
    if ordered is None:
        return logprob[:, :, None]
    first, last = ordered
    (R, K), radii = chosen.shape, len(RADII)
    out = logits.new_zeros(R, K, MASS + radii)
    probabilities = (logits - normaliser).exp_()
    out[:, :, LOGPROB] = logprob
    out[:, :, END] = probabilities[:, end : end + 1]
    out[:, :, ENTROPY] = normaliser - (probabilities * logits).nansum(-1, keepdim=True)  # 0 times -inf adds nothing
    below = torch.nn.functional.pad(probabilities[:, first:last].cumsum(-1), (1, 0))  # (R, n + 1): all before each
    out[:, :, ORDERED] = below[:, -1:].clamp(max=1.0)
    place = chosen - first
    inside = (place >= 0) & (place < last - first)
    if chosen.device.type != "cpu" or inside.any():  # elsewhere to ask would be to wait for the device
        edges = (place[:, :, None] + _edges(chosen.device)).clamp_(0, last - first)
        masses = below.gather(1, edges.flatten(1)).view(R, K, 2 * radii)
        near = (masses[:, :, radii:] - masses[:, :, :radii]).clamp_(0.0, 1.0)
        out[:, :, MASS:] = near * inside[:, :, None]
    return out


@lru_cache(maxsize=8)
def _edges(device: torch.device) -> Tensor:
    """Where the neighbourhoods begin, and where they end, from the token."""
    return put([*(-radius for radius in RADII), *(radius + 1 for radius in RADII)], device)

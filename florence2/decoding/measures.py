"""What the model held of each token that was taken: its probability, and that of what could have come in its place.

Knows integers only. Some ids may be ordered (locations: neighbours mean nearly the same): then the probability of the
neighbourhood of the token taken is measured too. All are taken over the whole vocabulary before any rule acts.
R rows, K tokens taken of each, V ids, F measures.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    shape = chosen.shape
    probabilities = (logits - normaliser).exp_()
    finite = logits.masked_fill(logits.isneginf(), 0.0)  # what is impossible adds nothing to the entropy
    entropy = normaliser - (probabilities * finite).sum(-1, keepdim=True)
    below = torch.nn.functional.pad(probabilities[:, first:last].cumsum(-1), (1, 0))  # (R, n + 1): all before each
    place = chosen - first
    inside = (place >= 0) & (place < last - first)
    radii = torch.tensor(RADII, device=chosen.device)
    high = (place[:, :, None] + radii + 1).clamp(0, last - first)
    low = (place[:, :, None] - radii).clamp(0, last - first)
    near = below.gather(1, high.flatten(1)) - below.gather(1, low.flatten(1))
    near = (near.view(*shape, len(RADII)) * inside[:, :, None]).clamp(0.0, 1.0)
    rows = [probabilities[:, end : end + 1], entropy, below[:, -1:].clamp(max=1.0)]
    of_row = torch.cat(rows, 1)[:, None].expand(*shape, len(rows))
    return torch.cat([logprob[:, :, None], of_row, near], 2)

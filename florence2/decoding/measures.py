"""What the model held of each token that was taken: its probability, and that of what could have come in its place.

Knows integers only. Some ids may be ordered (locations: neighbours mean nearly the same): then the probability of the
neighbourhood of the token taken is measured too. All are taken over the whole vocabulary before any rule acts.
R rows, K tokens taken of each, V ids, F measures.
"""

from __future__ import annotations

from typing import Any

from florence2.arrays import Arrays

LOGPROB, END, ENTROPY, ORDERED, MASS = range(5)
"""Columns: log-probability of the token; probability of the end in its place; entropy of the row in nats; probability
of the ordered ids together; from MASS on the probability of the ordered ids at most RADII away from the token."""
RADII = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

AROUND = (*(-radius for radius in RADII), *(radius + 1 for radius in RADII))
"""Where the neighbourhoods begin, and where they end, from the token."""


def columns(ordered: tuple[int, int] | None) -> int:
    """How many measures there are: without ordered ids the log-probability alone."""
    return 1 if ordered is None else MASS + len(RADII)


def measures(arrays: Arrays, logits: Any, chosen: Any, end: int, ordered: tuple[int, int] | None) -> Any:
    """(R, K, F) float32 of logits (R, V) float32 and the ids taken (R, K); `ordered` are the ids first <= id < last."""
    normaliser = arrays.logsumexp(logits)
    logprob = arrays.gather(logits, chosen) - normaliser
    if ordered is None:
        return logprob[:, :, None]
    first, last = ordered
    (R, K), radii = chosen.shape, len(RADII)
    out = arrays.zeros(R, K, MASS + radii)
    probabilities = arrays.into_exp(logits - normaliser)
    out[:, :, LOGPROB] = logprob
    out[:, :, END] = probabilities[:, end : end + 1]
    out[:, :, ENTROPY] = normaliser - arrays.nansum(probabilities * logits)  # 0 times -inf adds nothing
    sums = probabilities[:, first:last].cumsum(-1)
    below = arrays.concat([arrays.zeros(R, 1), sums], 1)  # (R, n + 1): all before each
    out[:, :, ORDERED] = below[:, -1:].clip(max=1.0)
    place = chosen - first
    inside = (place >= 0) & (place < last - first)
    if arrays.waits() or inside.any():
        edges = (place[:, :, None] + arrays.constant(AROUND)).clip(0, last - first)
        masses = arrays.gather(below, edges.reshape(R, -1)).reshape(R, K, 2 * radii)
        near = (masses[:, :, radii:] - masses[:, :, :radii]).clip(0.0, 1.0)
        out[:, :, MASS:] = near * inside[:, :, None]
    return out

"""Claims that a run itself supports or does not: paired differences between two views of the same pictures.

A view is, of every picture, (boxes right, boxes said, boxes true). A claim holds where the interval of the difference
in F1, over resamples of the pictures, excludes zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from florence2.reporting.html_page import Cell, Html, element, join, table

View = Mapping[str, tuple[int, int, int]]
RESAMPLES = 1000


@dataclass(frozen=True)
class Claim:
    """What is claimed, the difference in F1 and its 95 % interval."""

    text: str
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """yes; no, it is worse; or not seen in these pictures."""
        return "yes" if self.low > 0 else "no, worse" if self.high < 0 else "no difference seen"

    def line(self) -> str:
        """As one line of text."""
        return f"{self.text}: {self.verdict} ({self.difference:+.3f}, {self.low:+.3f} to {self.high:+.3f})"


def claim(text: str, better: View, than: View, seed: int = 0) -> Claim:
    """The claim that one view is better than another, over the pictures of both."""
    names = sorted(set(better) & set(than))
    tables = [np.array([view[name] for name in names], float).reshape(-1, 3) for view in (better, than)]
    rng = np.random.default_rng(seed)
    places = rng.integers(0, len(names), (RESAMPLES, len(names))) if names else np.zeros((1, 0), int)
    one, other = (f1(rows[places].sum(1)) for rows in tables)
    low, high = np.quantile(one - other, (0.025, 0.975))
    whole = [float(f1(rows.sum(0))) for rows in tables]
    return Claim(text, whole[0] - whole[1], float(low), float(high))


def f1(rows: np.ndarray) -> np.ndarray:
    """F1 of sums (..., 3) of right, said and true boxes; 0 where there are none."""
    return np.asarray(2 * rows[..., 0] / np.maximum(rows[..., 1] + rows[..., 2], 1e-9))


def moved(better: View, than: View, count: int) -> tuple[list[str], list[str]]:
    """The names of the pictures that gained most, and of those that lost most: by errors, then by name."""

    def gain(name: str) -> int:
        before, after = (said + true - 2 * right for right, said, true in (than[name], better[name]))
        return before - after

    names = sorted(set(better) & set(than), key=lambda name: (-gain(name), name))
    won = [name for name in names if gain(name) > 0]
    lost = [name for name in reversed(names) if gain(name) < 0]
    return won[:count], lost[:count]


def claims_table(claims: Sequence[Claim]) -> Html:
    """A row a claim, what holds first."""
    order = {"yes": 0, "no difference seen": 1, "no, worse": 2}
    rows: list[list[Cell]] = [
        [one.text, one.verdict, f"{one.difference:+.3f}", f"{one.low:+.3f} to {one.high:+.3f}"]
        for one in sorted(claims, key=lambda one: order[one.verdict])
    ]
    note = "F1 of boxes with the right name and IoU 0.5; intervals are of resampled pictures, the same for both sides."
    body = [table(("claim", "does this run show it", "difference", "interval (95 %)"), rows), element("p", note)]
    return join(body)

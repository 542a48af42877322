"""Reading scored: character and word error rates of texts, and end-to-end F1 of quads with their words.

The quads' protocol is ICDAR 2015's (https://rrc.cvc.uab.es, task 4.4): a match is an IoU over 0.5 and equal words, in
upper case, punctuation at the ends of a true word forgiven; what lies on an ignored word ("###") does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2 import geometry
from florence2.labels import fold_spaces
from florence2.metrics.detection import NO_BOX, f1, ratio
from florence2.metrics.rows import table
from florence2.records import Region

_FORGIVEN = "!?.:,*\"()·[]/'"


def edit_distance(a: Sequence[str], b: Sequence[str]) -> int:
    """Levenshtein's: insertions, deletions and replacements, one each."""
    if len(a) < len(b):
        a, b = b, a
    if not len(b):
        return len(a)
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(x, len(numbers)) for x in b], dtype=np.int64)
    places = np.arange(len(b) + 1)
    row = places.copy()
    for i, x in enumerate(a, 1):
        code = numbers.get(x, -1)
        best = np.empty_like(row)
        best[0] = i
        np.minimum(row[1:] + 1, row[:-1] + (codes != code), out=best[1:])
        row = np.minimum.accumulate(best - places) + places  # insertions run along the row
    return int(row[-1])


class TextErrors:
    """CER and WER: errors summed over the set, divided by its true characters or words. Space folded, case kept."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int]] = []  # character errors, characters, word errors, words

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, truth: str, found: str) -> None:
        """Add one text."""
        truth, found = fold_spaces(truth), fold_spaces(found)
        words = truth.split()
        self.rows.append((edit_distance(truth, found), len(truth), edit_distance(words, found.split()), len(words)))

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The rates over all updates, or over those named by `rows`; 1 for words where the truth has none."""
        ce, c, we, w = table(self.rows, rows, 4).sum(axis=0)
        return {"CER": ratio(ce, c, float(ce > 0)), "WER": ratio(we, w, float(we > 0))}


class QuadWords:
    """precision, recall, F1 end to end, and detection_* for place alone."""

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold
        self.rows: list[tuple[int, int, int, int]] = []  # truth, found, placed, placed and read

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, truth: Sequence[Region], found: Sequence[Region]) -> None:
        """Add one picture; `label` holds the words."""
        true_quads, quads = [region_quad(r) for r in truth], [region_quad(r) for r in found]
        shared = geometry.quad_intersection(true_quads, quads)
        true_area = np.array([geometry.convex_area(q) for q in true_quads])
        found_area = np.array([geometry.convex_area(q) for q in quads])
        union = true_area[:, None] + found_area[None, :] - shared
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        ignored = np.array([r.ignore for r in truth], dtype=bool)
        excused = (shared[ignored] > 0.5 * found_area[None, :]).any(axis=0) if len(found) else np.zeros(0, dtype=bool)
        placed = read = 0
        free = ~excused
        for t, region in enumerate(truth):
            if region.ignore:
                continue
            hits = np.flatnonzero((iou[t] > self.threshold) & free)
            if len(hits):  # the first found, as the official script; it need not be the best
                free[hits[0]] = False
                placed += 1
                read += same_words(region.label, found[hits[0]].label)
        self.rows.append((int((~ignored).sum()), int((~excused).sum()), placed, read))

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The scores over all updates, or over those named by `rows`."""
        truth, found, placed, read = table(self.rows, rows, 4).sum(axis=0)
        nothing = 0.0 if truth or found else 1.0
        out = {}
        for prefix, hits in (("", read), ("detection_", placed)):
            precision, recall = ratio(hits, found, nothing), ratio(hits, truth, nothing)
            out.update({f"{prefix}precision": precision, f"{prefix}recall": recall})
            out[f"{prefix}F1"] = f1(precision, recall)
        return out


def region_quad(region: Region) -> tuple[float, ...]:
    """The region's four corners, or those of its box."""
    return geometry.region_quad(region) or geometry.box_quad(NO_BOX)


def same_words(truth: str, found: str) -> bool:
    """Equal in upper case; punctuation at the ends of the truth may be missing."""
    truth, found = truth.upper(), found.upper()
    if truth == found:
        return True
    first, last = truth[:1] in _FORGIVEN and truth != "", truth[-1:] in _FORGIVEN and truth != ""
    return bool(
        (first and truth[1:] == found) or (last and truth[:-1] == found) or (first and last and truth[1:-1] == found)
    )

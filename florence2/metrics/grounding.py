"""Recall@1 of phrases in both protocols of the literature, and the accuracy of referring expressions.

any: the first box of a phrase lies on any one of its true boxes; merged: on the box around all of them (the protocols
of https://arxiv.org/abs/2104.12763, section 4). A box lies on another from an IoU of 0.5.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from florence2 import geometry
from florence2.labels import fold_label
from florence2.metrics.detection import region_box
from florence2.metrics.rows import table
from florence2.records import Box, Grounding, Parsed, Region


class GroundingRecall:
    """recall_any and recall_merged over phrases. A phrase that occurs twice in a text is matched in order."""

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold
        self.rows: list[tuple[int, int, int]] = []  # phrases, hit any, hit merged

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, truth: Parsed, found: Parsed) -> None:
        """Add one text of one picture."""
        answers = {key: boxes for key, boxes in _phrases(found)}
        phrases = any_box = merged = 0
        for key, boxes in _phrases(truth):
            if not boxes:
                continue
            phrases += 1
            first = answers.get(key, [])[:1]
            if first:
                any_box += int(geometry.iou(first, boxes).max() >= self.threshold)
                around = geometry.as_boxes(boxes)
                around = np.concatenate([around[:, :2].min(axis=0), around[:, 2:].max(axis=0)])
                merged += int(geometry.iou(first, around)[0, 0] >= self.threshold)
        self.rows.append((phrases, any_box, merged))

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The scores over all updates, or over those named by `rows`."""
        phrases, hit_any, merged = table(self.rows, rows, 3).sum(axis=0)
        count = max(int(phrases), 1)
        return {"recall_any": float(hit_any) / count, "recall_merged": float(merged) / count}


class Referring:
    """accuracy: the first box found has an IoU of 0.5 with the one true box."""

    def __init__(self, threshold: float = 0.5):
        self.threshold = threshold
        self.rows: list[bool] = []

    def __len__(self) -> int:
        return len(self.rows)

    def update(self, truth: Sequence[Region], found: Sequence[Region]) -> None:
        """Add one expression; several true boxes count as one box around them."""
        first = _best_first(found)[:1]
        around = geometry.polygon_box(*(region_box(r) for r in truth)) if truth else None
        hit = bool(first) and around is not None and geometry.iou(first, around)[0, 0] >= self.threshold
        self.rows.append(bool(hit) if truth else not found)

    def compute(self, rows: Sequence[int] | None = None) -> dict[str, float]:
        """The scores over all updates, or over those named by `rows`."""
        hits = table(self.rows, rows, 1, bool)
        return {"accuracy": float(hits.mean()) if len(hits) else 0.0}


def _phrases(parsed: Parsed) -> list[tuple[tuple[str, int], list[Box]]]:
    """((phrase, which of its occurrences), boxes best first) for each grounding, in order of the text."""
    regions = {region.id: region for region in parsed.regions}
    seen: Counter[str] = Counter()
    out = []
    for grounding in sorted(parsed.groundings, key=_place):
        phrase = fold_label(grounding.phrase)
        seen[phrase] += 1
        boxes = _best_first([regions[i] for i in grounding.region_ids if i in regions])
        out.append(((phrase, seen[phrase]), boxes))
    return out


def _place(grounding: Grounding) -> int:
    return grounding.spans[0][0] if grounding.spans else 0


def _best_first(regions: Sequence[Region]) -> list[Box]:
    order = sorted(regions, key=lambda r: -(1.0 if r.score is None else r.score))
    return [region_box(r) for r in order]

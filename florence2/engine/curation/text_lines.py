"""Lines of text of several OCR sources: where they overlap, one source's set of lines is kept, never a mixture.

OCR engines split lines differently (one line here, three words there), so lines cannot be paired one by one. Lines of
all readers that lie on one another are settled together, in favour of the source whose lines have the higher mean
score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from florence2.geometry import as_boxes
from florence2.records import Region

OVER = 0.3  # share of the smaller line's area from which two lines lie on one another


def settle(
    lines: Sequence[Region], source_of: Callable[[Region], Hashable], ranked: Callable[[Region], int]
) -> tuple[dict[str, str], list[Region]]:
    """(loser's id -> id of the line that replaces it, lines that no other reader found).

    The better rank wins a group of overlapping lines; among equals the reader that is surer of this picture: the mean
    score of its lines, weighted by their area.
    """
    sure = _mean_score(lines, source_of)
    losers: dict[str, str] = {}
    alone: list[Region] = []
    for group in _groups(lines):
        by_source: dict[Hashable, list[Region]] = defaultdict(list)
        for line in group:
            by_source[source_of(line)].append(line)
        if len(by_source) == 1:
            alone += group
            continue
        best = min(by_source, key=lambda s: (ranked(by_source[s][0]), -sure[s], str(s)))
        winning = by_source[best]
        shares = _shares(group, winning)
        for line, row in zip(group, shares):
            if source_of(line) != best:
                losers[line.id] = winning[int(row.argmax())].id
    return losers, alone


def _groups(lines: Sequence[Region]) -> list[list[Region]]:
    """Lines in groups that lie on one another, in order."""
    over = _shares(lines, lines) >= OVER
    left, out = set(range(len(lines))), []
    while left:
        group, todo = [], [min(left)]
        left.discard(todo[0])
        while todo:
            i = todo.pop()
            group.append(i)
            near = [j for j in left if over[i, j]]
            left.difference_update(near)
            todo += near
        out.append([lines[i] for i in sorted(group)])
    return out


def _shares(one: Sequence[Region], two: Sequence[Region]) -> np.ndarray:
    """(len(one), len(two)): the intersection of boxes as a share of the smaller one."""
    a, b = (as_boxes([line.box for line in lines])[:, None] for lines in (one, two))
    b = b.transpose(1, 0, 2)
    inside = (np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])).clip(0).prod(axis=-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clip(0).prod(axis=-1) for boxes in (a, b)]
    return inside / np.maximum(np.minimum(*areas), 1e-9)


def _mean_score(lines: Sequence[Region], source_of: Callable[[Region], Hashable]) -> Mapping[Hashable, float]:
    totals: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for line in lines:
        x1, y1, x2, y2 = line.box or (0.0, 0.0, 0.0, 0.0)
        area = max(x2 - x1, 0.0) * max(y2 - y1, 0.0)
        totals[source_of(line)][0] += area * (1.0 if line.score is None else line.score)
        totals[source_of(line)][1] += area
    return {source: scored / area if area else 0.0 for source, (scored, area) in totals.items()}

"""What a round changed: boxes that came, went or moved, labels and texts that are others now. Knows samples only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import numpy as np

from florence2.geometry import iou
from florence2.records import Region, Sample

SAME_PLACE = 0.5  # IoU from which two boxes are the same object
MOVED_PX = 0.5  # an edge that moved less has not moved


@dataclass(frozen=True)
class Changes:
    """Counts over a store's current view, before and after."""

    boxes: int = 0  # after
    added: int = 0
    removed: int = 0
    moved: int = 0
    relabelled: int = 0
    texts: int = 0  # after
    texts_changed: int = 0  # one in place of another of its length and question
    texts_added: int = 0
    texts_removed: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def nothing(self) -> bool:
        """Whether nothing changed."""
        return all(getattr(self, f.name) == 0 for f in fields(self) if f.name not in ("boxes", "texts"))

    def to_json(self) -> dict[str, int]:
        """As plain values."""
        return asdict(self)


def changes(before: Iterable[Sample], after: Iterable[Sample]) -> Changes:
    """Compare two current views of the same pictures; one that is missing in either counts as empty."""
    total = Changes()
    old = {sample.image.id: sample for sample in before}
    for sample in after:
        total += of_sample(old.pop(sample.image.id, Sample(sample.id, sample.image)), sample)
    for sample in old.values():
        total += of_sample(sample, Sample(sample.id, sample.image))
    return total


def of_sample(before: Sample, after: Sample) -> Changes:
    """The changes of one picture: pairs of the same label first, then pairs of the same place."""
    old, new = ([r for r in s.regions if r.box is not None and not r.refines] for s in (before, after))
    moved = relabelled = 0
    free_old, free_new = set(range(len(old))), set(range(len(new)))
    overlaps = iou([r.box for r in old], [r.box for r in new]) if old and new else np.zeros((len(old), len(new)))
    pairs = [(i, j) for i, j in np.argwhere(overlaps >= SAME_PLACE).tolist() if old[i].kind == new[j].kind]
    for i, j in sorted(pairs, key=lambda p: (old[p[0]].label != new[p[1]].label, -overlaps[p], p)):
        if i in free_old and j in free_new:
            free_old.discard(i)
            free_new.discard(j)
            relabelled += old[i].label != new[j].label
            moved += _moved(old[i], new[j])
    came, went = _texts(after) - _texts(before), _texts(before) - _texts(after)
    added, removed = (Counter((detail, question) for detail, question, _ in texts) for texts in (came, went))
    changed = (added & removed).total()
    return Changes(
        boxes=len(new),
        added=len(free_new),
        removed=len(free_old),
        moved=moved,
        relabelled=relabelled,
        texts=len(_texts(after)),
        texts_changed=changed,
        texts_added=added.total() - changed,
        texts_removed=removed.total() - changed,
    )


def _texts(sample: Sample) -> set[tuple[str, str, str]]:
    return {(text.detail, text.question, text.text) for text in sample.texts}


def _moved(a: Region, b: Region) -> bool:
    return max(abs(x - y) for x, y in zip(a.box or (), b.box or ())) > MOVED_PX

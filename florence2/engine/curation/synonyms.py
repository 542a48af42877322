"""Labels that likely mean the same: two sources give them, again and again, to one and the same place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from florence2.geometry import iou
from florence2.labels import fold_label
from florence2.records import Region, Sample

OVERLAP = 0.9  # IoU of boxes that are one place
PAIRS = 3  # places from which two labels are proposed
SHARE = 0.5  # of either label's places where the other source has a box: what the pair must reach


@dataclass(frozen=True)
class Synonyms:
    """Two labels, and at how many places one source gives the first and another the second."""

    labels: tuple[str, str]
    pairs: int

    def __str__(self) -> str:
        return f"{' / '.join(self.labels)}: {self.pairs} pairs over {OVERLAP}"


def likely_synonyms(samples: Iterable[Sample], known: Sequence[Sequence[str]] = ()) -> list[Synonyms]:
    """Proposals by falling number of pairs; groups that are `known` as synonyms are one label already."""
    together: Counter[tuple[str, str]] = Counter()
    places: Counter[str] = Counter()
    for sample in samples:
        objects = [r for r in sample.regions if r.kind == "object" and r.box and r.label and not r.refines]
        objects = [r for r in objects if r.source is None or r.source.name != "merge"]
        if len(objects) < 2:
            continue
        overlaps = iou([r.box for r in objects], [r.box for r in objects])
        for i, one in enumerate(objects):
            labels = {
                _label(other, known)
                for j, other in enumerate(objects)
                if overlaps[i, j] >= OVERLAP and _source(other) != _source(one)
            }
            mine = _label(one, known)
            places[mine] += bool(labels)
            together.update((mine, other) for other in labels if other != mine)
    out = []
    for (first, second), pairs in together.items():
        both = min(pairs, together[second, first])
        enough = both >= PAIRS and both >= SHARE * max(places[first], places[second])
        if first < second and enough:
            out.append(Synonyms((first, second), both))
    return sorted(out, key=lambda found: (-found.pairs, found.labels))


def _label(region: Region, known: Sequence[Sequence[str]]) -> str:
    folded = fold_label(region.label)
    return next((group[0] for group in known if folded in group), folded)


def _source(region: Region) -> tuple[str, str, str]:
    source = region.source
    return (source.kind, source.name, source.run_id) if source is not None else ("", "", "")

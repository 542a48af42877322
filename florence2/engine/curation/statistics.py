"""What a store holds, counted as the paper counts its own: annotations, words and regions by family and length."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from florence2.engine.ingest.duplicates import duplicates, of_store
from florence2.records import Region, Sample
from florence2.store import Store


@dataclass
class FamilyRow:
    """One line of the table: a family of annotation, and within it a length of text or a kind of region."""

    family: str
    kind: str
    images: int = 0
    annotations: int = 0
    words: int = 0
    regions: int = 0

    def to_json(self) -> dict[str, Any]:
        """The counts with their means: words an annotation, regions a picture that has any."""
        return {
            "family": self.family,
            "kind": self.kind,
            "images": self.images,
            "annotations": self.annotations,
            "mean_words": round(self.words / self.annotations, 2) if self.annotations else 0.0,
            "regions": self.regions,
            "mean_regions": round(self.regions / self.images, 2) if self.images else 0.0,
        }


@dataclass
class Statistics:
    """A store in numbers: the family table, labels by count, sides of boxes, pictures by split and status."""

    rows: list[FamilyRow] = field(default_factory=list)
    labels: Counter[str] = field(default_factory=Counter)
    box_shares: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    images: dict[str, int] = field(default_factory=dict)
    image_reasons: dict[str, int] = field(default_factory=dict)
    across: int = 0
    leaks: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain values; labels by falling count."""
        return {
            "images": self.images,
            "image_reasons": self.image_reasons,
            "splits": dict(self.splits),
            "families": [row.to_json() for row in self.rows],
            "labels": dict(self.labels.most_common()),
            "box_area_shares": dict(self.box_shares),
            "duplicates_across_splits": self.across,
            "leaks": self.leaks,
        }


# share of the picture that a box covers, from COCO's small to nearly all of it
SHARES = ((0.01, "below 1 %"), (0.1, "1-10 %"), (0.5, "10-50 %"), (1.01, "above 50 %"))


def statistics(store: Store, snapshot: int | None = None) -> Statistics:
    """Count what a store's current view holds, and what became of its pictures."""
    out = of_samples(store.samples(snapshot))
    out.images = {name: n for name, n in store.counts(snapshot)["images"].items()}
    out.image_reasons = store.reasons(snapshot)["images"]
    pairs = [pair for pair in duplicates(of_store(store, snapshot)) if pair.across]
    out.across, out.leaks = len(pairs), sum(pair.leaks for pair in pairs)
    return out


def of_samples(samples: Iterable[Sample]) -> Statistics:
    """Count what samples hold."""
    rows: dict[tuple[str, str], FamilyRow] = {}
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    out = Statistics()

    def count(sample: Sample, family: str, kind: str, words: int, regions: int) -> None:
        row = rows.setdefault((family, kind), FamilyRow(family, kind))
        row.annotations += 1
        row.words += words
        row.regions += regions
        seen[family, kind].add(sample.image.id)

    for sample in samples:
        out.splits[sample.split or "none"] += 1
        details = {text.id: text.detail for text in sample.texts}
        for text in sample.texts:
            count(sample, "text", text.detail, len(text.text.split()), 0)
        for region in described(sample.regions):
            count(sample, "region_text", region.kind, len((region.description or region.label).split()), 1)
            if region.kind == "object":
                out.labels[region.label] += 1
            share = _share(sample, region.box)
            out.box_shares[next(name for limit, name in SHARES if share < limit)] += region.box is not None
        for grounding in sample.groundings:
            kind = details.get(grounding.text_id, "referring")
            count(sample, "text_phrase_region", kind, len(grounding.phrase.split()), len(grounding.region_ids))
    for key, row in rows.items():
        row.images = len(seen[key])
    out.rows = [rows[key] for key in sorted(rows)]
    return out


def described(regions: Iterable[Region]) -> list[Region]:
    """The regions that refine no other: a text of one that has none, from what refines it, is its description."""
    texts = dict[str, str]()
    for region in (regions := list(regions)):
        if region.refines and region.description:
            texts.setdefault(region.refines, region.description)
    whole = (region for region in regions if not region.refines)
    return [replace(region, description=region.description or texts.get(region.id, "")) for region in whole]


def _share(sample: Sample, box: tuple[float, float, float, float] | None) -> float:
    width, height = sample.image.size_wh
    if box is None or not width or not height:
        return 0.0
    return min(1.0, max(0.0, (box[2] - box[0]) * (box[3] - box[1]) / (width * height)))

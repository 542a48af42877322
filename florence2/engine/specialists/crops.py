"""Describes each region by another specialist that annotates its crop: `crops:captioning:MODEL`, `crops:student:nano`.

The paper's brief region texts are made so, of objects and of lines of text. A card says it for one kind alone:

    specialist: crops
    of: captioning:MODEL
    kinds: [object]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists.found_regions import refining
from florence2.geometry import clip
from florence2.pixels import crop
from florence2.records import REGION_KINDS, Failure, ImageRef, Parsed, Region, Result, Sample

MARGIN = 0.1  # of the box's sides, so that the captioner sees the object's surroundings
MIN_SIDE = 16  # pixels; a smaller crop says nothing
PRODUCTS_OF = {"object": "region_text/object", "text": "region_text/ocr"}


class Crops:
    """A region that refines another, its description the inner specialist's text about the crop."""

    def __init__(self, of: str, kinds: Sequence[str] = REGION_KINDS) -> None:
        from florence2.engine.specialists import open as open_specialist

        wrong = [kind for kind in kinds if kind not in PRODUCTS_OF] or ([] if kinds else [""])
        if wrong or isinstance(kinds, str):
            raise ValueError(f"crops: kinds: expected some of {', '.join(PRODUCTS_OF)} as a list, got {kinds!r}")
        self.inner = open_specialist(of)
        if not any(name.startswith("text/") for name in self.inner.spec.produces):
            products = ", ".join(sorted(self.inner.spec.produces))
            raise ValueError(f"crops: expected a specialist that writes texts, {of!r} gives {products}")
        self.spec = Spec(
            f"crops-{self.inner.spec.name}",
            self.inner.spec.version,
            produces=frozenset({"region_text/description"}),
            requires=frozenset(PRODUCTS_OF[kind] for kind in kinds),
            batch_size=4,
            billed=self.inner.spec.billed,
            source_kind=self.inner.spec.source_kind,
        )
        inner = dict(self.inner.config)
        self.config: dict[str, Any] = {"margin": MARGIN, "min_side": MIN_SIDE, "inner": inner, "kinds": sorted(kinds)}
        self.weights_sha256 = self.inner.weights_sha256

    def setup(self, device: str) -> None:
        """Set up the inner specialist."""
        self.inner.setup(device)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """All crops of a picture are one batch of the inner specialist."""
        return [self._describe(sample, image) for sample, image in zip(samples, images)]

    def _describe(self, sample: Sample, image: np.ndarray) -> Result:
        kinds = self.config["kinds"]
        regions = [r for r in sample.current().regions if r.kind in kinds and r.box and not r.refines]
        pairs = [(r, piece) for r in regions if (piece := _piece(image, r)) is not None]
        if not pairs:
            return Parsed()
        bare = [Sample(r.id, ImageRef(r.id, width=piece.shape[1], height=piece.shape[0])) for r, piece in pairs]
        found = self.inner.annotate(bare, [piece for _, piece in pairs])
        failed = [result for result in found if isinstance(result, Failure)]
        if len(failed) == len(found):
            return dataclasses.replace(failed[0], id=sample.id, image=sample.image.uri)
        described: list[Region] = []
        for (region, _), result in zip(pairs, found):
            text = result.texts[0] if isinstance(result, Parsed) and result.texts else None
            if text is not None and text.text.strip():
                name, description = f"described-{len(described)}", text.text.strip()
                described.append(refining(region, name, text.score, description=description))
        return Parsed(regions=tuple(described))

    def close(self) -> None:
        """Close the inner specialist."""
        self.inner.close()


def _piece(image: np.ndarray, region: Region) -> np.ndarray | None:
    assert region.box is not None
    x1, y1, x2, y2 = region.box
    dx, dy = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    box = clip([(x1 - dx, y1 - dy, x2 + dx, y2 + dy)], (image.shape[1], image.shape[0]))[0]
    if box[2] - box[0] < MIN_SIDE or box[3] - box[1] < MIN_SIDE:
        return None
    return crop(image, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))

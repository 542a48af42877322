"""Which of several texts describes each region best, by a Florence-2 itself: `region-texts:nano`.

Candidates are a region's label, its descriptions and their noun chunks. Chosen is the one that is the most probable
description of the region, per token. A stand-in for the paper's image-text similarity that needs no further model;
`similarity:MODEL` asks one of transformers. To take off what the words are worth on a blank picture makes the choice
worse (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists.found_regions import refining
from florence2.engine.specialists.student import weights_sha256_of
from florence2.engine.text.parser import Parser
from florence2.predictor.likelihood import log_probabilities
from florence2.records import Ask, Parsed, Region, Result, Sample

TASK = "<REGION_TO_DESCRIPTION>"


class RegionTexts:
    """For each region with several candidates one that refines it, its description being the best of them."""

    def __init__(self, model: str = "nano", parser: str = "auto") -> None:
        self.model, self.parser = model, Parser(parser)
        self.weights_sha256 = weights_sha256_of(model)
        self.spec = Spec(
            "region-texts",
            self.weights_sha256[:12],
            produces=frozenset({"region_text/description"}),
            requires=frozenset({"region_text/object", "region_text/description"}),
            batch_size=8,
            source_kind="model",
            num_gpus=1,
        )
        self.config: dict[str, Any] = {"parser": self.parser.weights_sha256}
        self._loaded: Any = None

    def setup(self, device: str) -> None:
        """Load the model."""
        from florence2 import predictor

        self._loaded = predictor.load(self.model, device=device)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One pass for all candidates of a region."""
        return [self._chosen(sample.current(), image) for sample, image in zip(samples, images)]

    def _chosen(self, sample: Sample, image: np.ndarray) -> Parsed:
        wanted = [(region, texts) for region in _objects(sample) if len(texts := self.candidates(region, sample)) > 1]
        if not wanted:
            return Parsed()
        (picture,) = self._loaded.encode_images([image])
        out: list[Region] = []
        for region, texts in wanted:
            values = log_probabilities(self._loaded, picture, Ask(TASK, region=region.box or ()), texts)
            chances = np.exp(values - values.max())
            best = int(values.argmax())
            score = float(chances[best] / chances.sum())
            out.append(refining(region, f"named-{len(out)}", score, description=texts[best]))
        return Parsed(regions=tuple(out))

    def candidates(self, region: Region, sample: Sample) -> list[str]:
        """What a region may be called: its label, what describes it, the noun chunks of that."""
        described = [region.description, *(r.description for r in sample.regions if r.refines == region.id)]
        chunks = [chunk.text for text in described if text for chunk in self.parser.noun_chunks(text)]
        texts = [text.strip() for text in (region.label, *described, *chunks)]
        return [text for text in dict.fromkeys(texts) if text]

    def close(self) -> None:
        """Drop the model."""
        self._loaded = None


def _objects(sample: Sample) -> list[Region]:
    return [r for r in sample.regions if r.kind == "object" and r.box is not None and not r.refines]

"""The best name of each region by image-text similarity (CLIP, SigLIP): the part that Florence-1 plays in the paper.

Candidates are a region's label (of a line of text what was read), its description, and the noun chunks of the
description; the crop decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists import transformers_models
from florence2.engine.specialists.found_regions import refining
from florence2.engine.text.parser import Parser
from florence2.pixels import crop
from florence2.records import Parsed, Region, Result, Sample


class Similarity(transformers_models.TransformersModel):
    """For each described region one that refines it, its description being the candidate most like the crop."""

    auto_model = "AutoModel"

    def __init__(self, model: str, parser: str = "auto", revision: str = "") -> None:
        self.parser = Parser(parser)
        self.spec = Spec(
            "similarity",
            transformers_models.version("similarity"),
            produces=frozenset({"region_text/description"}),
            requires=frozenset({"region_text/description"}),
            batch_size=4,
            num_gpus=1,
        )
        self.config = {"parser": self.parser.weights_sha256}
        super().__init__(model, revision)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One pass a region."""
        results: list[Result] = []
        for sample, image in zip(samples, images):
            found: list[Region] = []
            for region in sample.current().regions:
                texts = self.candidates(region)
                if region.box is None or len(texts) < 2:
                    continue
                chances = self.compare(crop(image, region.box), texts)
                best = int(chances.argmax())
                found.append(refining(region, f"named-{len(found)}", float(chances[best]), description=texts[best]))
            results.append(Parsed(regions=tuple(found)))
        return results

    def candidates(self, region: Region) -> list[str]:
        """What a region may be called."""
        chunks = [chunk.text for chunk in self.parser.noun_chunks(region.description)] if region.description else []
        return [text for text in dict.fromkeys([region.label, region.description, *chunks]) if text.strip()]

    def compare(self, image: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """(N,) probabilities, one for each text, that it is the one of the picture; they sum to 1."""
        import torch

        processor, model = self.loaded
        longest = model.config.get_text_config().max_position_embeddings
        padding = "max_length" if model.config.model_type.startswith("siglip") else True  # as SigLIP was trained
        inputs = processor(
            text=list(texts), images=image, return_tensors="pt", padding=padding, truncation=True, max_length=longest
        )
        with torch.inference_mode():
            logits = model(**transformers_models.move(inputs, model.device)).logits_per_image[0]
        return torch.softmax(logits.float(), dim=0).cpu().numpy()

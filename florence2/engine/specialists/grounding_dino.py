"""Phrases of captions and where they are, by Grounding DINO (or MM Grounding DINO).

The model scores every token of a caption for every box. The paper's triplets need spans, so that a box goes to the noun
chunk whose tokens it scores highest: phrase, span and boxes, and two scores, the box's and the phrase's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists import transformers_models
from florence2.engine.specialists.found_regions import detected
from florence2.engine.text.parser import Parser
from florence2.engine.text.phrases import NounChunk
from florence2.records import CAPTION_DETAILS, Grounding, Parsed, Region, Result, Sample, Text


class GroundingDino(transformers_models.TransformersModel):
    """For each caption of a picture, its noun chunks with boxes."""

    auto_model = "AutoModelForZeroShotObjectDetection"

    def __init__(
        self, model: str, box: float = 0.35, text: float = 0.25, parser: str = "auto", revision: str = ""
    ) -> None:
        self.parser = Parser(parser)
        self.box, self.text = (
            transformers_models.number("grounding-dino", "box", box),
            transformers_models.number("grounding-dino", "text", text),
        )
        self.spec = Spec(
            "grounding-dino",
            transformers_models.version("grounding-dino"),
            produces=frozenset({"text_phrase_region", "region_text/object"}),
            requires=frozenset({"text/caption"}),
            batch_size=2,
            num_gpus=1,
        )
        self.config = {"box": self.box, "text": self.text, "parser": self.parser.weights_sha256}
        super().__init__(model, revision)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """Each caption of each picture, one at a time."""
        results: list[Result] = []
        for sample, image in zip(samples, images):
            regions: list[Region] = []
            groundings: list[Grounding] = []
            for text in sample.current().texts:
                if text.detail in CAPTION_DETAILS and text.text.strip():
                    self._ground(text, image, regions, groundings)
            results.append(Parsed(regions=tuple(regions), groundings=tuple(groundings)))
        return results

    def _ground(self, text: Text, image: np.ndarray, regions: list[Region], groundings: list[Grounding]) -> None:
        boxes, scores, tokens, offsets = self.detect(text.text, image)
        chunks = self.parser.noun_chunks(text.text)
        by_chunk: dict[NounChunk, list[int]] = {}
        phrase_scores: dict[NounChunk, float] = {}
        for k in np.argsort(-scores, kind="stable"):
            named = [(chunk, _score_of(chunk, tokens[k], offsets)) for chunk in chunks]
            chunk, score = max(named, key=lambda pair: pair[1], default=(None, 0.0))
            if chunk is not None and score > self.text:
                by_chunk.setdefault(chunk, []).append(int(k))
                phrase_scores[chunk] = max(score, phrase_scores.get(chunk, 0.0))
        for chunk in sorted(by_chunk, key=lambda c: c.start):
            found = [
                detected(i, boxes[k], chunk.text, float(scores[k])) for i, k in enumerate(by_chunk[chunk], len(regions))
            ]
            regions += found
            groundings.append(
                Grounding(
                    id=f"phrase-{len(groundings)}",
                    text_id=text.id,
                    phrase=chunk.text,
                    spans=((chunk.start, chunk.end),),
                    region_ids=tuple(r.id for r in found),
                    score=phrase_scores[chunk],
                )
            )

    def detect(
        self, caption: str, image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[tuple[int, int]]]:
        """Boxes (N, 4) above the floor, scores (N,), token scores (N, T), and the tokens' places in the caption."""
        import torch

        processor, model = self.loaded
        prompt = caption if caption.rstrip().endswith(".") else caption.rstrip() + "."
        inputs = processor(images=image, text=prompt, return_tensors="pt", truncation=True)
        offsets = processor.tokenizer(prompt, return_offsets_mapping=True, truncation=True)["offset_mapping"]
        with torch.inference_mode():
            outputs = model(**transformers_models.move(inputs, model.device))
        found = processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.box,
            text_threshold=self.text,
            target_sizes=transformers_models.sizes([image]),
        )[0]
        tokens = torch.sigmoid(outputs.logits[0])
        above = tokens.max(dim=-1).values > self.box  # the rows that post-processing keeps, in its order
        places = [(int(start), int(end)) for start, end in offsets]
        return found["boxes"].cpu().numpy(), found["scores"].cpu().numpy(), tokens[above].cpu().numpy(), places


def _score_of(chunk: NounChunk, tokens: np.ndarray, offsets: Sequence[tuple[int, int]]) -> float:
    inside = [float(tokens[t]) for t, (start, end) in enumerate(offsets) if chunk.start <= start < end <= chunk.end]
    return max(inside, default=0.0)

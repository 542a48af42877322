"""Open-vocabulary detection by OWLv2 or OWL-ViT: the labels are yours, given in a card.

specialist: owl
model: google/owlv2-base-patch16-ensemble
labels: [cat, dog, red umbrella]
score: 0.2
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists import transformers_models
from florence2.engine.specialists.found_regions import detected
from florence2.records import Parsed, Result, Sample

PROMPT = "a photo of a {}"


class Owl(transformers_models.TransformersModel):
    """Boxes of the labels asked for."""

    auto_model = "AutoModelForZeroShotObjectDetection"

    def __init__(self, model: str, labels: Sequence[str] = (), score: float = 0.2, revision: str = "") -> None:
        if not labels or isinstance(labels, str):
            raise ValueError(f"owl: labels: expected a list of phrases to detect, got {labels!r}; write them in a card")
        self.labels = [str(label) for label in labels]
        self.score = transformers_models.number("owl", "score", score)
        self.spec = Spec(
            "owl",
            transformers_models.version("owl"),
            produces=frozenset({"region_text/object"}),
            batch_size=2,
            num_gpus=1,
        )
        self.config = {"score": self.score, "labels": self.labels, "prompt": PROMPT}
        super().__init__(model, revision)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """The same queries for every picture."""
        import torch

        processor, model = self.loaded
        queries = [[PROMPT.format(label) for label in self.labels]] * len(images)
        longest = model.config.get_text_config().max_position_embeddings
        inputs = processor(
            text=queries,
            images=list(images),
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=longest,
        )
        with torch.inference_mode():
            outputs = model(**transformers_models.move(inputs, model.device))
        found = processor.post_process_grounded_object_detection(
            outputs,
            threshold=self.score,
            target_sizes=transformers_models.sizes(images),
            text_labels=[self.labels] * len(images),
        )
        return [
            Parsed(
                regions=tuple(
                    detected(i, box, label, float(score))
                    for i, (box, label, score) in enumerate(zip(one["boxes"], one["text_labels"], one["scores"]))
                )
            )
            for one in found
        ]

"""Object detection by a transformers model: RT-DETR, D-FINE, DETR with a transformers backbone, YOLOS, ..."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists import transformers_models
from florence2.engine.specialists.found_regions import detected
from florence2.records import Parsed, Result, Sample


class ObjectDetection(transformers_models.TransformersModel):
    """Boxes with the model's own labels and scores."""

    auto_model = "AutoModelForObjectDetection"
    auto_processor = "AutoImageProcessor"

    def __init__(self, model: str, score: float = 0.3, revision: str = "") -> None:
        self.score = transformers_models.number("detection", "score", score)
        self.spec = Spec(
            "detection",
            transformers_models.version("detection"),
            produces=frozenset({"region_text/object"}),
            batch_size=4,
            num_gpus=1,
        )
        self.config = {"score": self.score}
        super().__init__(model, revision)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One batch through the model and the library's own post-processing."""
        import torch

        processor, model = self.loaded
        with torch.inference_mode():
            outputs = model(
                **transformers_models.move(processor(images=list(images), return_tensors="pt"), model.device)
            )
        found = processor.post_process_object_detection(
            outputs, threshold=self.score, target_sizes=transformers_models.sizes(images)
        )
        names = model.config.id2label
        return [
            Parsed(
                regions=tuple(
                    detected(i, box, names[int(label)], float(score))
                    for i, (box, label, score) in enumerate(zip(one["boxes"], one["labels"], one["scores"]))
                )
            )
            for one in found
        ]

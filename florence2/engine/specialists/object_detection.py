"""Object detection by a transformers model: RT-DETR, D-FINE, DETR with a transformers backbone, YOLOS, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists import transformers_models
from florence2.records import Parsed, Region, Result, Sample


class ObjectDetection:
    """Boxes with the model's own labels and scores."""

    def __init__(self, model: str, score: float = 0.3, revision: str = "") -> None:
        self.model, self.revision = model, revision
        self.score = transformers_models.number("detection", "score", score)
        self.spec = Spec(
            "detection",
            transformers_models.version("detection"),
            produces=frozenset({"region_text/object"}),
            batch_size=4,
            num_gpus=1,
        )
        self.config = {"score": self.score}
        self.weights_sha256 = transformers_models.weights_sha256(model, revision)
        self._loaded: tuple[Any, Any] | None = None

    def setup(self, device: str) -> None:
        """Load the model and its image processor."""
        self._loaded = transformers_models.load(
            self.model, self.revision, device, "AutoModelForObjectDetection", "AutoImageProcessor"
        )

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One batch through the model and the library's own post-processing."""
        import torch

        assert self._loaded is not None, "setup comes before annotate"
        processor, model = self._loaded
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
                    region(i, box, names[int(label)], float(score))
                    for i, (box, label, score) in enumerate(zip(one["boxes"], one["labels"], one["scores"]))
                )
            )
            for one in found
        ]

    def close(self) -> None:
        """Drop the model."""
        self._loaded = None


def region(index: int, box: Any, label: str, score: float) -> Region:
    """A region of a tensor (4,) in pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    return Region(id=f"object-{index}", box=(x1, y1, x2, y2), label=label, score=score)

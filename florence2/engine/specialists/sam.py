"""Masks of boxes by SAM (Kirillov et al. 2023), each box a prompt; SAM 2's processor would need torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists import transformers_models
from florence2.engine.specialists.masks import mask_region
from florence2.records import Parsed, Result, Sample


class Sam(transformers_models.TransformersModel):
    """For each object box of a picture a mask that refines it, with the model's own estimate of its IoU as score."""

    auto_model = "AutoModelForMaskGeneration"

    def __init__(self, model: str, revision: str = "") -> None:
        self.spec = Spec(
            "sam",
            transformers_models.version("sam"),
            produces=frozenset({"region_text/mask"}),
            requires=frozenset({"region_text/object"}),
            batch_size=1,
            num_gpus=1,
        )
        self.config: dict[str, Any] = {}
        super().__init__(model, revision)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """All boxes of a picture are prompts of one pass."""
        results: list[Result] = []
        for sample, image in zip(samples, images):
            boxes = [
                r for r in sample.current().regions if r.kind == "object" and r.box and not r.refines and r.mask is None
            ]
            masks, scores = self.segment(image, [list(r.box) for r in boxes if r.box]) if boxes else ([], [])
            found = [mask_region(i, r, mask, score) for i, (r, mask, score) in enumerate(zip(boxes, masks, scores))]
            results.append(Parsed(regions=tuple(r for r in found if r is not None)))
        return results

    def segment(self, image: np.ndarray, boxes: Sequence[Sequence[float]]) -> tuple[list[np.ndarray], list[float]]:
        """A mask (H, W) bool and a score for each box."""
        import torch

        processor, model = self.loaded
        inputs = transformers_models.move(
            processor(images=image, input_boxes=[[list(box) for box in boxes]], return_tensors="pt"), model.device
        )
        with torch.inference_mode():
            outputs = model(**inputs, multimask_output=False)
        masks = processor.post_process_masks(
            outputs.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )[0]
        scores = outputs.iou_scores[0, :, 0].float().cpu().clamp(0, 1).tolist()
        return [mask[0].numpy().astype(bool) for mask in masks], scores

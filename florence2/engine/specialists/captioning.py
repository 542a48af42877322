"""Captions by an image-to-text model of transformers: BLIP, BLIP-2, GIT, ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.specialists import transformers_models
from florence2.records import CAPTION_DETAILS, Parsed, Result, Sample, Text


class Captioning(transformers_models.TransformersModel):
    """One text a picture; its score is exp of the mean log-probability of its tokens."""

    auto_model = "AutoModelForImageTextToText"

    def __init__(
        self, model: str, detail: str = "brief", prompt: str = "", max_new_tokens: int = 40, revision: str = ""
    ) -> None:
        if detail not in CAPTION_DETAILS:
            raise ValueError(f"captioning: detail: expected one of {', '.join(CAPTION_DETAILS)}, got {detail!r}")
        self.detail, self.prompt = detail, prompt
        self.max_new_tokens = int(transformers_models.number("captioning", "max_new_tokens", max_new_tokens, 1, 1024))
        produces = frozenset({f"text/{detail}"})
        self.spec = Spec(
            "captioning", transformers_models.version("captioning"), produces=produces, batch_size=4, num_gpus=1
        )
        self.config = {"detail": detail, "prompt": prompt, "max_new_tokens": self.max_new_tokens}
        super().__init__(model, revision)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One batch, greedy; a picture for which the model generates nothing gets no text."""
        import torch

        processor, model = self.loaded
        text = {"text": [self.prompt] * len(images)} if self.prompt else {}
        inputs = transformers_models.move(processor(images=list(images), **text, return_tensors="pt"), model.device)
        with torch.inference_mode():
            found = model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self.max_new_tokens,
                return_dict_in_generate=True,
                output_scores=True,
            )
            chances = model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
        captions = processor.batch_decode(found.sequences, skip_special_tokens=True)
        pad = getattr(processor.tokenizer, "pad_token_id", None)
        new = found.sequences[:, -chances.shape[1] :]
        return [self._parsed(caption, row[ids != pad]) for caption, row, ids in zip(captions, chances.cpu(), new.cpu())]

    def _parsed(self, caption: str, chances: Any) -> Parsed:
        caption = caption.strip()
        if not caption:
            return Parsed()
        score = float(chances.mean().exp()) if len(chances) else None
        return Parsed(texts=(Text(id="caption", text=caption, detail=self.detail, score=score),))

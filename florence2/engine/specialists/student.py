"""The student: any Florence-2 as one more specialist. That is what makes the loop a loop."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florence2.codec.answers import ItemSpan, parse_ids
from florence2.codec.tasks import task_of
from florence2.engine.operator import Spec
from florence2.engine.specialists.requirements import sha256_of
from florence2.records import Ask, Failure, Grounding, ImageRef, Parsed, Region, Result, Sample, Source

TASKS = ("<OD>", "<OCR_WITH_REGION>", "<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
SPREAD = 40  # location bins, 4 % of a side
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"  # asked of the student's own captions
PRODUCES = {
    "label": ("region_text/object",),
    "description": ("region_text/object", "region_text/description"),
    "box": ("region_text/object",),
    "text": ("region_text/ocr",),
    "caption": ("text_phrase_region",),
    "brief": ("text/brief",),
    "detailed": ("text/detailed",),
    "more_detailed": ("text/more_detailed",),
    "ocr": ("text/ocr",),
}  # what an answer is kept as (the task's rule) -> what the engine calls it
WHOLE = ("model.safetensors", "pytorch_model.bin")  # one file: its hash is the student's
SHARDS = ("model-*.safetensors", "pytorch_model-*.bin", "*.safetensors", "*.bin")


class StudentSpecialist:
    """Asks a model the tasks that need no input, and where GROUNDING is among them, its own captions' phrases."""

    def __init__(self, model: str, tasks: Sequence[str] = TASKS, batch_size: int = 16) -> None:
        self.model = model
        rows = [task_of(name) for name in tasks]
        wrong = [row.token for row in rows if row.input_kind and row.token != GROUNDING]
        if wrong:
            raise ValueError(f"student: {wrong[0]} needs an input; expected tasks without one, or {GROUNDING}")
        self._asks = [Ask(row.token) for row in rows if not row.input_kind]
        self._grounds = any(row.token == GROUNDING for row in rows)
        files = _weights(model)
        self.weights_sha256 = sha256_of(files) if files else hashlib.sha256(model.encode()).hexdigest()
        self.spec = Spec(
            "student",
            self.weights_sha256[:12],
            produces=frozenset(name for row in rows for name in PRODUCES[row.storage_rule]),
            batch_size=batch_size,
            source_kind="model",
        )
        self.config = {"tasks": [row.token for row in rows]}
        self._loaded: Any = None

    def setup(self, device: str) -> None:
        """Load the model."""
        from florence2 import predictor

        self._loaded = predictor.load(self.model, device=device)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """All answers about a picture as one Parsed, each item with the model's score."""
        answers = self._loaded.predict_many(list(images), self._asks, batch_size=self.spec.batch_size, on_error="yield")
        results: list[Result] = []
        for index, (sample, image, found) in enumerate(zip(samples, images, answers)):
            if isinstance(found, Failure):
                results.append(dataclasses.replace(found, index=index, id=sample.id, image=sample.image.uri))
                continue
            height, width = image.shape[:2]
            bare = Sample(sample.id, ImageRef(sample.image.id, width=width, height=height))
            for ask, answer in zip(self._asks, found):
                bare = self._add(bare, ask, answer)
            if self._grounds and bare.texts:
                asks = [Ask(GROUNDING, text=text.text, text_id=text.id) for text in bare.texts if text.text]
                for ask, answer in zip(asks, self._loaded.predict(image, asks)):
                    bare = self._add(bare, ask, answer)
            results.append(Parsed(bare.texts, bare.regions, bare.groundings))
        return results

    def _add(self, sample: Sample, ask: Ask, answer: Any) -> Sample:
        parsed = Parsed(answer.texts, answer.regions, answer.groundings, answer.truncated)
        if getattr(answer, "token_logprobs", ()):
            _, spans = parse_ids(answer.token_ids, self._loaded.tokenizer, ask.task, answer.size_wh, ask)
            parsed = rescore(parsed, spans, answer.token_logprobs)
        return task_of(ask.task).add(sample, ask, parsed, Source("model", self.spec.name, self.spec.version))

    def close(self) -> None:
        """Drop the model."""
        self._loaded = None


def rescore(parsed: Parsed, spans: Mapping[str, ItemSpan], logprobs: Sequence[float]) -> Parsed:
    """What has a place, scored on a detector's scale, where a score is about the share of such boxes that are right.

    The model's own score, a mean over tokens, is near 1 / SPREAD for a perfectly good box, since neighbouring bins
    share the probability; no threshold and no merging could hold it against a detector's.
    """

    def mean(positions: Sequence[int]) -> float:
        return math.exp(sum(logprobs[p] for p in positions) / len(positions)) if positions else 1.0

    def score(item: Region | Grounding) -> float | None:
        span = spans.get(item.id)
        if span is None or not span.location_tokens:
            return item.score
        return detection_confidence(mean(span.text_tokens), mean(span.location_tokens))

    return dataclasses.replace(
        parsed,
        regions=tuple(dataclasses.replace(region, score=score(region)) for region in parsed.regions),
        groundings=tuple(dataclasses.replace(grounding, score=score(grounding)) for grounding in parsed.groundings),
    )


def detection_confidence(name: float, place: float) -> float:
    """The geometric mean of how sure the name is and how sure the place within SPREAD bins, from mean probabilities.

    On held-out scenes nano's boxes are right as often as this says (`benchmarks/student_scores.py`).
    """
    return math.sqrt(min(1.0, name) * min(1.0, SPREAD * place))


def _weights(model: str) -> list[Path]:
    """The files whose hash names the student: of a folder, or of the model that comes with the package."""
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(__file__).parents[2] / "weights" / model
    if not folder.is_dir():
        return []
    whole = [folder / name for name in WHOLE if (folder / name).is_file()][:1]
    return whole or sorted({path for pattern in SHARDS for path in folder.glob(pattern)})

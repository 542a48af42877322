"""The student: any Florence-2 as one more specialist, so that refinement can repeat."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from florence2.codec.tasks import Task, known_tasks, task_of
from florence2.engine.operator import Spec
from florence2.engine.specialists.requirements import sha256_of
from florence2.engine.specialists.views import fused, views_of
from florence2.records import Ask, Failure, ImageRef, Parsed, Result, Sample, Source

TASKS = ("<OD>", "<OCR_WITH_REGION>", "<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
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
    "answer": ("text/answer",),
}  # storage rule of the task -> the family's name in the engine
WHOLE = ("model.safetensors", "pytorch_model.bin")  # one file: its hash is the student's
SHARDS = ("model-*.safetensors", "pytorch_model-*.bin", "*.safetensors", "*.bin")


class StudentSpecialist:
    """Asks a model the tasks that need no input, and where GROUNDING is among them, its own captions' phrases.

    With `labels` the names of objects are held to them. `more_above`: when answers go on (`predict`).
    `views`: objects are looked for in four views of the picture, and scored by how many of them agree (`views`).
    """

    def __init__(
        self,
        model: str,
        tasks: Sequence[str] = TASKS,
        batch_size: int = 16,
        labels: Sequence[str] = (),
        more_above: float | None = None,
        views: bool = False,
    ) -> None:
        self.model = model
        self.tasks = _tasks_of(model)
        rows = [task_of(name, self.tasks) for name in tasks]
        wrong = [row.token for row in rows if row.input_kind and row.token != GROUNDING]
        if wrong:
            raise ValueError(f"student: {wrong[0]} needs an input; expected tasks without one, or {GROUNDING}")
        if isinstance(labels, str) or not all(isinstance(label, str) and label.strip() for label in labels):
            raise ValueError(f"student: labels: expected a list of names, got {labels!r:.80}")
        held = tuple(labels)
        self.views = views
        self._how: Any = {} if more_above is None else {"more_above": more_above}
        self._asks = [Ask(row.token, labels=held if closed(row) else ()) for row in rows if not row.input_kind]
        self._grounds = any(row.token == GROUNDING for row in rows)
        self.weights_sha256 = weights_sha256_of(model)
        self.spec = Spec(
            "student",
            self.weights_sha256[:12],
            produces=frozenset(name for row in rows for name in PRODUCES[row.storage_rule]),
            batch_size=batch_size,
            source_kind="model",
            num_gpus=1,
        )
        self.config: dict[str, Any] = {"tasks": [row.token for row in rows], **({"labels": list(held)} if held else {})}
        if more_above is not None:
            self.config["more_above"] = more_above
        if views:
            self.config["views"] = True
        self._loaded: Any = None

    def setup(self, device: str) -> None:
        """Load the model."""
        from florence2 import predictor

        self._loaded = predictor.load(self.model, device=device)

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """All answers about a picture as one Parsed, each item with the model's score."""
        results: list[Result] = []
        for start in range(0, len(samples), self.spec.batch_size):
            end = start + self.spec.batch_size
            results += self._annotate(samples[start:end], images[start:end])
        return results

    def _annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """One batch: each picture is encoded once, for its asks and for the phrases of the captions it was given."""
        model = self._loaded
        encoded = model.encode_images(images)
        answers = model.answer([model.request(picture, self._asks, **self._how) for picture in encoded])
        bare = [
            Sample(sample.id, ImageRef(sample.image.id, width=image.shape[1], height=image.shape[0]))
            for sample, image in zip(samples, images)
        ]
        filled = [self._filled(*row) for row in zip(bare, [self._asks] * len(bare), answers)]
        if self.views:
            filled = [self._in_views(*row) for row in zip(filled, images)]
        captions = [[Ask(GROUNDING, text=text.text, text_id=text.id) for text in one.texts] for one in filled]
        asked = [n for n, asks in enumerate(captions) if asks and self._grounds]
        groundings = model.answer([model.request(encoded[n], captions[n]) for n in asked])
        for n, found in zip(asked, groundings):
            filled[n] = self._filled(filled[n], captions[n], found)
        return [
            dataclasses.replace(picture, index=n, id=sample.id, image=sample.image.uri)
            if isinstance(picture, Failure)
            else Parsed(one.texts, one.regions, one.groundings)
            for n, (picture, sample, one) in enumerate(zip(encoded, samples, filled))
        ]

    def _in_views(self, sample: Sample, image: np.ndarray) -> Sample:
        """The sample with its named objects those of all views of the picture, which it holds the first of."""
        asks = [ask for ask in self._asks if closed(task_of(ask.task, self.tasks))]
        named = [region for region in sample.regions if region.kind == "object" and not region.description]
        if not asks:
            return sample
        looks = views_of(image)
        encoded = self._loaded.encode_images([look.pixels for look in looks[1:]])
        answers = self._loaded.answer([self._loaded.request(one, asks, **self._how) for one in encoded])
        found = [[r for a in each if isinstance(a, Parsed) for r in a.regions] for each in answers]
        regions = [dataclasses.replace(r, id=f"object-{n}") for n, r in enumerate(fused(looks, [named, *found]))]
        rest = tuple(region for region in sample.regions if region not in named)
        return dataclasses.replace(sample, regions=(*regions, *rest))

    def _filled(self, sample: Sample, asks: Sequence[Ask], answers: Sequence[Result]) -> Sample:
        """The sample with the answers' items; an ask that the model cannot take (too long a caption) adds nothing."""
        source = Source("model", self.spec.name, self.spec.version)
        for ask, answer in zip(asks, answers):
            if isinstance(answer, Parsed):
                sample = task_of(ask.task, self.tasks).add(sample, ask, answer, source)
        return sample

    def close(self) -> None:
        """Drop the model."""
        self._loaded = None


def closed(task: Task) -> bool:
    """Whether a task's answers name kinds of objects, which a set of labels can hold it to."""
    return task.storage_rule == "label"


def weights_sha256_of(model: str) -> str:
    """The hash of a model's files; of a hub id that of its name."""
    files = _weights(model)
    return sha256_of(files) if files else hashlib.sha256(model.encode()).hexdigest()


def _tasks_of(model: str) -> dict[str, Task]:
    """The checkpoint's own table; of a model that would have to be fetched first, what is known without it."""
    if not _folder(model).is_dir():
        return known_tasks()
    from florence2.predictor import checkpoints

    return checkpoints.find(model).tasks()


def _folder(model: str) -> Path:
    """A folder, or that of a model which comes with the package."""
    return Path(model) if Path(model).is_dir() else Path(__file__).parents[2] / "weights" / model


def _weights(model: str) -> list[Path]:
    """The files whose hash names the student; none of a hub id."""
    folder = _folder(model)
    whole = [folder / name for name in WHOLE if (folder / name).is_file()][:1]
    return whole or sorted({path for pattern in SHARDS for path in folder.glob(pattern)})

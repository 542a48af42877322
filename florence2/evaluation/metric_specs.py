"""Which metrics judge which task: one row for each (answer kind, where its truth is kept) of the task table.

A row names its metrics, the task's main metric, and how an item and an answer are fed to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from florence2.codec.tasks import Task
from florence2.evaluation.eval_items import EvalItem
from florence2.labels import fold_spaces
from florence2.metrics.caption import Captions
from florence2.metrics.coco_ap import CocoDetection
from florence2.metrics.detection import DetectionF1
from florence2.metrics.grounding import GroundingRecall, Referring
from florence2.metrics.ocr import QuadWords, TextErrors, edit_distance
from florence2.metrics.qa import Answers
from florence2.metrics.segmentation import Segmentation
from florence2.records import Grounding, Parsed, Region

ERRORS = ("CER", "WER")  # lower is better

Feed = Callable[[Sequence[Any], EvalItem, Parsed], None]


@dataclass(frozen=True)
class MetricSpec:
    """How one kind of task is scored. `main` is its main metric; `keys` limits what is reported."""

    main: str
    metrics: tuple[Callable[[], Any], ...]
    feed: Feed
    keys: tuple[str, ...] = ()
    diagnosis: str = ""
    """What lies behind the scores: "boxes" (a curve, calibration), "labels" of boxes (their confusion too), "names"."""


def metric_spec_of(task: Task) -> MetricSpec:
    """The metric spec of a task, a user's own included."""
    if task.name == "VQA":
        return replace(METRIC_SPECS["text", "answer"], main="VQA_accuracy")
    return METRIC_SPECS[task.output_kind, task.storage_rule]


def metric_names(task: Task) -> list[str]:
    """The keys of a task's scores."""
    spec = metric_spec_of(task)
    every = dict.fromkeys(key for made in spec.metrics for key in made().compute())
    return [key for key in every if not spec.keys or key in spec.keys]


# ---- what an answer says ----------------------------------------------------------------------------------------


def words_of(parsed: Parsed) -> str:
    """An answer in words: its texts, else what its regions are called, a line each."""
    lines = [text.text for text in parsed.texts] or [r.label or r.description for r in parsed.regions]
    return "\n".join(lines)


def _described(regions: Sequence[Region]) -> list[Region]:
    """Regions named by their description, where they have one."""
    return [replace(region, label=region.description or region.label) for region in regions]


def _phrased(parsed: Parsed) -> Parsed:
    """An answer whose regions only bear labels, as groundings of those labels."""
    if parsed.groundings or not parsed.regions:
        return parsed
    regions = tuple(replace(region, id=f"r{n}") for n, region in enumerate(parsed.regions))
    phrases: dict[str, list[str]] = {}
    for region in regions:
        phrases.setdefault(region.label, []).append(region.id)
    groundings = tuple(Grounding(phrase=phrase, region_ids=tuple(ids)) for phrase, ids in phrases.items())
    return replace(parsed, regions=regions, groundings=groundings)


# ---- feeding ----------------------------------------------------------------------------------------------------


def _captions(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    metrics[0].update([words_of(truth) for truth in item.truths], words_of(found))


def _texts(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    """Of several true readings the one that is nearest by character errors counts."""
    found_text = words_of(found)
    readings = [words_of(truth) for truth in item.truths]
    if len(readings) > 1:
        readings.sort(key=lambda text: edit_distance(fold_spaces(text), fold_spaces(found_text)))
    metrics[0].update(readings[0], found_text)


def _boxes(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    truth = item.truths[0].regions
    metrics[0].update(truth, found.regions, image=item.sample.id)
    metrics[1].update(truth, found.regions)


def _descriptions(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    metrics[0].update(_described(item.truths[0].regions), _described(found.regions))


def _quads(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    truth = item.truths[0].regions
    metrics[0].update(truth, found.regions)
    lines = "\n".join(region.label for region in truth if not region.ignore)
    metrics[1].update(lines, "\n".join(region.label for region in found.regions))


def _phrases(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    metrics[0].update(item.truths[0], _phrased(found))


def _masks(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    size_wh = item.sample.image.size_wh
    if not all(size_wh):
        raise ValueError(f"{item.image}: its size is not known, so no mask can be drawn; put the picture in place")
    metrics[0].update(item.truths[0].regions, found.regions, size_wh)


def _queries(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    asked = item.ask.labels or (item.ask.text,)
    regions = [replace(r, label=r.label or asked[0]) for r in found.regions] if len(asked) == 1 else found.regions
    metrics[0].update(item.truths[0].regions, regions)
    if len(item.truths[0].regions) == 1 and len(asked) == 1:  # then it refers to one object
        metrics[1].update(item.truths[0].regions, regions)


def _answers(metrics: Sequence[Any], item: EvalItem, found: Parsed) -> None:
    metrics[0].update([words_of(truth) for truth in item.truths], words_of(found))


CAPTION = MetricSpec("CIDEr", (Captions,), _captions)
MASK = MetricSpec("mIoU", (Segmentation,), _masks)
CLASSLESS: Callable[[], Any] = lambda: CocoDetection(labels=False)  # noqa: E731

METRIC_SPECS: dict[tuple[str, str], MetricSpec] = {
    ("text", "brief"): CAPTION,
    ("text", "detailed"): CAPTION,
    ("text", "more_detailed"): CAPTION,
    ("text", "ocr"): MetricSpec("CER", (TextErrors,), _texts),
    ("text", "answer"): MetricSpec("ANLS", (Answers,), _answers),
    ("quads", "text"): MetricSpec("F1", (QuadWords, TextErrors), _quads),
    ("labelled_boxes", "label"): MetricSpec("AP", (CocoDetection, DetectionF1), _boxes, diagnosis="labels"),
    ("labelled_boxes", "description"): MetricSpec("labelled_F1", (DetectionF1,), _descriptions, diagnosis="labels"),
    ("boxes", "box"): MetricSpec("AP", (CLASSLESS, DetectionF1), _boxes, diagnosis="boxes"),
    ("phrases", "caption"): MetricSpec("recall_any", (GroundingRecall,), _phrases),
    ("polygons", "expression"): MASK,
    ("polygons", "region"): MASK,
    ("open_boxes", "query"): MetricSpec("F1", (DetectionF1, Referring), _queries),
    ("region_text", "label"): MetricSpec("accuracy", (Answers,), _answers, ("accuracy",), diagnosis="names"),
    ("region_text", "description"): CAPTION,
    ("region_text", "text"): MetricSpec("CER", (TextErrors,), _texts),
}

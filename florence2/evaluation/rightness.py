"""Which items of an answer are right: what a score is the probability of.

boxes      its name is a true box's that it overlaps by IoU 0.5 and that no surer one has taken
quads      the same, and it reads what the line says, to the letter
phrases    the phrase is true, and its first box lies on one of its true boxes (IoU 0.5)
outlines   the answer's mask overlaps the true one by IoU 0.5
texts      a reading or a person's answer, equal after white space is folded; a caption, none of whose words is
           missing from a true caption (facts, in drawn scenes; of people's captions it says little)
region     the answer about the region asked about, equal after case and white space are folded
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from florence2 import geometry
from florence2.codec.tasks import Task
from florence2.evaluation.eval_items import EvalItem
from florence2.labels import fold_label, fold_spaces
from florence2.metrics.detection import region_box
from florence2.metrics.segmentation import union_mask
from florence2.records import Parsed, Region

IOU = 0.5
_WORD = re.compile(r"\w+")


def right_items(task: Task, item: EvalItem, found: Parsed) -> dict[str, bool]:
    """Item id -> whether it is right, of each region, phrase or text of the answer that can be judged.

    What lies on ignored truth is left out.
    """
    return _RIGHT[task.output_kind](task, item, found)


def _name(task: Task, item: EvalItem, region: Region) -> str:
    if task.output_kind == "boxes":
        return ""
    if task.storage_rule == "description":
        return fold_label(region.description or region.label)
    if task.output_kind == "quads":
        return fold_spaces(region.label)
    asked = item.ask.labels or (item.ask.text,)
    return fold_label(region.label or (asked[0] if len(asked) == 1 else ""))


def _regions(task: Task, item: EvalItem, found: Parsed) -> dict[str, bool]:
    truth = item.truths[0].regions
    names = [_name(task, item, region) for region in truth]
    order = sorted(found.regions, key=lambda region: -(1.0 if region.score is None else region.score))
    overlaps = geometry.iou([region_box(r) for r in order], [region_box(t) for t in truth]) if truth else None
    free = set(range(len(truth)))
    out: dict[str, bool] = {}
    for number, region in enumerate(order):
        row = np.zeros(0) if overlaps is None else overlaps[number]
        near = [n for n in free if row[n] >= IOU and not truth[n].ignore and names[n] == _name(task, item, region)]
        if near:
            free.remove(max(near, key=lambda n: float(row[n])))
        elif any(truth[n].ignore and row[n] >= IOU for n in range(len(truth))):
            continue
        out[region.id] = bool(near)
    return out


def _phrases(task: Task, item: EvalItem, found: Parsed) -> dict[str, bool]:
    by_id = {region.id: region for region in item.truths[0].regions}
    true: dict[str, list[Region]] = {}
    for grounding in item.truths[0].groundings:
        true.setdefault(fold_label(grounding.phrase), []).extend(by_id[i] for i in grounding.region_ids)
    of_answer = {region.id: region for region in found.regions}
    out: dict[str, bool] = {}
    for grounding in found.groundings:
        boxes = [region_box(region) for region in true.get(fold_label(grounding.phrase), ())]
        for name in grounding.region_ids:
            hit = bool(boxes) and float(geometry.iou([region_box(of_answer[name])], boxes).max()) >= IOU
            out[name] = hit
            out.setdefault(grounding.id, hit)
    return out


def _outlines(task: Task, item: EvalItem, found: Parsed) -> dict[str, bool]:
    if not found.regions:
        return {}
    size_wh = item.sample.image.size_wh
    own, true = union_mask(found.regions, size_wh), union_mask(item.truths[0].regions, size_wh)
    right = bool((own & true).sum() >= IOU * max(1, (own | true).sum()))
    ids = [region.id for region in found.regions] + [grounding.id for grounding in found.groundings]
    return dict.fromkeys(ids, right)


def _texts(task: Task, item: EvalItem, found: Parsed) -> dict[str, bool]:
    true = [text.text for parsed in item.truths for text in parsed.texts]
    return {text.id: any(_same_text(task, text.text, other) for other in true) for text in found.texts}


def _same_text(task: Task, text: str, other: str) -> bool:
    if task.storage_rule == "ocr":
        return fold_spaces(text) == fold_spaces(other)
    if task.storage_rule == "answer":
        return fold_label(text) == fold_label(other)
    return set(_words(text)) <= set(_words(other))


def _words(text: str) -> Sequence[str]:
    return _WORD.findall(text.casefold())


def _region_text(task: Task, item: EvalItem, found: Parsed) -> dict[str, bool]:
    true = {fold_label(r.label or r.description) for parsed in item.truths for r in parsed.regions}
    return {region.id: fold_label(region.label or region.description) in true for region in found.regions}


_RIGHT: dict[str, Callable[[Task, EvalItem, Parsed], dict[str, bool]]] = {
    "labelled_boxes": _regions,
    "boxes": _regions,
    "open_boxes": _regions,
    "quads": _regions,
    "phrases": _phrases,
    "polygons": _outlines,
    "text": _texts,
    "region_text": _region_text,
}

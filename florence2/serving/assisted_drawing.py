"""Assisted drawing: a rough box is named and tightened, a thing that is clicked on is outlined, by the model's answers.

The asks are made here and the answers put together; who asks, and about which picture, is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from florence2 import geometry
from florence2.labels import fold_label
from florence2.records import Ask

SAME = 0.5  # IoU from which a box that the model gives is the one that was meant
NEAR = 0.12  # of the picture's longer side: the square around a click where the model finds no thing there
DETECT, NAME, OUTLINE = "<OD>", "<REGION_TO_CATEGORY>", "<REGION_TO_SEGMENTATION>"

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Suggestion:
    """What the model makes of a rough box or a click; an empty label where it names nothing."""

    label: str
    box: Box
    polygons: tuple[tuple[float, ...], ...] = ()
    score: float | None = None


def asks_about(box: Box, tasks: Collection[str]) -> list[Ask]:
    """What is asked about a rough box, of what the model can."""
    return [Ask(task, region=box if task != DETECT else ()) for task in (DETECT, NAME, OUTLINE) if task in tasks]


def detect(tasks: Collection[str]) -> list[Ask]:
    """What is asked about the whole picture before a click is looked at."""
    return [Ask(DETECT)] if DETECT in tasks else []


def tightened(box: Box, answers: Sequence[dict[str, Any]]) -> Suggestion:
    """A rough box by the model's answers: the object detected there, else what it outlines there and calls it."""
    of = {answer["task"]: answer for answer in answers}
    found = [region for region in of.get(DETECT, {}).get("regions", ()) if region.get("box")]
    overlaps = [_iou(box, region["box"]) for region in found]
    best = max(range(len(found)), key=overlaps.__getitem__, default=-1)
    if best >= 0 and overlaps[best] >= SAME:
        region = found[best]
        return Suggestion(region.get("label", ""), tuple(region["box"]), score=region.get("score"))
    outline = _outline(of)
    inside = geometry.polygon_box(*outline) if outline else box
    tight = inside if _iou(box, inside) >= SAME else box
    return Suggestion(_name(of), tight)


def thing_at(point: tuple[float, float], size_wh: tuple[int, int], answers: Sequence[dict[str, Any]]) -> Suggestion:
    """The smallest thing that is detected around a point, else a square around it without a name."""
    x, y = point
    regions = [r for answer in answers for r in answer.get("regions", ()) if r.get("box")]
    around = [r for r in regions if r["box"][0] <= x <= r["box"][2] and r["box"][1] <= y <= r["box"][3]]
    if around:
        region = min(around, key=lambda r: float(geometry.area(tuple(r["box"]))[0]))
        return Suggestion(region.get("label", ""), tuple(region["box"]), score=region.get("score"))
    half = NEAR * max(size_wh) / 2
    width, height = size_wh
    return Suggestion("", (max(0.0, x - half), max(0.0, y - half), min(width, x + half), min(height, y + half)))


def outlined(thing: Suggestion, answers: Sequence[dict[str, Any]]) -> Suggestion:
    """A thing with the outline that the model gives it, and its name where it has none yet.

    Of a thing that was detected the outline must fill the box, else the box is what is suggested.
    """
    of = {answer["task"]: answer for answer in answers}
    outline = _outline(of)
    if outline and thing.score is not None and _iou(geometry.polygon_box(*outline), thing.box) < SAME:
        outline = ()
    box = geometry.polygon_box(*outline) if outline else thing.box
    return Suggestion(thing.label or _name(of), box, outline, thing.score)


def known_label(label: str, labels: Collection[str]) -> str:
    """The label of the store that is the same word, else the model's own."""
    return next((known for known in labels if fold_label(known) == fold_label(label)), label)


def _outline(of: dict[str, dict[str, Any]]) -> tuple[tuple[float, ...], ...]:
    """The outline in an answer; a box where a model outlines by one."""
    regions = of.get(OUTLINE, {}).get("regions", ())
    found = tuple(tuple(part) for region in regions for part in region.get("polygons", ()) if len(part) >= 6)
    return found


def _name(of: dict[str, dict[str, Any]]) -> str:
    answer = of.get(NAME, {})
    named = [r.get("label") or r.get("description") or "" for r in answer.get("regions", ())]
    named += [text.get("text", "") for text in answer.get("texts", ())]
    return next((name.strip() for name in named if name.strip()), "")


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    return float(geometry.iou(geometry.as_boxes([tuple(a)]), geometry.as_boxes([tuple(b)]))[0, 0])

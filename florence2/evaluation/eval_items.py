"""Evaluation items: for a task the asks of every picture of a data set, each with all its true answers.

Joins samples and the task table; knows no model and no metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from florence2.codec.tasks import Task
from florence2.codec.truths import box_of, quad_of
from florence2.records import Ask, Parsed, Region, Sample

AskKey = tuple[str, str, tuple[str, ...], tuple[float, ...], str]  # task, text, labels, region, prompt
ItemKey = tuple[str, AskKey]  # the picture's name first


@dataclass(frozen=True)
class EvalItem:
    """One ask about one picture; `truths` are alternatives (five captions, ten people's answers)."""

    sample: Sample
    ask: Ask
    truths: tuple[Parsed, ...]

    @property
    def image(self) -> str:
        """The picture's name as the truth spells it."""
        return self.sample.image.id or self.sample.id

    @property
    def key(self) -> ItemKey:
        """What an answer is matched by."""
        return self.image, ask_key(self.ask)


def ask_key(ask: Ask) -> AskKey:
    """An ask without its local names; task without brackets, places to a thousandth of a pixel."""
    region = tuple(round(v, 3) for v in ask.region)
    return ask.task.strip("<>"), ask.text, tuple(ask.labels), region, ask.prompt


def eval_items_of(samples: Iterable[Sample], task: Task) -> list[EvalItem]:
    """Every ask that the samples hold the truth of, in order; equal asks of a picture are one."""
    out = []
    for sample in samples:
        asked: dict[AskKey, tuple[Ask, list[Parsed]]] = {}
        for ask, truth in _pairs(sample, task):
            asked.setdefault(ask_key(ask), (ask, []))[1].append(truth)
        out += [EvalItem(sample, ask, tuple(truths)) for ask, truths in asked.values()]
    return out


def _pairs(sample: Sample, task: Task) -> Sequence[tuple[Ask, Parsed]]:
    """The task's truths, and what training leaves out: for boxes and quads what is ignored (crowds, unreadable words),
    for questions the answers that are equal, since people are counted."""
    sample = sample.current()
    pairs = task.truths(sample)
    if task.output_kind in ("labelled_boxes", "boxes") and task.storage_rule in ("label", "box"):
        regions = _boxed(sample, named=task.storage_rule == "label")
        return [(Ask(task.token), Parsed(regions=tuple(regions)))] if pairs or regions else []
    if task.output_kind == "quads":
        ignored = [replace(r, quad=quad_of(r)) for r in sample.regions if r.kind == "text" and r.ignore and box_of(r)]
        readable = [region for _, truth in pairs for region in truth.regions]
        return [(Ask(task.token), Parsed(regions=(*readable, *ignored)))] if pairs or ignored else []
    if task.output_kind == "text" and task.storage_rule == "answer" and task.input_kind:
        texts = [t for t in sample.texts if t.detail == "answer" and t.question.strip()]
        return [(Ask(task.token, text=t.question), Parsed(texts=(t,))) for t in texts]
    return pairs


def _boxed(sample: Sample, named: bool) -> list[Region]:
    """Object regions with a box, ignored ones included, refinements of another left out."""
    present = {region.id for region in sample.regions if region.id}
    return [
        replace(region, box=box_of(region))
        for region in sample.regions
        if region.kind == "object"
        and box_of(region) is not None
        and (region.label.strip() or not named)
        and (not region.refines or region.refines not in present)
    ]

"""Evaluation items: for a task the asks of every picture of a data set, each with all its true answers.

Joins samples and the task table; knows no model and no metric.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from florence2.codec.tasks import Task
from florence2.records import Ask, Parsed, Sample

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
        for ask, truth in task.judged_truths(sample):
            asked.setdefault(ask_key(ask), (ask, []))[1].append(truth)
        out += [EvalItem(sample, ask, tuple(truths)) for ask, truths in asked.values()]
    return out


def check_keys(items: Iterable[EvalItem], where: str) -> None:
    """Refuse items that an answer could not distinguish: two records of one picture's name with the same ask."""
    seen: dict[ItemKey, EvalItem] = {}
    for item in items:
        other = seen.setdefault(item.key, item)
        if other is not item:
            raise ValueError(
                f"{where}: image {item.image!r:.200} has two records with the same ask (ids {other.sample.id!r:.60} "
                f"and {item.sample.id!r:.60}); answers are matched by that name: give each its own, or join them"
            )

"""How well a round's students agree with the labels of pictures that none of them was trained on. Knows samples only.

The labels are those of everything but models, as filters and people left them before sources were merged: the same
labels for every round, so that agreement rises as students get better and not as a store comes to hold their answers.
Labels may be wrong: as long as their errors are not the student's own, who is right more often agrees more often.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from florence2.metrics.detection import DetectionF1, f1, ratio
from florence2.records import Region, Sample, Text
from florence2.sources.splits import held_out

LEAST = 10  # pictures: of fewer no measure is taken, and none is kept out of training for it
MERGE = "merge"  # the rule, and the name of its rows


@dataclass(frozen=True)
class Agreement:
    """F1 of a round's answers beside the held-out labels: objects by name and place (IoU 0.5), lines of text by what
    they say and where, other texts by their words; `value` is their mean, each kind weighed by its `labels`."""

    pictures: int
    by_kind: Mapping[str, float]
    labels: Mapping[str, int]

    @property
    def value(self) -> float | None:
        """The mean over kinds; None where no label is held out."""
        total = sum(self.labels[kind] for kind in self.by_kind)
        return sum(value * self.labels[kind] for kind, value in self.by_kind.items()) / total if total else None


def holdout_of(image_ids: Iterable[str], share: float) -> float:
    """The share that is held out: none (0) where that would be fewer than LEAST pictures."""
    return share if share and sum(held_out(name, share) for name in image_ids) >= LEAST else 0.0


def agreement(samples: Iterable[Sample], share: float, runs: Iterable[str], asked: Collection[str]) -> Agreement:
    """The agreement of what the model's runs found with the labels, of samples with all items and verdicts.

    `asked`: the storage rules of the tasks that the model was asked (label, text, brief, ...); others are not compared.
    """
    of_round = set(runs)
    boxes = {"object": DetectionF1(), "text": DetectionF1()}
    words: Counter[str] = Counter()
    pictures = texts = 0
    for sample in samples:
        if not held_out(sample.image.id, share):
            continue
        pictures += 1
        labels = _kept(sample, lambda source: source.kind != "model" and source.name != MERGE)
        found = _kept(sample, lambda source: source.run_id in of_round)
        for kind, metric in boxes.items():
            metric.update(*([r for r in s.regions if r.kind == kind and not r.refines] for s in (labels, found)))
        texts += sum(text.detail in asked for text in labels.texts)
        words += _words(*([t for t in s.texts if t.detail in asked] for s in (labels, found)))
    counts = {kind: sum(row[0] for row in metric.rows) for kind, metric in boxes.items()}
    kinds = [("objects", "label", "object"), ("lines", "text", "text")]
    by_kind, numbers = dict[str, float](), dict[str, int]()
    for name, rule, kind in kinds:
        if rule in asked and counts[kind]:
            by_kind[name], numbers[name] = boxes[kind].compute()["labelled_F1"], counts[kind]
    if words["true"]:
        numbers["texts"] = texts
        by_kind["texts"] = f1(ratio(words["shared"], words["found"]), ratio(words["shared"], words["true"]))
    return Agreement(pictures, by_kind, numbers)


def _kept(sample: Sample, wanted: Callable[[Any], bool]) -> Sample:
    """The items of some sources that no rule but merging took away."""
    verdicts = {d.item_id: d.status for d in sample.decisions if d.rule != MERGE}

    def counts(item: Region | Text) -> bool:
        return bool(item.source and wanted(item.source)) and verdicts.get(item.id, "kept") == "kept"

    regions, texts = tuple(filter(counts, sample.regions)), tuple(filter(counts, sample.texts))
    return dataclasses.replace(sample, regions=regions, texts=texts, groundings=(), decisions=())


def _words(labels: Iterable[Text], found: Iterable[Text]) -> Counter[str]:
    """Words of the texts that labels hold, of the answers of the same length, and those of both."""
    true, said = _bags(labels), _bags(found)
    both = [(true[key], said.get(key, Counter())) for key in true]
    return Counter(
        true=sum(a.total() for a, _ in both),
        found=sum(b.total() for _, b in both),
        shared=sum((a & b).total() for a, b in both),
    )


def _bags(texts: Iterable[Text]) -> dict[tuple[str, str], Counter[str]]:
    """Of each length the words of its first text."""
    out: dict[tuple[str, str], Counter[str]] = {}
    for text in texts:
        out.setdefault((text.detail, text.question), Counter(text.text.lower().split()))
    return out

"""How well a round's students agree with the labels of pictures that none of them was trained on. Knows samples only.

The labels are those of everything but models, as filters left them before sources were merged, and what people drew
or confirmed, less what they took away: the same labels for every round, so that agreement rises as students get better
and not as a store comes to hold their answers. Labels may be wrong: as long as their errors are not the student's own,
who is right more often agrees more often.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from florence2.metrics.detection import DetectionF1, f1, ratio
from florence2.records import Region, Sample, Text
from florence2.sources.splits import held_out

Name = TypeVar("Name")

LEAST = 10  # pictures: of fewer no measure is taken, and none is kept out of training for it
MERGE = "merge"  # the rule, and the name of its rows
HUMAN = "human"  # the rule of people's verdicts
VOUCHED = (HUMAN, "import")  # kinds of sources that stand behind what they say
NOT_THERE = ("not_listed", "verified_absent", "deleted_before")  # merging's reasons that are a person's or a set's word


@dataclass(frozen=True)
class Agreement:
    """F1 of a round's answers beside the held-out labels: objects by name and place (IoU 0.5), lines of text by what
    they say and where, other texts by their words; `value` is their mean, each kind weighed by its `labels`."""

    pictures: int
    by_kind: Mapping[str, float]
    labels: Mapping[str, int]

    @property
    def is_measure(self) -> bool:
        """Whether it is of as many pictures as a measure needs."""
        return self.pictures >= LEAST

    @property
    def value(self) -> float | None:
        """The mean over kinds; None where no label is held out."""
        return self.over(self.by_kind)

    def over(self, kinds: Collection[str]) -> float | None:
        """The mean over some of the kinds."""
        shared = [kind for kind in self.by_kind if kind in kinds]
        total = sum(self.labels[kind] for kind in shared)
        return sum(self.by_kind[kind] * self.labels[kind] for kind in shared) / total if total else None


def holdout_of(image_ids: Iterable[str], share: float) -> float:
    """The share that is held out: none (0) where that would be fewer than LEAST pictures."""
    return share if share and sum(held_out(name, share) for name in image_ids) >= LEAST else 0.0


def agreement(samples: Iterable[Sample], share: float, runs: Iterable[str], asked: Collection[str]) -> Agreement:
    """The agreement of what the model's runs found with the labels, of samples with all items and verdicts.

    `asked`: the storage rules of the tasks that the model was asked (label, text, brief, ...); others are not compared.
    """
    return agreements(samples, share, {0: runs}, asked)[0]


def agreements(
    samples: Iterable[Sample],
    share: float,
    runs: Mapping[Name, Iterable[str]],
    asked: Collection[str],
    without: Mapping[Name, Collection[str]] = MappingProxyType({}),
) -> dict[Name, Agreement]:
    """The agreement of several sets of runs with the same labels, by their names.

    `without`: the ids of pictures that are not counted, by the same names.
    """
    sums = {name: _Sums(set(of_name), asked) for name, of_name in runs.items()}
    for sample in samples:
        if held_out(sample.image.id, share):
            labels = labels_of(sample)
            for name, each in sums.items():
                if sample.image.id not in without.get(name, ()):
                    each.add(labels, sample)
    return {name: each.result() for name, each in sums.items()}


class _Sums:
    """One round's answers beside the labels, picture by picture."""

    def __init__(self, runs: set[str], asked: Collection[str]) -> None:
        self.runs, self.asked = runs, asked
        self.boxes = {"object": DetectionF1(), "text": DetectionF1()}
        self.words: Counter[str] = Counter()
        self.pictures = self.texts = 0

    def add(self, labels: Sample, sample: Sample) -> None:
        """Compare one picture's answers with its labels."""
        found = _kept(sample, lambda item: item.source.run_id in self.runs, (MERGE, HUMAN))  # as it was said
        self.pictures += 1
        for kind, metric in self.boxes.items():
            metric.update(*([r for r in s.regions if r.kind == kind and not r.refines] for s in (labels, found)))
        self.texts += sum(text.detail in self.asked for text in labels.texts)
        self.words += _words(*([t for t in s.texts if t.detail in self.asked] for s in (labels, found)))

    def result(self) -> Agreement:
        """The agreement over all pictures."""
        counts = {kind: sum(row[0] for row in metric.rows) for kind, metric in self.boxes.items()}
        by_kind, numbers = dict[str, float](), dict[str, int]()
        for name, rule, kind in (("objects", "label", "object"), ("lines", "text", "text")):
            if rule in self.asked and counts[kind]:
                by_kind[name], numbers[name] = self.boxes[kind].compute()["labelled_F1"], counts[kind]
        if self.words["true"]:
            numbers["texts"] = self.texts
            shared = self.words["shared"]
            by_kind["texts"] = f1(ratio(shared, self.words["found"]), ratio(shared, self.words["true"]))
        return Agreement(self.pictures, by_kind, numbers)


def labels_of(sample: Sample) -> Sample:
    """What the answers of a picture are held against.

    An item that merging replaced is the label that it was, unless what stands in its place is a person's or a set's, or
    was taken away or confirmed by a person: then that is the label.
    """
    last = {d.item_id: d for d in sample.decisions}
    peoples = {d.item_id: d.status for d in sample.decisions if d.rule == HUMAN}
    items: tuple[Region | Text, ...] = (*sample.regions, *sample.texts)
    vouched = {item.id for item in items if item.source and item.source.kind in VOUCHED}

    def counts(item: Region | Text) -> bool:
        if peoples.get(item.id) == "kept" or item.id in vouched:
            return True
        verdict, seen = last.get(item.id), set[str]()
        if verdict is not None and verdict.rule == MERGE and verdict.reason in NOT_THERE:
            return False
        while verdict is not None and verdict.status == "superseded" and verdict.by_id not in ("", *seen):
            if verdict.by_id in peoples or verdict.by_id in vouched:
                return False
            seen.add(verdict.by_id)
            verdict = last.get(verdict.by_id)
        return item.source.kind != "model" and item.source.name != MERGE  # type: ignore[union-attr]

    return _kept(sample, counts)


def _kept(sample: Sample, wanted: Callable[[Any], bool], but: Collection[str] = (MERGE,)) -> Sample:
    """The items of some sources that no rule but these took away."""
    verdicts = {d.item_id: d.status for d in sample.decisions if d.rule not in but}

    def counts(item: Region | Text) -> bool:
        return bool(item.source and verdicts.get(item.id, "kept") == "kept" and wanted(item))

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

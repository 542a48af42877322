"""What the reader of a set refused when the set was opened, brought to the samples that lost it. Knows no pixels."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from florence2.codec.tasks import Task
from florence2.formats.parts import part_of, part_of_folder
from florence2.formats.problems import picture_key
from florence2.records import Sample
from florence2.training.datasets import SampleSource


class ReaderLosses:
    """The refused lines of a source: labels by the picture that lost them, and those of no sample."""

    def __init__(self, source: SampleSource) -> None:
        self._source = source
        self._labels: dict[str, list[str]] = defaultdict(list)
        self._others: list[str] = []
        self._splits: set[str] = set()
        for line in source.refused:
            picture = source.unread.parts.get(line, "")
            (self._labels[picture] if picture else self._others).append(line)

    def of(self, sample: Sample) -> list[str]:
        """The lines about a sample's labels, each once; those of every sample are to be asked for."""
        self._splits.add(sample.split)
        return self._labels.pop(picture_key(sample.image.uri, sample.image.member), [])

    def rest(self, whole: bool) -> list[str]:
        """The lines about no sample that was asked for, those of the set's other parts left out; of a set that was not
        read `whole` the labels of the other samples are not among them."""
        unmet = [line for lines in self._labels.values() for line in lines] if whole else []
        return [line for line in (*self._others, *unmet) if self._of_split(line)]

    def is_part(self, line: str) -> bool:
        """Whether a record stays without what the line is about."""
        return line in self._source.unread.parts

    def _of_split(self, line: str) -> bool:
        """Whether a line may be about the part that is trained on: its file's folder or name tells, where the set has
        parts at all."""
        split, named = self._source.source.split, self._splits - {""}
        if not split or not named:
            return True
        below = Path(os.path.relpath(line.partition(": ")[0], self._source.source.path))
        if ".." in below.parts:
            return True
        part = next(filter(None, map(part_of_folder, below.parents)), "") or part_of(below.name)
        if part == "val" and "val" not in named:
            part = "test"  # a set without a test part is tested on its val part
        return part in ("", split)


def of_places(task: Task) -> bool:
    """Whether a task asks for, or is told, places in the picture or what is written there."""
    return task.output_kind != "text" or task.input_kind == "region" or task.storage_rule == "ocr"

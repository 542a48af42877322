"""Samples by position in memory that does not grow with the set, whatever they are stored as.

A store is read through its random access, JSON Lines through the places of its lines. Any other format is read once,
in order: where its label files are large into a file of records that later runs find again, else beyond the first
`HELD` samples into a temporary file.
"""

from __future__ import annotations

import pickle
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import sources
from florence2.codec.tasks import Task
from florence2.formats import jsonl
from florence2.formats.lookup import Lookup, matching
from florence2.formats.problems import ReadProblems
from florence2.records import Sample
from florence2.sources import record_files, scenes
from florence2.sources.record_files import line_spans
from florence2.store import Store
from florence2.training.config import DataSource

HELD = 10_000  # samples of a foreign format that are held in memory


def open_samples(
    source: DataSource, problems: ReadProblems, tasks: Mapping[str, Task] | None = None
) -> Sequence[Sample]:
    """The samples of a source, of all its splits; a foreign format's bad records are collected in `problems`."""
    if source.samples is not None:
        return source.samples.read(tasks) if isinstance(source.samples, UnreadRows) else source.samples
    path = sources.located(source.path)
    format = source.format or sources.format_of(path)
    if source.snapshot is not None and format != "store":
        raise ValueError(f"data: {source.path}: snapshot: {source.snapshot}: goes with a store; this is {format}")
    if format == "store":
        return Store(path).random(source.snapshot)
    if format == "jsonl":
        return LineSamples(path, source.images or None, problems)
    if record_files.is_large(path, format):
        return record_files.record_file(path, format, source.images or None, problems, tasks)
    return SpilledSamples(sources.open(path, None, format, None, source.images or None, problems, tasks))


def holds_prompts(source: DataSource) -> bool:
    """Whether a source is of rows of prompts and answers, whose questions are whole prompts."""
    if source.samples is not None or source.path.startswith(scenes.PREFIX):
        return isinstance(source.samples, UnreadRows) and source.samples.prompts
    return (source.format or sources.format_of(source.path)) in ("prefix_suffix", "swift")


@dataclass(frozen=True)
class UnreadRows:
    """Rows given from Python, to be read by the table of tasks of the model that is trained."""

    read: Callable[[Mapping[str, Task] | None], Sequence[Sample]]
    prompts: bool = False
    """Whether each is of (picture, prompt, answer), whose questions are whole prompts."""


class LineSamples(Sequence[Sample]):
    """The samples of JSON Lines: where each line begins is known, a line is parsed when it is asked for."""

    def __init__(
        self, path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
    ) -> None:
        path = Path(path)
        self.problems = problems or ReadProblems()
        self.files = matching(path, "*.jsonl") if path.is_dir() else [path]
        if not self.files:
            raise ValueError(f"{path}: holds no .jsonl file")
        folders = [Path(images) if images else file.parent for file in self.files]
        self._lookups = [Lookup(folder, [folder], anywhere=True) for folder in folders]
        self._spans = [line_spans(file) for file in self.files]
        self._starts = np.concatenate([[0], np.cumsum([len(spans) for spans in self._spans])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number = bisect_right(self._starts, index) - 1
        start, end, line = self._spans[number][index - self._starts[number]].tolist()
        file = self.files[number]
        with open(file, "rb") as opened:
            opened.seek(start)
            data = opened.read(end - start)
        where = f"{file}:{line}"
        try:
            text = data.decode("utf-8-sig" if line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where}: expected UTF-8 ({error.reason})") from None
        return jsonl.parse_line(text, where, self._lookups[number], self.problems)


class SpilledSamples(Sequence[Sample]):
    """Samples read once, in order: the first ones held, the others in a temporary file, read back by their place."""

    def __init__(self, samples: Iterable[Sample], held: int = HELD) -> None:
        samples = iter(samples)
        self._held = list(islice(samples, held))
        starts = []
        self._file = tempfile.TemporaryFile(prefix="florence2-samples-")
        for sample in samples:
            starts.append(self._file.tell())
            pickle.dump(sample, self._file, protocol=pickle.HIGHEST_PROTOCOL)
        self._starts = np.asarray(starts, np.int64)

    def __len__(self) -> int:
        return len(self._held) + len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < len(self._held):
            return self._held[index]
        self._file.seek(int(self._starts[index - len(self._held)]))
        return pickle.load(self._file)

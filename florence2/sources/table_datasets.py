"""Hugging Face data sets on disk as samples: Parquet or Arrow files with a column of pictures and columns of labels.

    question (query), answers (answer)       DocVQA as HuggingFaceM4/DocumentVQA has it: a Text for each answer
    prefix, suffix                           as in JSON Lines
    caption, captions, text                  brief captions
    objects: {bbox, category or label}       boxes as left, top, width, height; names from the features of the file

A row is a sample; its picture stays in its cell. Other columns are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from florence2 import pixels
from florence2.codec.tasks import Task
from florence2.formats import validation
from florence2.formats.frames import Frame
from florence2.formats.lookup import files_in
from florence2.formats.parts import part_of
from florence2.formats.problems import LostObjects, ReadProblems, picture_key
from florence2.records import Coverage, ImageRef, Region, Sample, Source, Text
from florence2.sources import tables
from florence2.sources.prompt_pairs import with_pair

SOURCE = Source("import", "parquet")
SPACE = "objects"
ReadSize = Callable[[], tuple[int, int]]  # the upright width and height of a row's picture
QUESTIONS, ANSWERS = ("question", "query"), ("answers", "answer", "label")
CAPTIONS = ("caption", "captions", "text", "sentences")


def is_labelled(path: Path) -> bool:
    """Whether a path is a table of pictures with labels, or a folder that holds one."""
    try:
        return any(_columns(file)[1] for file in _files(path)[:1])
    except ValueError:
        return False


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return files_in(path, tables.SUFFIXES, deep=True)
    return [path] if tables.is_table(path) and path.is_file() else []


def _columns(file: Path) -> tuple[str, list[str]]:
    """The column of pictures, and those of labels; ("", []) where there is no picture."""
    found, _ = tables.picture_columns(file)
    names = tables.column_names(file)
    asked = any(name in names for name in QUESTIONS) and any(name in names for name in ANSWERS)
    wanted = [*(QUESTIONS + ANSWERS if asked else ()), *CAPTIONS, "objects"]
    wanted += ["prefix", "suffix"] if {"prefix", "suffix"} <= set(names) else []
    return (found[0], [name for name in wanted if names.count(name) == 1]) if found else ("", [])


def read(
    path: str | Path,
    images: str | Path | None = None,
    problems: ReadProblems | None = None,
    tasks: Mapping[str, Task] | None = None,
) -> Iterator[Sample]:
    """A sample for each row; `split` is what the file's name or folder states."""
    path, problems = Path(path), problems or ReadProblems()
    files = _files(path)
    if not files:
        raise ValueError(f"{path}: holds no .parquet or .arrow file")
    for file in files:
        with problems.record():
            column, labels = _columns(file)
            if not labels:
                raise ValueError(f"{file}: has no column of pictures beside one of labels")
            yield from _Table(file, path, column, labels, problems, tasks).samples()


class _Table:
    """One file's rows."""

    def __init__(
        self,
        file: Path,
        root: Path,
        column: str,
        labels: Sequence[str],
        problems: ReadProblems,
        tasks: Mapping[str, Task] | None,
    ) -> None:
        self.file, self.column, self.labels, self.problems = file, column, labels, problems
        below = file.relative_to(root).parts if root.is_dir() else (file.name,)
        self.part = part_of("/".join(below))
        self.name = "/".join(below)
        self.rows = RowLabels(tables.class_names(file), SOURCE, problems, tasks)

    def samples(self) -> Iterator[Sample]:
        """Each row's sample; one whose labels are bad keeps its picture."""
        columns = {name: tables.column(self.file, name) for name in self.labels}
        cells = tables.listed(self.file, [self.column])
        if any(len(values) != len(cells) for values in columns.values()):
            raise ValueError(f"{self.file}: not a whole table: its columns differ in length")
        for n, cell in enumerate(cells):
            where = f"{self.file}: row {n}"
            image = ImageRef(id=f"{self.name}/{n}", uri=str(self.file), member=cell.member, licence=cell.licence)
            row = {name: values[n] for name, values in columns.items()}
            with self.problems.record():
                sample = Sample(f"{self.name}/{n}", image, split=self.part)
                yield self.rows.sample(sample, row, where, partial(self._size, image.member, where))

    def _size(self, member: str, where: str) -> tuple[int, int]:
        try:
            data = tables.read_cell(self.file, member)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return pixels.read_size(data or b"", where)


class RowLabels:
    """What the columns of a row say of its picture.

    `classes` are the names of numbered classes by column, such as {"objects.category": ("cat", "dog")}.
    """

    def __init__(
        self,
        classes: Mapping[str, Sequence[str]],
        source: Source,
        problems: ReadProblems,
        tasks: Mapping[str, Task] | None,
    ) -> None:
        self.classes, self.source, self.problems, self.tasks = classes, source, problems, tasks

    def sample(self, sample: Sample, row: Mapping[str, Any], where: str, read_size: ReadSize) -> Sample:
        """The sample with what a row says of its picture, whose size is read where something is placed on it."""
        texts = [*self._answers(row, where), *self._captions(row, where)]
        placed = row.get("objects") is not None or "<loc_" in str(row.get("suffix") or "")
        image = sample.image
        regions: tuple[Region, ...] = ()
        coverage: dict[str, tuple[Coverage, ...]] = {}
        if placed:
            size_wh = read_size()
            image = dataclasses.replace(image, width=size_wh[0], height=size_wh[1])
            if row.get("objects") is not None:
                frame, lost = Frame(Path(image.uri), where, size_wh, size_wh), LostObjects(self.problems)
                lost.on(picture_key(image.uri, image.member))
                regions = frame.place(self._objects(row["objects"], where, lost), lost)
                coverage = lost.withdraw({SPACE: (Coverage("exhaustive"),)}, SPACE, regions)
        sample = Sample(sample.id, image, tuple(texts), regions, split=sample.split, coverage=coverage)
        if row.get("prefix") is not None:
            prefix = validation.word(row["prefix"], f"{where}: prefix")
            suffix = validation.word(row.get("suffix"), f"{where}: suffix", empty=True)
            with self.problems.record():
                sample = with_pair(sample, prefix, suffix, self.source, where, self.problems, self.tasks)
        return sample

    def _answers(self, row: Mapping[str, Any], where: str) -> Iterator[Text]:
        key = next((name for name in QUESTIONS if row.get(name) is not None), None)
        if key is None:
            return
        asked = row[key]
        if isinstance(asked, Mapping):  # {"en": ..., "de": ...}: the English one
            asked = asked.get("en")
        question = validation.word(asked, f"{where}: {key}")
        given: Any = next((row[name] for name in ANSWERS if row.get(name) is not None), [])
        for n, answer in enumerate(given if isinstance(given, list) else [given]):
            with self.problems.record():
                text = validation.word(answer, f"{where}: answers", empty=True)
                yield Text(f"a{n}", text, "answer", question, source=self.source)

    def _captions(self, row: Mapping[str, Any], where: str) -> Iterator[Text]:
        key = next((name for name in CAPTIONS if row.get(name) is not None), None)
        given: Any = row[key] if key else []
        for n, caption in enumerate(given if isinstance(given, list) else [given]):
            with self.problems.record():
                yield Text(f"t{n}", validation.sentence(caption, f"{where}: {key}"), source=self.source)

    def _objects(self, objects: Any, where: str, lost: LostObjects) -> list[tuple[str, Region]]:
        place = f"{where}: objects"
        boxes = validation.rows(objects, "bbox", place)
        key = next((name for name in ("category", "categories", "label", "labels") if name in objects), "category")
        labels = validation.rows(objects, key, place)
        if len(labels) != len(boxes):
            raise ValueError(f"{place}: {len(boxes)} of bbox, {len(labels)} of {key}; expected as many")
        names = self.classes.get(f"objects.{key}", ())
        out = []
        for n, (box, label) in enumerate(zip(boxes, labels)):
            with lost.object():
                if isinstance(label, int) and names:
                    if not 0 <= label < len(names):
                        raise ValueError(f"{place}: {key}: {label} is not among the {len(names)} classes")
                    label = names[label]
                corners = validation.box_from_xywh(box, f"{place}: bbox")
                label = validation.word(label, f"{place}: {key}")
                out.append((f"{place}[{n}]", Region(f"r{n}", "object", corners, label, SPACE, source=self.source)))
        return out

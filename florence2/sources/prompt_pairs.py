"""Rows of (picture, prompt, answer) as samples, and the fine-tuning sets that hold such rows as JSON Lines.

    image, prefix, suffix          train/ valid/ test/, each with a .jsonl and its pictures (maestro, Roboflow's export)

A prompt is a task's token with its input, or the sentence that the token means; any other is kept as the question
of its answer, word for word (`<DocVQA>How many?`), and trained on as the prompt. All rows of one picture are one
sample.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from florence2.codec.answers import parse, render
from florence2.codec.locations import dequantize
from florence2.codec.tasks import INPUT, TASKS, Task, ask_of, known_tasks, prompt_text, task_of
from florence2.formats import documents, validation
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, files_in
from florence2.formats.parts import part_folders, part_of, part_of_folder
from florence2.formats.problems import ReadProblems
from florence2.records import Ask, Coverage, Parsed, Sample, Source, Text
from florence2.structuring import parse_json

_LOCATION = re.compile(r"<loc_(\d+)>")
_FRAME = re.compile(r"^(?:<s>)+|(?:</s>|<pad>)+$")
_TOKEN = re.compile(r"<[A-Za-z][A-Za-z0-9_-]*>")


def with_pair(
    sample: Sample,
    prompt: str,
    answer: str,
    source: Source,
    where: str,
    problems: ReadProblems,
    tasks: Mapping[str, Task] | None = None,
) -> Sample:
    """The sample with one pair's annotations; ValueError where the answer is none of the prompt's task.

    Of an answer that fits in part the part is taken and the rest refused. `tasks`: a model's table, else known rows.
    """
    try:
        return _with_pair(sample, prompt, answer, source, where, problems, known_tasks() if tasks is None else tasks)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def _with_pair(
    sample: Sample,
    prompt: str,
    answer: str,
    source: Source,
    where: str,
    problems: ReadProblems,
    tasks: Mapping[str, Task],
) -> Sample:
    ask = ask_for(prompt, tasks)
    task = task_of(ask.task, tasks)
    answer = _FRAME.sub("", answer.strip()).strip()
    if task.output_kind == "text":
        if not answer:
            raise ValueError("answer: expected text, got an empty one")
        if task.token not in TASKS:
            if _LOCATION.search(answer):
                raise ValueError(
                    "answer: places of a task that is not known; name the model whose table has it, or register it: "
                    f"{validation.brief(prompt)}"
                )
            if task.storage_rule == "answer":
                ask = Ask(ask.task, text=prompt_text(ask, (0, 0), tasks))
        return task.add(sample, ask, Parsed(texts=(Text(text=answer),)), source)
    size_wh = sample.image.size_wh
    if not all(size_wh):
        raise ValueError("the picture's size is needed for its places; put the picture in place")
    if task.input_kind == "region":
        places = [int(place) for place in _LOCATION.findall(ask.text)]
        if len(places) < 4 or len(places) % 2 or max(places) > 999:
            raise ValueError(f"prompt: expected a region as four locations, got {validation.brief(ask.text)}")
        ask = dataclasses.replace(ask, text="", region=dequantize(places, size_wh))
    parsed = parse(answer, task, size_wh, ask)
    kept = len(_LOCATION.findall(render(parsed, task, size_wh, ask)))
    wanted = len(_LOCATION.findall(answer))
    whole = kept == wanted and (wanted or not answer)
    if not whole:
        shown = validation.brief(answer)
        error = ValueError(f"{where}: answer: {wanted} locations, of which {kept} fit {task.name}: {shown}")
        if not kept:
            raise error
        problems.refuse(error, part=True)
    added = task.add(sample, ask, parsed, source)
    if task.storage_rule == "label" and task.output_kind == "labelled_boxes":
        claim = Coverage("exhaustive" if whole else "partial")
        added = dataclasses.replace(added, coverage={**added.coverage, "": (claim,)})
    return added


def ask_for(prompt: str, tasks: Mapping[str, Task] | None = None) -> Ask:
    """The Ask of a prompt: of a token, of the sentence that means one, or else a prompt of its own."""
    prompt = prompt.strip()
    for token, task in TASKS.items():
        head, _, tail = task.prompt.partition(INPUT)
        inner = len(prompt) - len(head) - len(tail)
        if prompt == task.prompt or (
            task.input_kind and inner > 0 and prompt.startswith(head) and prompt.endswith(tail)
        ):
            return Ask(token, text=prompt[len(head) : len(head) + inner] if task.input_kind else "")
    table = known_tasks() if tasks is None else tasks
    ask = ask_of(prompt, table)
    if ask.task:
        return Ask(ask.task, text=ask.text.strip())
    unknown = _TOKEN.match(prompt)
    meant = {token.casefold(): token for token in table}.get(unknown[0].casefold()) if unknown else None
    if unknown and meant:
        raise ValueError(f"prompt: unknown task {unknown[0]}; write {meant}")
    return Ask(text=prompt)


class Collected:
    """Samples by picture, growing with each row."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str], Sample] = {}

    def start(self, name: str, part: str, picture: Path, where: str) -> tuple[str, str]:
        """The key of a picture's sample."""
        key = (part, str(picture))
        if key not in self.samples:
            image = Frame.of(picture, (0, 0), where).image(name)
            self.samples[key] = Sample(f"{part}/{name}" if part else name, image, split=part)
        return key


def read_prefix_suffix(
    path: str | Path,
    images: str | Path | None = None,
    problems: ReadProblems | None = None,
    tasks: Mapping[str, Task] | None = None,
) -> Iterator[Sample]:
    """Rows of image, prefix and suffix; `split` is the name of their folder or file."""
    problems, source = problems or ReadProblems(), Source("import", "prefix_suffix")
    found = Collected()
    for file, part, lookup in files_of(Path(path), images):
        for where, row in rows_of(file, problems):
            with problems.record():
                name = validation.word(validation.field(row, "image", where), f"{where}: image")
                prefix = validation.word(validation.field(row, "prefix", where), f"{where}: prefix")
                suffix = validation.word(validation.field(row, "suffix", where), f"{where}: suffix", empty=True)
                key = found.start(name, part, lookup.picture(name, f"{where}: image"), where)
                found.samples[key] = with_pair(found.samples[key], prefix, suffix, source, where, problems, tasks)
    yield from found.samples.values()


def files_of(path: Path, images: str | Path | None) -> Iterator[tuple[Path, str, Lookup]]:
    """The .jsonl files of a set, each with the part that its folder or name states and where its pictures are."""
    for file in _files(path):
        part = (part_of_folder(file.parent) if file.parent != path else "") or part_of(file.stem)
        folders = [Path(images)] if images else [file.parent, file.parent / "images"]
        yield file, part, Lookup(file.parent, folders, images)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [file for folder in (path, *part_folders(path)) for file in files_in(folder, (".jsonl",))]


def rows_of(file: Path, problems: ReadProblems) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a .jsonl file, each with its place."""
    lines: list[str] = []
    with problems.record():
        lines = documents.read_text(file).split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            with problems.record():
                where = f"{file}:{number}"
                yield where, validation.record(documents.parse_json(line, where), where)


def begins_with(path: Path, *keys: str) -> bool:
    """Whether the first row that can be read of a set's first .jsonl file that has one holds all of these keys."""
    if not (path.is_dir() or path.suffix.lower() == ".jsonl"):
        return False
    for file in _files(path):
        for line in documents.beginning(file, 1 << 20).splitlines():
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                return set(keys) <= set(row)
    return False

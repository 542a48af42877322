"""Captions of a folder of pictures: NAME.txt beside each, or a metadata.jsonl as Hugging Face's ImageFolder reads it.

What is done is noted in a journal in the folder until all is: the same command goes on where it was interrupted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from florence2.atomic_files import write_atomic
from florence2.labels import fold_spaces
from florence2.records import Failure
from florence2.structuring import parse_json

JOURNAL, METADATA = ".captions.jsonl", "metadata.jsonl"
_NUMBER = re.compile(r"[-+.\deE]+")
FORMS = ("txt", "jsonl")


class CaptionFolder:
    """The captions of one folder, as one command writes them; `job` is what the command asks for."""

    def __init__(self, folder: Path, form: str, job: Mapping[str, Any], skip_existing: bool = False) -> None:
        self.folder, self.form, self.skip_existing = folder, form, skip_existing
        self.job = json.loads(json.dumps({**job, "to": form}))
        self.known = _metadata(folder / METADATA) if form == "jsonl" else {}
        self.done = self._journal()  # file name -> caption
        self.skipped = 0

    def todo(self, pictures: Iterable[str], refuse: Callable[[str], None]) -> Iterator[str]:
        """The pictures that lack a caption; one whose file would be another picture's is refused by name."""
        owners: dict[Path, str] = {}
        for picture in pictures:
            target = Path(picture).with_suffix(".txt")
            owner = owners.setdefault(target, picture)
            if self.form == "txt" and owner != picture:
                refuse(f"{picture}: its caption would be {target.name}, which is {Path(owner).name}'s; rename one")
            elif self._has(picture, target):
                self.skipped += 1
            elif self.form == "txt" and _holds_rows(target):
                refuse(f"{picture}: {target.name} holds rows of numbers, as YOLO's labels do; it is not written over")
            else:
                yield picture

    def add(self, picture: str, caption: str) -> None:
        """Write one caption, and note that it is written."""
        if self.form == "txt":
            write_atomic(Path(picture).with_suffix(".txt"), caption + "\n")
        self.done[self._name(picture)] = caption
        with open(self.folder / JOURNAL, "a", encoding="utf-8") as journal:
            journal.write(json.dumps({"file_name": self._name(picture), "text": caption}) + "\n")

    def finish(self) -> Path:
        """Put the whole in its place; where it lies."""
        if self.form == "jsonl":
            rows = {**self.known, **{name: {**self.known.get(name, {}), "text": self.done[name]} for name in self.done}}
            lines = (json.dumps({"file_name": name, **rows[name]}, ensure_ascii=False) + "\n" for name in sorted(rows))
            write_atomic(self.folder / METADATA, "".join(lines))
        (self.folder / JOURNAL).unlink(missing_ok=True)
        return self.folder / METADATA if self.form == "jsonl" else self.folder

    def _has(self, picture: str, target: Path) -> bool:
        name = self._name(picture)
        there = target.exists() if self.form == "txt" else bool(self.known.get(name, {}).get("text"))
        return name in self.done or (self.skip_existing and there)

    def _name(self, picture: str) -> str:
        return Path(os.path.relpath(picture, self.folder)).as_posix()

    def _journal(self) -> dict[str, str]:
        """What an interrupted command of the same kind has done; a journal of another kind is begun anew."""
        path = self.folder / JOURNAL
        rows = _lines(path)
        rows = rows if rows and rows[0].get("job") == self.job else [{"job": self.job}]
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))  # without a torn last line
        return {row["file_name"]: row["text"] for row in rows[1:]}


def _holds_rows(file: Path) -> bool:
    """Whether a text file holds labels: rows of five numbers or more."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    rows = [line.split() for line in lines if line.strip()]
    return bool(rows) and all(len(row) > 4 and all(map(_NUMBER.fullmatch, row)) for row in rows)


def caption_of(answer: Any) -> str:
    """An answer in words on one line: its texts, or the labels of what it found, each once."""
    texts = [text.text for text in answer.texts if text.text.strip()]
    words = texts or [", ".join(dict.fromkeys(label for label in answer.labels.tolist() if label))]
    return fold_spaces(" ".join(words))


def write_captions(
    found: Iterable[tuple[str, Any]], folder: CaptionFolder, prefix: str, refuse: Callable[[str], None]
) -> int:
    """Write the caption of each picture's answer, `prefix` before it; a Failure or an empty answer is refused by name.

    Returns how many were written."""
    count = 0
    for picture, answer in found:
        if isinstance(answer, Failure):
            refuse(answer.detail)
            continue
        caption = caption_of(answer)
        if not caption.strip():
            refuse(f"{picture}: the model's answer is empty; no caption is written")
            continue
        folder.add(picture, prefix + caption)
        count += 1
    return count


def _metadata(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a metadata.jsonl by file name; other columns stay as they are."""
    out: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return out
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = parse_json(line)
            out[str(row.pop("file_name"))] = row
        except (ValueError, KeyError, AttributeError):
            raise ValueError(f"{path}:{number}: expected an object with file_name, got {line[:60]!r}") from None
    return out


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; a torn last one is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows

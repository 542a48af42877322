"""Folders of pictures with words beside them: Hugging Face's ImageFolder (metadata.jsonl), and a NAME.txt a picture.

    metadata.jsonl    rows of file_name and the columns that table_datasets reads: text, question and answers, objects
    NAME.txt          the caption of NAME.jpg, as trainers of picture generators keep it

Both in one folder or in train/, valid/ and test/. What `florence2 predict --to txt` and `--to jsonl` write can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from florence2.codec.tasks import Task
from florence2.formats import documents, validation
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, files_in, pictures_in
from florence2.formats.parts import part_folders, part_of_folder, tested_on
from florence2.formats.problems import ReadProblems
from florence2.records import Sample, Source, Text
from florence2.sources.prompt_pairs import rows_of
from florence2.sources.table_datasets import CAPTIONS, QUESTIONS, RowLabels

METADATA = "metadata.jsonl"
CAPTION = Source("import", "captions")
LABELS = (*CAPTIONS, *QUESTIONS, "prefix", "objects")


def is_image_folder(path: Path) -> bool:
    """Whether a path is a metadata.jsonl with labels, or a folder that holds one."""
    for file in _metadata(path):
        for line in documents.beginning(file, 1 << 16).splitlines()[:1]:
            return b'"file_name"' in line and any(f'"{key}"'.encode() in line for key in LABELS)
    return False


def read_metadata(
    path: str | Path,
    images: str | Path | None = None,
    problems: ReadProblems | None = None,
    tasks: Mapping[str, Task] | None = None,
) -> Iterator[Sample]:
    """A sample for each row; rows of one picture become one."""
    path, problems = Path(path), problems or ReadProblems()
    labels = RowLabels({}, Source("import", "imagefolder"), problems, tasks)
    samples: dict[str, Sample] = {}
    for file, part in tested_on({file: part_of_folder(file.parent) for file in _metadata(path)}).items():
        lookup = Lookup(file.parent, [Path(images) if images else file.parent], images)
        for where, row in rows_of(file, problems):
            with problems.record():
                name = validation.word(validation.field(row, "file_name", where), f"{where}: file_name")
                picture = lookup.picture(name, f"{where}: file_name")
                if str(picture) in samples:
                    raise ValueError(f"{where}: file_name: {validation.brief(name)} has a row already")
                frame = Frame.of(picture, (0, 0), where)
                image = frame.image(f"{part}/{name}" if part else name)
                samples[str(picture)] = labels.sample(
                    Sample(image.id, image, split=part),
                    row,
                    where,
                    partial(_size, frame, where),
                )
    yield from samples.values()


def _size(frame: Frame, where: str) -> tuple[int, int]:
    if not all(frame.size_wh):
        raise ValueError(f"{where}: the picture's size is needed for its places; put {frame.picture} in place")
    return frame.size_wh


def _metadata(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.name == METADATA and path.is_file() else []
    found = (folder / METADATA for folder in (path, *part_folders(path)))
    return [file for file in found if file.is_file()]


def is_captioned(path: Path) -> bool:
    """Whether a folder holds a picture with a text of its name beside it."""
    return path.is_dir() and any(
        picture.with_suffix(".txt").is_file()
        for folder in (path, *part_folders(path))
        for picture in pictures_in(folder)
    )


def read_captions(
    path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None
) -> Iterator[Sample]:
    """A sample for each picture of a folder and of those below it; its caption is the text beside it."""
    root, problems = Path(path), problems or ReadProblems()
    known: dict[Path, Path] = {}
    found = pictures_in(root, deep=True)
    parts = tested_on({p: part_of_folder(root / p.relative_to(root).parts[0]) for p in found})
    for picture in found:
        file = picture.with_suffix(".txt")
        name = picture.relative_to(root).as_posix()
        with problems.record():
            if known.setdefault(file, picture) != picture:
                raise ValueError(f"{file}: belongs to {known[file].name} and to {picture.name}; rename one of them")
            if not file.is_file():
                problems.note("has no .txt beside it and is left out", str(picture))
                continue
            words = " ".join(documents.read_text(file).split())
            texts = (Text("t0", validation.sentence(words, str(file)), source=CAPTION),)
            yield Sample(name, Frame.of(picture, (0, 0), str(file)).image(name), texts, split=parts[picture])
    for file in files_in(root, (".txt",), deep=True):
        if file not in known:
            problems.note("is a text without a picture and is left out", str(file))

"""Samples given from Python: themselves, rows of (picture, prompt, answer), or what Hugging Face's `datasets` loads.

Pictures in memory go to a folder that lasts as long as the process; a name is made of the content, so that a run that
goes on with other samples is refused.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from florence2 import pixels
from florence2.codec.tasks import Task
from florence2.formats.problems import ReadProblems
from florence2.labels import is_unicode, one_line
from florence2.records import ImageRef, Sample, Source
from florence2.sources import table_datasets
from florence2.sources.prompt_pairs import with_pair
from florence2.training.samples import SpilledSamples, UnreadRows

SOURCE = Source("import", "python")


def given(data: Any, where: str) -> tuple[Sequence[Sample] | UnreadRows, str]:
    """The samples, or rows to be read once the model's tasks are known; and a name of their content.

    ValueError names the row that is none of these.
    """
    parts = data if isinstance(data, Mapping) else {"": data}
    if parts and all(hasattr(part, "to_parquet") for part in parts.values()):
        return _tables(parts)
    rows = list(data)
    if not rows:
        raise ValueError(f"{where}: holds nothing")
    if all(isinstance(row, Sample) for row in rows):
        return rows, _name(repr(row).encode() for row in rows)
    return _rows(rows, where)


def _tables(parts: Mapping[str, Any]) -> tuple[UnreadRows, str]:
    """A Dataset or a DatasetDict, through Parquet files named by its parts."""
    folder = _folder()
    for name, part in parts.items():
        part.to_parquet(str(folder / f"{name or 'samples'}.parquet"))
    files = sorted(folder.glob("*.parquet"))
    return UnreadRows(partial(_read_tables, folder)), _name(file.read_bytes() for file in files)


def _read_tables(folder: Path, tasks: Mapping[str, Task] | None) -> Sequence[Sample]:
    return SpilledSamples(table_datasets.read(folder, tasks=tasks))


def _rows(rows: Sequence[Any], where: str) -> tuple[UnreadRows, str]:
    """Rows of (picture, prompt, answer); those of one picture are one sample."""
    found: dict[Any, Sample] = {}
    pairs: list[tuple[Any, str, str, str]] = []  # the picture's key, prompt, answer, and the row for messages
    content: list[bytes] = []
    folder = _folder()
    for number, row in enumerate(rows):
        here = f"{where}[{number}]"
        if not isinstance(row, (tuple, list)) or len(row) != 3 or not all(isinstance(text, str) for text in row[1:]):
            raise ValueError(f"{here}: expected a Sample, or (picture, prompt, answer), got {one_line(repr(row), 80)}")
        picture, prompt, answer = row
        if not is_unicode(prompt + answer):
            raise ValueError(f"{here}: the prompt or the answer holds half of a surrogate pair; expected Unicode")
        key = str(picture) if isinstance(picture, (str, Path)) else id(picture)
        if key not in found:
            image, name = _image(picture, number, folder, here)
            found[key] = Sample(image.id, image)
            content.append(name)
        pairs.append((key, prompt, answer, here))
        content.append(f"{number}\0{found[key].id}\0{prompt}\0{answer}".encode())
    return UnreadRows(partial(_read_rows, found, pairs), prompts=True), _name(content)


def _read_rows(
    bare: Mapping[Any, Sample], pairs: Sequence[tuple[Any, str, str, str]], tasks: Mapping[str, Task] | None
) -> Sequence[Sample]:
    found = dict(bare)
    for key, prompt, answer, where in pairs:
        found[key] = with_pair(found[key], prompt, answer, SOURCE, where, ReadProblems(), tasks)
    return list(found.values())


def _image(picture: Any, number: int, folder: Path, where: str) -> tuple[ImageRef, bytes]:
    """Where a picture is, written out if it is in memory, and what names it."""
    if isinstance(picture, (str, Path)):
        if not Path(picture).is_file():
            raise ValueError(f"{where}: {picture}: no such file")
        width, height = pixels.read_size(str(picture), str(picture))
        return ImageRef(str(picture), str(picture), width=width, height=height), str(picture).encode()
    array = pixels.load(picture, name=where)
    data = pixels.encode(array)
    file = folder / f"{number:08d}.png"
    file.write_bytes(data)
    height, width = array.shape[:2]
    return ImageRef(file.name, str(file), width=width, height=height), data


def _folder() -> Path:
    """A new folder that goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="florence2-given-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _name(parts: Any) -> str:
    """`python:` and a hash of the content."""
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(blake2b(part).digest())
    return f"python:{digest.hexdigest()}"

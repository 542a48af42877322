"""Names of labels, from a file or a command line: a name a line, or a COCO file's categories, in file order."""

from __future__ import annotations

import os
from pathlib import Path

from florence2.formats import documents

EXPECTED = "expected a name a line, or a COCO .json with categories"
SUFFIXES = (".json", ".txt", ".names", ".csv", ".yaml", ".yml")


def read(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of a file; ValueError where it holds none, or a category without one."""
    path = Path(path)
    if path.suffix.lower() == ".json":
        data = documents.read_json(path)
        rows = data.get("categories") if isinstance(data, dict) else None
        names = [row.get("name") if isinstance(row, dict) else None for row in (rows if isinstance(rows, list) else ())]
    else:
        names = [line.strip() for line in documents.read_text(path).splitlines() if line.strip()]
    bad = [n for n, name in enumerate(names) if not isinstance(name, str) or not name.strip()]
    if bad:
        raise ValueError(f"{path}: categories[{bad[0]}]: name: expected a name, got {names[bad[0]]!r:.80}")
    if not names:
        raise ValueError(f"{path}: no names of labels; {EXPECTED}")
    return tuple(map(str, names))


def of_option(given: str) -> tuple[str, ...]:
    """The names of a command line's A,B or FILE; what ends as a file's name and is none is no label."""
    path = Path(given)
    if path.is_file():
        return read(path)
    names = tuple(name.strip() for name in given.split(","))
    if not all(names) or path.is_dir() or path.suffix.lower() in SUFFIXES:
        raise ValueError(f"--labels {given}: expected A,B, or a file that is there: {EXPECTED[9:]}")
    return names

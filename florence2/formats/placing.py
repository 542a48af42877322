"""What every writer does alike: name its pictures, put them in place, count what the format cannot hold."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from florence2.records import Sample


class Names:
    """A file name for each picture, unique in one folder."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def of(self, sample: Sample) -> str:
        """The picture's own base name, numbered where another picture has it."""
        base = Path(sample.image.member or sample.image.uri or sample.image.id or sample.id).name or sample.id
        stem, suffix = os.path.splitext(base)
        name, count = base, 1
        while name in self.taken:
            name, count = f"{stem}_{count}{suffix}", count + 1
        self.taken.add(name)
        return name


def place_picture(sample: Sample, target: Path, lost: Counter[str]) -> None:
    """Link or copy a picture that is a plain file; one inside a tar or a table is counted as not placed."""
    source = Path(sample.image.uri)
    if sample.image.member or not sample.image.uri or not source.is_file():
        lost["picture_not_placed"] += 1
        return
    if target.exists():
        if not target.samefile(source):
            raise ValueError(f"{target}: exists already; name a new or empty folder")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def size_of(sample: Sample) -> tuple[int, int]:
    """The picture's width and height, which most formats need."""
    width, height = sample.image.size_wh
    if not width or not height:
        raise ValueError(f"sample {sample.id!r}: its picture's size is not known; read it with its picture in place")
    return width, height


def count_lost(sample: Sample, lost: Counter[str], kept: frozenset[str]) -> Sample:
    """The sample's current view; what it holds beside `kept` (texts, regions, groundings) is counted as lost."""
    hidden = len([d for d in sample.decisions if d.status != "kept"])
    if hidden:
        lost["rejected_or_superseded"] += hidden
    sample = sample.current()
    for kind in ("texts", "regions", "groundings"):
        items = getattr(sample, kind)
        if items and kind not in kept:
            lost[kind] += len(items)
    return sample

"""A store's view for other tools."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from florence2.pixels import BadImage
from florence2.records import Sample
from florence2.sources import file_types, files
from florence2.store import Store

WRITERS = ("coco", "voc", "yolo", "jsonl", "labelstudio")


def export_labels(
    store: str | Path | Store, to: str, out: str | Path, snapshot: int | None = None, view: str = "current"
) -> tuple[int, Counter[str]]:
    """Write a store's view in a format; returns how many samples were written, and counts of what it cannot hold."""
    if to not in WRITERS:
        raise ValueError(f"export: format {to!r}: expected one of {', '.join(WRITERS)}")
    store = store if isinstance(store, Store) else Store(store)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not empty; name a new or empty folder")
    written = 0

    aside = out / ".pictures"

    def counted() -> Iterator[Sample]:
        nonlocal written
        for sample in store.samples(snapshot, view):
            written += 1
            yield sample if to == "jsonl" else _with_file(sample, aside)

    try:
        lost = importlib.import_module(f"florence2.formats.{to}").write(counted(), out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return written, +lost


def _with_file(sample: Sample, aside: Path) -> Sample:
    """The sample with a plain file for its picture: one inside an archive, or of an odd name, is copied `aside`."""
    ref = sample.image
    if files.plain_path(ref) == ref.uri and file_types.has_picture_suffix(ref.uri):
        return sample
    try:
        data = files.read_bytes(ref)
    except BadImage:
        return sample  # the writer counts it
    name = PurePosixPath(ref.member or ref.uri).name
    suffix = "" if file_types.has_picture_suffix(name) else f".{file_types.format_of(data[:16]) or 'img'}"
    target = aside / ref.id / f"{name}{suffix}"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    placed = dataclasses.replace(ref, uri=str(target), member="", offset=-1, length=-1)
    return dataclasses.replace(sample, image=placed)

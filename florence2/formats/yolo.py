"""YOLO: data.yaml naming classes and splits, labels/*.txt beside images/. Twin: reads and writes.

A row is `class cx cy w h` in fractions of the picture, with a score after it, or `class x y x y ...`, an outline. The
label space and splits of other names are held under `florence2` in data.yaml. Lost in writing: ignored regions, masks
(outlines stay), texts, sources, descriptions, licences, any coverage but exhaustive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from florence2 import geometry
from florence2.formats import validation
from florence2.formats.yolo_writer import OURS, write
from florence2.records import Coverage, Region, Sample, Source

__all__ = ["read", "write"]
SOURCE = Source("import", "yolo")
SPLITS = {"train": "train", "val": "test", "test": "test"}  # a key of data.yaml -> our split


def read(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """The samples of a data.yaml (or of the folder that holds it); `split` is what its keys say."""
    path = Path(path)
    file = path / "data.yaml" if path.is_dir() else path
    data = _load(file)
    names = _names(file, data)
    root = (file.parent / str(data.get("path") or "")).resolve() if data.get("path") else file.parent
    root = root if root.is_dir() else file.parent  # `path` often names a folder of another machine
    seen: dict[str, str] = {}
    both = {"val", "test"} <= set(data) and data["val"] != data["test"]
    ours: Mapping[str, Any] = data[OURS] if isinstance(data.get(OURS), Mapping) else {}
    space = str(ours.get("label_space", file.parent.name))
    for key, split in SPLITS.items():
        for entry in _entries(data.get(key)):
            for picture in _pictures(file, key, root, entry, Path(images) if images else None):
                if str(picture) in seen:
                    continue
                seen[str(picture)] = key
                try:
                    part = "val" if both and key == "val" else split
                    part = str((ours.get("splits") or {}).get(entry, part))
                    sample = _sample(picture, root, names, space, part)
                except ValueError as error:
                    validation.refuse(error)
                    continue
                yield sample


def _load(file: Path) -> Mapping[str, Any]:
    try:
        data = yaml.safe_load(validation.read_text(file))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{file}{line}: not YAML ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(data, Mapping) or not set(SPLITS) & set(data):
        raise ValueError(f"{file}: expected 'names' and at least one of train, val, test")
    return data


def _names(file: Path, data: Mapping[str, Any]) -> dict[int, str]:
    names = validation.field(data, "names", str(file))
    rows = names.items() if isinstance(names, Mapping) else enumerate(names) if isinstance(names, list) else None
    if rows is None:
        raise ValueError(f"{file}: names: expected a list or a map from number to name, got {names!r:.60}")
    return {validation.whole(number, f"{file}: names"): str(name) for number, name in rows}


def _entries(value: Any) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) else [str(value)] if value else []


def _pictures(file: Path, key: str, root: Path, entry: str, images: Path | None) -> list[Path]:
    place = images or root / entry
    if place.is_dir():
        return validation.pictures_in(place) or validation.pictures_in(place / "images")
    if place.is_file():
        return [root / line.strip() for line in validation.read_text(place).splitlines() if line.strip()]
    stripped = root / Path(*[part for part in Path(entry).parts if part not in ("..", ".")])  # exports write ../train
    if stripped.is_dir():
        return validation.pictures_in(stripped)
    raise ValueError(f"{file}: {key}: {entry!r} is neither a folder nor a list of pictures below {root}")


def _labels_of(picture: Path) -> Path:
    """labels/ in place of the last images/ of the path; else beside the picture."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        place = len(parts) - 2 - parts[:-1][::-1].index("images")
        parts[place] = "labels"
    return Path(*parts).with_suffix(".txt")


def _sample(picture: Path, root: Path, names: Mapping[int, str], space: str, split: str) -> Sample:
    name = os.path.relpath(picture, root)
    image = validation.image_ref(name, picture)
    labels = _labels_of(picture)
    regions = []
    if labels.is_file():
        if not image.width:
            raise ValueError(f"{picture}: its size is needed to read {labels}; put the picture in place")
        for n, line in enumerate(validation.read_text(labels).splitlines(), 1):
            if not line.strip():
                continue
            try:
                regions.append(_region(line.split(), f"{labels}:{n}", f"r{n - 1}", names, space, image.size_wh))
            except ValueError as error:
                validation.refuse(error)
    coverage = {space: (Coverage("exhaustive", tuple(names.values())),)} if space else {}
    return Sample(name, image, regions=tuple(regions), split=split, coverage=coverage)


def _region(
    cells: list[str], where: str, name: str, names: Mapping[int, str], space: str, size_wh: tuple[int, int]
) -> Region:
    number = validation.whole(cells[0], f"{where}: class")
    if number not in names:
        raise ValueError(f"{where}: class {number} is not among the {len(names)} names of data.yaml")
    values = validation.numbers(cells[1:], where)
    width, height = size_wh
    if len(values) in (4, 5):
        cx, cy, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
        if w < 0 or h < 0:
            raise ValueError(f"{where}: expected a width and height of at least 0, got {values[2]} x {values[3]}")
        score = values[4] if len(values) == 5 else None
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        return Region(name, "object", box, names[number], space, score=score, source=SOURCE)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{where}: expected class and 4 numbers, a score after them, or x, y pairs; got {len(values)}")
    outline = tuple(v * (height if n % 2 else width) for n, v in enumerate(values))
    box = geometry.polygon_box(outline)
    return Region(name, "object", box, names[number], space, polygons=(outline,), source=SOURCE)

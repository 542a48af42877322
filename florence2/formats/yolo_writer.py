"""YOLO written: data.yaml, images/, labels/; `yolo` reads it back."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from florence2 import geometry
from florence2.formats import export_files
from florence2.records import Region, Sample

OURS = "florence2"


def write(samples: Iterable[Sample], path: str | Path) -> Counter[str]:
    """data.yaml, images/SPLIT, labels/SPLIT; counts what is lost. Scores are written for no region or for all."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    lost: Counter[str] = Counter()
    names = export_files.Names()
    classes: dict[str, int] = {}
    splits: dict[str, str] = {}  # folder -> split
    spaces: Counter[str] = Counter()
    for sample in samples:
        size_wh = export_files.size_of(sample)
        split = re.sub(r"[^A-Za-z0-9._-]", "_", sample.split) or "all"
        splits[f"images/{split}"] = sample.split
        name = names.of(sample)
        labels = folder / "labels" / split / f"{os.path.splitext(name)[0]}.txt"
        if labels.exists():
            raise ValueError(f"{labels}: exists already; name a new or empty folder")
        export_files.place_picture(sample, folder / "images" / split / name, lost)
        sample = export_files.count_lost(sample, lost, frozenset(("regions", "split")))
        spaces[export_files.space_of(sample) if sample.coverage else ""] += 1
        export_files.count_coverage(sample, export_files.space_of(sample), lost)
        for label in (x for states in sample.coverage.values() for s in states for x in s.labels):
            classes.setdefault(label, len(classes))
        rows = [row for region in sample.regions for row in _rows(region, classes, size_wh, lost)]
        labels.parent.mkdir(parents=True, exist_ok=True)
        labels.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    space = spaces.most_common(1)[0][0] if spaces else ""
    lost["label_space"] += spaces.total() - spaces[space]
    data: dict[str, Any] = {**_parts(splits), "names": {n: name for name, n in classes.items()}}
    data[OURS] = {"label_space": space, "splits": splits}
    (folder / "data.yaml").write_text(yaml.safe_dump(data, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return lost


def _parts(splits: Mapping[str, str]) -> dict[str, list[str] | str]:
    """The keys that trainers of YOLO read: all that is neither val nor test trains; val is what there is to test on."""
    of = {key: [folder for folder, split in splits.items() if split == key] for key in ("val", "test")}
    train = [folder for folder in splits if folder not in of["val"] + of["test"]]
    found = {"train": train or list(splits), "val": of["val"] or of["test"] or train, "test": of["test"]}
    return {key: folders[0] if len(folders) == 1 else folders for key, folders in found.items() if folders}


def _rows(region: Region, classes: dict[str, int], size_wh: tuple[int, int], lost: Counter[str]) -> list[str]:
    width, height = size_wh
    if not region.label or region.ignore:
        lost["region_ignored" if region.ignore else "region_without_label"] += 1
        return []
    number = classes.setdefault(region.label, len(classes))
    polygons = region.polygons or ((region.quad,) if region.quad else ())
    if region.mask is not None and not polygons:
        polygons = tuple(geometry.mask_polygons(geometry.decode_rle(region.mask)))
    polygons = tuple(p for p in polygons if len(p) >= 6)
    lost["description"] += bool(region.description)
    lost["mask"] += region.mask is not None
    if polygons:
        lost["parts_joined"] += len(polygons) > 1  # a row holds one outline: parts become rows
        lost["score"] += region.score is not None
        return [
            " ".join([str(number), *(repr(float(v / (height if n % 2 else width))) for n, v in enumerate(part))])
            for part in polygons
        ]
    if region.box is None:
        lost["region_without_box"] += 1
        return []
    x1, y1, x2, y2 = region.box
    values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    values += [region.score] if region.score is not None else []
    return [" ".join([str(number), *(repr(float(v)) for v in values)])]

"""COCO's JSON written: instances.json and captions.json beside images/; `coco` reads them back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from florence2 import geometry
from florence2.formats import export_files
from florence2.records import Coverage, Polygon, Region, Rle, Sample, Source, Text, to_json

SOURCE = Source("import", "coco")
LISTED = "exhaustive_category_ids"  # beside LVIS's neg_category_ids and not_exhaustive_category_ids
HOLDS = frozenset(("texts", "regions", "licence", "source", "split"))


def write(samples: Iterable[Sample], path: str | Path) -> Counter[str]:
    """FOLDER/instances.json and FOLDER/captions.json with the pictures in FOLDER/images; counts what is lost."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    lost: Counter[str] = Counter()
    names, numbers = export_files.Names(), _Numbers()
    images: list[dict] = []
    instances: list[dict] = []
    captions: list[dict] = []
    categories, licences = _Count(), _Count()
    covered: list[tuple[dict, Sequence[Coverage]]] = []
    space = ""
    for n, sample in enumerate(samples, 1):
        width, height = export_files.size_of(sample)
        number = numbers.of(sample.id, n)
        name = names.of(sample)
        export_files.place_picture(sample, folder / "images" / name, lost)
        record = {"id": number, "file_name": name, "width": width, "height": height}
        if sample.image.licence:
            record["license"] = licences.of(sample.image.licence)
        if sample.split:
            record["split"] = sample.split
        images.append(record)
        sample = export_files.count_lost(sample, lost, HOLDS)
        space = space or export_files.space_of(sample)
        states = tuple(sample.coverage.get(space, ()))
        covered.append((record, states))
        for label in (label for state in states for label in state.labels):
            categories.of(label)
        lost["coverage_of_other_spaces"] += len(set(sample.coverage) - {space, "text"})
        for region in sample.regions:
            lost["label_space"] += bool(region.label_space) and region.label_space != space
            row = _annotation(region, lost)
            if row is not None:
                row = {"id": len(instances) + 1, "image_id": number, "category_id": categories.of(region.label), **row}
                instances.append(row)
        for text in sample.texts:
            if text.detail != "brief":
                lost[f"text_{text.detail}"] += 1
                continue
            row = {"id": len(captions) + 1, "image_id": number, "caption": text.text, **_signature(text)}
            captions.append(row)
    for record, told in covered:
        record.update(_listed(told, categories))
    info = {"description": space, "label_space": space} if space else {}
    shared = {"info": info, "licenses": licences.rows(), "images": images}
    _save(folder / "instances.json", {**shared, "annotations": instances, "categories": categories.rows()})
    if captions:
        _save(folder / "captions.json", {**shared, "annotations": captions})
    return lost


class _Count:
    """Names with numbers from 1, in the order they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, name: str) -> int:
        return self.numbers.setdefault(name, len(self.numbers) + 1)

    def rows(self) -> list[dict]:
        return [{"id": number, "name": name} for name, number in self.numbers.items()]


def _listed(states: Sequence[Coverage], categories: _Count) -> dict[str, list[int]]:
    """What a picture's record says of the absence of labels: nothing where all categories are listed, as COCO means."""
    every = set(categories.numbers)
    if [s.state for s in states] == ["exhaustive"] and (not states[0].labels or set(states[0].labels) == every):
        return {}
    if not states and not every:
        return {}
    keys = {"exhaustive": LISTED, "partial": "not_exhaustive_category_ids", "negatives": "neg_category_ids"}
    out: dict[str, list[int]] = {key: [] for key in keys.values()}
    for state in states:
        out[keys[state.state]] += [categories.of(label) for label in state.labels or every]
    return out


def _signature(item: Region | Text) -> dict[str, Any]:
    """Who made an item, where that is more than that it came in COCO's form."""
    source = item.source
    if source is None or (source.kind, source.name) == (SOURCE.kind, SOURCE.name):
        return {}
    return {"source": {"kind": source.kind, "name": source.name, "version": source.version}}


class _Numbers:
    """Picture numbers: the sample's own where all of them are numbers, else counted."""

    def __init__(self) -> None:
        self.taken: set[int] = set()

    def of(self, name: str, count: int) -> int:
        number = int(name) if name.isdigit() and name == str(int(name)) else count
        while number in self.taken:
            number += 1_000_000_007
        self.taken.add(number)
        return number


def _annotation(region: Region, lost: Counter[str]) -> dict[str, Any] | None:
    box = region.box
    if box is None:
        outlines = [region.quad] if region.quad else list(region.polygons)
        box = geometry.polygon_box(*outlines) if outlines else None
    if box is None and region.mask is not None:
        box = box_around((), region.mask)
    if box is None or not region.label:
        lost["region_without_place" if box is None else "region_without_label"] += 1
        return None
    for field in ("quad", "description"):
        lost[field] += bool(getattr(region, field))
    x1, y1, x2, y2 = box
    row: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(region.ignore), **_signature(region)}
    row["area"] = float(geometry.area(box)[0])
    if region.polygons:
        row["segmentation"] = [list(part) for part in region.polygons]
        row["area"] = sum(geometry.polygon_area(part) for part in region.polygons)
    elif region.mask is not None:
        mask = to_json(region.mask)
        row["segmentation"] = {"size": [mask["height"], mask["width"]], "counts": mask["counts"]}
        row["area"] = float(geometry.rle_area(region.mask))
    if region.score is not None:
        row["score"] = region.score
    return row


def _save(file: Path, data: dict[str, Any]) -> None:
    aside = file.with_name(f".{file.name}.part")
    aside.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    os.replace(aside, file)


def box_around(polygons: tuple[Polygon, ...], mask: Rle | None) -> tuple[float, float, float, float] | None:
    """The box around an outline or a mask."""
    outlines = polygons or (tuple(geometry.mask_polygons(geometry.decode_rle(mask))) if mask else ())
    return geometry.polygon_box(*outlines) if outlines else None

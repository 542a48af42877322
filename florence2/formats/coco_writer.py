"""COCO's JSON written: instances.json and captions.json beside images/; `coco` reads them back.

Numbers of pictures, annotations and categories that the set came with stay, and so do its pictures' relative paths and
its supercategories; where two claim a number, the first keeps it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from florence2 import geometry
from florence2.formats import export_files
from florence2.formats.export_files import PLAIN, Export, ExportOptions
from florence2.records import Coverage, Polygon, Region, Rle, Sample, Source, Text

SOURCE = Source("import", "coco")
LISTED = "exhaustive_category_ids"  # beside LVIS's neg_category_ids and not_exhaustive_category_ids
HOLDS = frozenset(("texts", "regions", "licence", "source", "split"))
DIGITS = 16  # a number of as many is not kept: a store's own ids may consist of digits, but of more


def write(samples: Iterable[Sample], path: str | Path, options: ExportOptions = PLAIN) -> Counter[str]:
    """FOLDER/instances.json and FOLDER/captions.json with the pictures in FOLDER/images; counts what is lost."""
    export = Export(Path(path), options)
    lost, names = export.lost, export_files.Names(stems=False)
    images, instances, captions = _Numbered(), _Numbered(), _Numbered()
    categories, licences = _Categories(options.categories), _Categories()
    covered: list[tuple[dict[str, Any], Sequence[Coverage]]] = []
    space = ""
    for sample in samples:
        width, height = export_files.size_of(sample)
        file = options.picture(sample.image)
        relative = sample.image.id.replace("\\", "/")  # as the set that it came with spells it
        name = names.of_path(relative if relative.rpartition("/")[2] == file.name else file.name)
        export.place(sample.image, file, f"images/{name}")
        record = images.add(sample.id, {"file_name": name, "width": width, "height": height})
        if sample.image.licence:
            record["license"] = licences.of(sample.image.licence)
        if sample.split:
            record["split"] = sample.split
        if options.export_id and sample.image.sha256:
            record["sha256"] = sample.image.sha256
        sample = export_files.count_lost(sample, lost, HOLDS)
        space = space or export_files.space_of(sample)
        states = tuple(sample.coverage.get(space, ()))
        covered.append((record, states))
        for label in (label for state in states for label in state.labels):
            categories.of(label)
        lost["coverage_of_other_spaces"] += len(set(sample.coverage) - {space, "text"})
        for region in sample.regions:
            lost["label_space"] += bool(region.label_space) and region.label_space != space
            row = _annotation(region, lost, options.scores)
            if row is not None:
                number = options.original_id(region.id)
                mark = {"ann_id": region.id} if options.export_id else {}
                instances.add(number, {"image": record, "category_id": categories.of(region.label), **row, **mark})
        for text in sample.texts:
            if text.detail != "brief":
                lost[f"text_{text.detail}"] += 1
                continue
            captions.add(options.original_id(text.id), {"image": record, "caption": text.text, **_signature(text)})
    for record, listed in covered:
        record.update(_listed(listed, categories))
    info = {"description": space, "label_space": space} if space else {}
    info |= {"florence2_export": options.export_id} if options.export_id else {}
    shared = {"info": info, "licenses": licences.rows(), "images": images.finish()}
    rows = [_about(row) for row in instances.finish()]
    export.write_json("instances.json", {**shared, "annotations": rows, "categories": categories.rows()})
    if captions.rows:
        export.write_json("captions.json", {**shared, "annotations": [_about(row) for row in captions.finish()]})
    return export.finish()


def _about(row: dict[str, Any]) -> dict[str, Any]:
    """An annotation with its picture's number, which is known when all pictures are."""
    return {"id": row.pop("id"), "image_id": row.pop("image")["id"], **row}


class _Numbered:
    """Records with numbers: their own where it is one that is free, else counted once all own ones are known."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.taken: set[int | None] = set()

    def add(self, name: str, row: dict[str, Any]) -> dict[str, Any]:
        own = (
            int(name) if name.isascii() and name.isdecimal() and len(name) < DIGITS and name == str(int(name)) else None
        )
        own = None if own in self.taken else own
        self.taken |= {own} - {None}
        self.rows.append({"id": own, **row})
        return self.rows[-1]

    def finish(self) -> list[dict[str, Any]]:
        number = 0
        for row in self.rows:
            if row["id"] is None:
                number += 1
                while number in self.taken:
                    number += 1
                row["id"] = number
        return self.rows


class _Categories:
    """Names with numbers: those that the set came with, then the first that are free, in the order they come."""

    def __init__(self, known: Sequence[Mapping[str, Any]] = ()) -> None:
        self.known: dict[str, dict[str, Any]] = {}
        self.taken: set[Any] = set()
        self.next = 1
        claimed = [row for row in known if self._claims(row)]
        for row in known:
            if row not in claimed and row["name"] not in self.known:
                self.known[row["name"]] = {**row, "id": self.of(row["name"])}

    def _claims(self, row: Mapping[str, Any]) -> bool:
        """Take a category with its number, where both are free."""
        if row["name"] in self.known or row["id"] in self.taken:
            return False
        self.known[row["name"]] = dict(row)
        self.taken.add(row["id"])
        return True

    def of(self, name: str) -> int:
        if name not in self.known:
            while self.next in self.taken:
                self.next += 1
            self.taken.add(self.next)
            self.known[name] = {"id": self.next, "name": name}
        number: int = self.known[name]["id"]
        return number

    def rows(self) -> list[dict[str, Any]]:
        return list(self.known.values())


def _listed(states: Sequence[Coverage], categories: _Categories) -> dict[str, list[int]]:
    """What a picture's record says of the absence of labels: nothing where all categories are listed, as COCO means."""
    every = set(categories.known)
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


def _annotation(region: Region, lost: Counter[str], scores: bool) -> dict[str, Any] | None:
    box = geometry.region_box(region)
    if box is None or not region.label:
        lost["region_without_place" if box is None else "region_without_label"] += 1
        return None
    for field in ("quad", "description"):
        lost[field] += bool(getattr(region, field))
    x1, y1, x2, y2 = box
    row: dict[str, Any] = {"bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(region.ignore), **_signature(region)}
    row["area"] = float(geometry.area(box)[0])
    row["segmentation"] = [list(part) for part in region.polygons if len(part) >= 6]
    if row["segmentation"]:
        row["area"] = sum(geometry.polygon_area(part) for part in region.polygons)
    elif region.mask is not None:
        row["segmentation"] = {"size": [region.mask.height, region.mask.width], "counts": region.mask.counts}
        row["area"] = float(geometry.rle_area(region.mask))
    if scores and region.score is not None:
        row["score"] = region.score
    return row


def box_around(polygons: tuple[Polygon, ...], mask: Rle | None) -> tuple[float, float, float, float] | None:
    """The box around an outline or a mask."""
    if polygons:
        return geometry.polygon_box(*polygons)
    return geometry.rle_box(mask) if mask else None

"""CVAT's XML 1.1 for images: annotations.xml beside its pictures or images/. Twin: reads and writes.

Boxes (turned ones too), polygons and masks are read; polygons of one label and group are the parts of one object, as
CVAT's own exports have it. Tags, points, lines, cuboids, skeletons, tracks and attributes have no place in a Sample and
are counted. Lost in writing: texts, groundings, scores, ignored regions, descriptions, any coverage.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from florence2 import geometry, pixels
from florence2.formats import documents, validation
from florence2.formats.cvat_writer import write
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, files_in, is_litter
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Coverage, Polygon, Region, Rle, Sample, Source

__all__ = ["is_cvat", "read", "write"]
SPACE = "cvat"
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "default": ""}
SHAPES = ("box", "polygon", "mask")


def is_cvat(path: Path) -> bool:
    """Whether an .xml file begins as CVAT's do: with annotations."""
    if path.suffix.lower() != ".xml" or is_litter(path.name) or not path.is_file():
        return False
    return bool(re.search(rb"<annotations[\s/>]", documents.beginning(path)))


def read(path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None) -> Iterator[Sample]:
    """The samples of a file, or of the CVAT files of a folder; `split` is their subset."""
    path, problems = Path(path), problems or ReadProblems()
    files = [file for file in files_in(path, (".xml",)) if is_cvat(file)] if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: holds no annotations.xml of CVAT")
    seen: dict[Any, str] = {}
    for file in files:
        folders = [Path(images)] if images else [file.parent / "images", file.parent]
        lookup = Lookup(file.parent, folders, images)
        nodes: list[ElementTree.Element] = []
        with problems.record():
            root = documents.read_xml(file)
            if root.tag != "annotations":
                raise ValueError(f"{file}: expected <annotations>, got <{validation.brief(root.tag)}>")
            nodes = root.findall("image")
            for _ in root.findall("track"):
                problems.note("tracks are left out: a Sample has no place for them", str(file))
        for n, node in enumerate(nodes):
            where = f"{file}: image {n}"
            with problems.record():
                name = validation.word(node.get("name"), f"{where}: name")
                key = validation.word(node.get("id", name), f"{where}: id")
                validation.once(seen, key, where)
                yield _sample(node, key, name, f"{file}: image {validation.brief(key)}", lookup, problems)


def _sample(
    node: ElementTree.Element, key: str, name: str, where: str, lookup: Lookup, problems: ReadProblems
) -> Sample:
    stated_wh = (0, 0)
    with problems.record():
        sides = [validation.whole(node.get(side) or 0, f"{where}: {side}") for side in ("width", "height")]
        stated_wh = (sides[0], sides[1])
    frame = Frame.of(lookup.picture(name, where), stated_wh, where)
    lost = LostObjects(problems)
    found: list[tuple[str, Region]] = []
    groups: dict[tuple[str, str], int] = {}  # (label, group) -> the index of its first polygon in `found`
    for n, shape in enumerate(node):
        place = f"{where}: {validation.brief(shape.tag)} {n}"
        if shape.tag not in SHAPES:
            kind = shape.tag if shape.tag.endswith("s") else f"{shape.tag}s"
            problems.note(f"{validation.brief(kind)[1:-1]} are left out: a Sample has no place for them", place)
            if shape.tag not in ("tag", "attribute"):
                lost.add(shape.get("label") or "")
            continue
        if shape.find("attribute") is not None:
            problems.note("attributes are left out: a Sample has no place for them", place)
        with lost.object(shape.get("label") or ""):
            region = _region(shape, place, f"r{n}", stated_wh if all(stated_wh) else frame.size_wh)
            group = (region.label, shape.get("group_id") or "0")
            if group[1] != "0" and shape.tag == "polygon" and group in groups:
                first, whole = found[groups[group]]
                parts = (*whole.polygons, *region.polygons)
                found[groups[group]] = (first, replace(whole, polygons=parts, box=geometry.polygon_box(*parts)))
                continue
            if shape.tag == "polygon":
                groups.setdefault(group, len(found))
            found.append((place, region))
    regions = frame.place(found, lost)
    subset = node.get("subset") or ""
    split = validation.word(SPLITS.get(subset.casefold(), subset), f"{where}: subset", empty=True)
    return Sample(key, frame.image(name), regions=regions, split=split, coverage={SPACE: (Coverage("partial"),)})


def _region(shape: ElementTree.Element, where: str, name: str, size_wh: tuple[int, int]) -> Region:
    label = validation.word(shape.get("label"), f"{where}: label")
    source = Source("human" if shape.get("source", "manual") == "manual" else "model", "cvat")
    polygons: tuple[Polygon, ...] = ()
    mask: Rle | None = None
    if shape.tag == "box":
        sides = [shape.get(side) for side in ("xtl", "ytl", "xbr", "ybr")]
        x1, y1, x2, y2 = validation.numbers(sides, f"{where}: xtl, ytl, xbr, ybr", 4)
        box: Any = (x1, y1, x2, y2)
        angle = validation.number(shape.get("rotation") or 0, f"{where}: rotation")
        if angle:
            polygons = (_turned(box, angle),)
            box = geometry.polygon_box(*polygons)
    elif shape.tag == "polygon":
        points = [validation.numbers(point.split(","), f"{where}: points", 2) for point in _points(shape)]
        if len(points) < 3:
            raise ValueError(f"{where}: points: expected at least 3, got {len(points)}")
        polygons = (tuple(v for point in points for v in point),)
        box = geometry.polygon_box(*polygons)
    else:
        mask = _mask(shape, where, size_wh)
        box = geometry.rle_box(mask)
        if box is None:
            raise ValueError(f"{where}: a mask without a pixel")
    return Region(name, "object", box, label, SPACE, polygons=polygons, mask=mask, source=source)


def _points(shape: ElementTree.Element) -> list[str]:
    return [point for point in (shape.get("points") or "").split(";") if point.strip()]


def _turned(box: tuple[float, float, float, float], degrees: float) -> Polygon:
    """A box's corners, turned clockwise about its centre."""
    x1, y1, x2, y2 = box
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x1 - cx, y1 - cy), (x2 - cx, y1 - cy), (x2 - cx, y2 - cy), (x1 - cx, y2 - cy))
    return tuple(v for dx, dy in corners for v in (cx + dx * cos - dy * sin, cy + dx * sin + dy * cos))


def _mask(shape: ElementTree.Element, where: str, size_wh: tuple[int, int]) -> Rle:
    """CVAT's run lengths, row by row of the part that is filled, as a mask of the whole picture."""
    keys = ("left", "top", "width", "height")
    left, top, width, height = (validation.whole(shape.get(key), f"{where}: {key}") for key in keys)
    full_width, full_height = size_wh
    if not full_width * full_height:
        raise ValueError(f"{where}: the picture's size is needed for its mask; put the picture in place")
    if left + width > full_width or top + height > full_height or full_width * full_height > pixels.MAX_PIXELS:
        raise ValueError(f"{where}: a mask of {width} x {height} at {left}, {top} leaves {full_width} x {full_height}")
    counts = [validation.whole(count, f"{where}: rle") for count in (shape.get("rle") or "").split(",")]
    if sum(counts) != width * height:
        raise ValueError(f"{where}: rle: run lengths fill {sum(counts)} pixels; expected {width} x {height}")
    part = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(height, width)
    whole = np.zeros((full_height, full_width), bool)
    whole[top : top + height, left : left + width] = part
    return geometry.encode_rle(whole)

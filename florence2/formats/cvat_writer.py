"""CVAT's XML 1.1 for images written: annotations.xml beside images/; `cvat` reads it back."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from florence2 import geometry
from florence2.formats import export_files
from florence2.formats.export_files import PLAIN, Export, ExportOptions, xml_text
from florence2.records import Region, Rle, Sample

HOLDS = frozenset(("regions", "split"))


def write(samples: Iterable[Sample], path: str | Path, options: ExportOptions = PLAIN) -> Counter[str]:
    """FOLDER/annotations.xml with the pictures in FOLDER/images; counts what is lost. A split is CVAT's subset."""
    export = Export(Path(path), options)
    lost, names = export.lost, export_files.Names(stems=False)
    labels: dict[str, None] = {}
    images = []
    groups = itertools.count(1)
    for number, sample in enumerate(samples):
        width, height = export_files.size_of(sample)
        file = options.picture(sample.image)
        name = names.of(file.name)
        export.place(sample.image, file, f"images/{name}")
        sample = export_files.count_lost(sample, lost, HOLDS)
        lost["coverage"] += sum(len(states) for space, states in sample.coverage.items() if space != "text")
        image = ElementTree.Element("image", _text(id=number, name=name, width=width, height=height))
        if sample.split:
            image.set("subset", xml_text(sample.split))
        for region in sample.regions:
            if not region.label:
                lost["region_without_label"] += 1
                continue
            shapes = list(_shapes(region, lost))
            labels.update({region.label: None} if shapes else {})
            group = {"group_id": next(groups)} if len(shapes) > 1 else {}
            made = "manual" if region.source is None or region.source.kind in ("human", "import") else "auto"
            for tag, place in shapes:
                shared = {"label": region.label, "source": made, "occluded": 0}
                ElementTree.SubElement(image, tag, _text(**shared, **place, z_order=0, **group))
        images.append(image)
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    ElementTree.SubElement(task, "size").text = str(len(images))
    known = ElementTree.SubElement(task, "labels")
    for label in labels:
        node = ElementTree.SubElement(known, "label")
        ElementTree.SubElement(node, "name").text = xml_text(label)
        ElementTree.SubElement(node, "type").text = "any"
        ElementTree.SubElement(node, "attributes")
    root.extend(images)
    ElementTree.indent(root)
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    export.write_text("annotations.xml", head + ElementTree.tostring(root, "unicode") + "\n")
    return export.finish()


def _shapes(region: Region, lost: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The region as elements of CVAT: a polygon for each part, else a mask, else a box."""
    lost["description"] += bool(region.description)
    lost["score"] += region.score is not None
    lost["ignore"] += region.ignore
    polygons = [part for part in (region.polygons or ((region.quad,) if region.quad else ())) if len(part) >= 6]
    for part in polygons:
        yield "polygon", {"points": ";".join(f"{float(x)!r},{float(y)!r}" for x, y in zip(part[::2], part[1::2]))}
    if polygons:
        return
    if region.mask is not None and geometry.rle_area(region.mask):
        yield "mask", _mask(region.mask)
    elif region.box is not None:
        yield "box", {side: repr(float(value)) for side, value in zip(("xtl", "ytl", "xbr", "ybr"), region.box)}
    else:
        lost["region_without_place"] += 1


def _mask(mask: Rle) -> dict[str, Any]:
    """A mask as CVAT holds it: run lengths, row by row and background first, of the part that it fills."""
    inside = np.asarray(geometry.decode_rle(mask), bool)
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    part = inside[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = np.concatenate([[False], part.ravel(), [not part.ravel()[-1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], ends]))
    height, width = part.shape
    return {"rle": ", ".join(map(str, counts.tolist())), "left": left, "top": top, "width": width, "height": height}


def _text(**values: object) -> dict[str, str]:
    return {name: xml_text(str(value)) for name, value in values.items()}

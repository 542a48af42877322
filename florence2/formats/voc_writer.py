"""Pascal VOC written: Annotations/, JPEGImages/, ImageSets/; `voc` reads it back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from florence2 import geometry
from florence2.formats import export_files
from florence2.formats.export_files import PLAIN, Export, ExportOptions, xml_text
from florence2.records import Region, Sample

OURS = "florence2"
LISTS = ("train", "val", "test")  # without a test list, val is what there is to test on


def write(samples: Iterable[Sample], path: str | Path, options: ExportOptions = PLAIN) -> Counter[str]:
    """Annotations/, JPEGImages/ and, where samples name a split, ImageSets/Main; counts what is lost."""
    export = Export(Path(path), options)
    lost, names = export.lost, export_files.Names()
    lists: dict[str, list[str]] = {}
    for sample in samples:
        width, height = export_files.size_of(sample)
        file = options.picture(sample.image)
        name = names.of(file.name)
        stem = os.path.splitext(name)[0]
        export.place(sample.image, file, f"JPEGImages/{name}")
        root = ElementTree.Element("annotation")
        _add(root, filename=name)
        sample = export_files.count_lost(sample, lost, frozenset(("regions", "split")))
        space = export_files.space_of(sample)
        export_files.count_coverage(sample, space, lost)
        held = space if sample.coverage.get(space) else ""  # without coverage no space is stated as exhaustive
        lost["label_space"] += sum(bool(region.label_space) and region.label_space != held for region in sample.regions)
        _add(ElementTree.SubElement(root, "source"), database=held, annotation=OURS)
        _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
        for region in sample.regions:
            _object(root, region, lost)
        ElementTree.indent(root)
        export.write_text(f"Annotations/{stem}.xml", ElementTree.tostring(root, "unicode"))
        lists.setdefault(sample.split, []).append(stem)
    unknown = {"val"} if "test" not in lists else set()
    lost["split"] += sum(len(stems) for split, stems in lists.items() if split not in {"", *LISTS} - unknown)
    files = export_files.Names()
    for split in sorted(lists, key=lambda split: split not in LISTS):  # those that readers know keep their names
        if split:
            stems = "".join(f"{stem}\n" for stem in lists[split])
            export.write_text(f"ImageSets/Main/{files.of(f'{split}.txt')}", stems)
    return export.finish()


def _object(root: ElementTree.Element, region: Region, lost: Counter[str]) -> None:
    box = geometry.region_box(region)
    if box is None or not region.label.strip():
        lost["region_without_box" if box is None else "region_without_label"] += 1
        return
    for field in ("quad", "polygons", "mask", "description"):
        lost[field] += bool(getattr(region, field))
    lost["score"] += region.score is not None
    node = ElementTree.SubElement(root, "object")
    _add(node, name=region.label, difficult=int(region.ignore))
    _add(ElementTree.SubElement(node, "bndbox"), **dict(zip(("xmin", "ymin", "xmax", "ymax"), map(_plain, box))))


def _plain(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _add(parent: ElementTree.Element, **children: object) -> None:
    for tag, value in children.items():
        ElementTree.SubElement(parent, tag).text = xml_text(str(value))

"""Pascal VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt. Twin: reads and writes.

Corners are taken as written, nothing subtracted. A difficult object is an ignored region. Without ImageSets all
annotations are read; a folder that holds the .xml files beside their pictures is read too. The label space is held as
<source><database> of files that name us. Lost in writing: outlines, scores, texts, sources, descriptions, licences, any
coverage but exhaustive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from florence2.formats import validation
from florence2.formats.voc_writer import LISTS, OURS, write
from florence2.records import Coverage, Region, Sample, Source

__all__ = ["is_voc", "read", "write"]
SOURCE = Source("import", "voc")


def is_voc(path: Path) -> bool:
    """Whether an .xml file begins as VOC's do: with an annotation."""
    if path.suffix != ".xml" or not path.is_file():
        return False
    with open(path, "rb") as file:
        return bool(re.search(rb"<(\w+:)?annotation[\s>]", file.read(4096)))


def read(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """The samples of a folder by name; `split` is set where the folder's own lists say it."""
    root = Path(path)
    folder = root / "Annotations" if (root / "Annotations").is_dir() else root
    pictures = Path(images) if images else root / "JPEGImages" if (root / "JPEGImages").is_dir() else folder
    splits = _splits(root / "ImageSets" / "Main")
    files = sorted(folder.glob("*.xml"), key=lambda p: (len(p.stem), p.name) if p.stem.isdigit() else (0, p.name))
    if not files:
        raise ValueError(f"{folder}: holds no .xml file; expected VOC's Annotations")
    for file in files:
        try:
            sample = _sample(file, pictures, root.name, splits.get(file.stem, ""))
        except ValueError as error:
            validation.refuse(error)
            continue
        yield sample


def _splits(lists: Path) -> dict[str, str]:
    out: dict[str, str] = {}
    tested = (lists / "test.txt").is_file()
    for name in LISTS:
        file = lists / f"{name}.txt"
        split = "test" if name == "val" and not tested else name
        for line in validation.read_text(file).splitlines() if file.is_file() else ():
            if line.strip():
                out.setdefault(line.strip(), split)
    return out


def _sample(file: Path, pictures: Path, space: str, split: str) -> Sample:
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise ValueError(f"{file}:{line}: not XML ({error}); check that the file is whole") from None
    name = (root.findtext("filename") or "").strip()
    picture = pictures / name
    if not name or not picture.is_file():
        picture = validation.picture_of_stem(pictures, file.stem)
    name = name or picture.name
    width, height = (
        validation.whole(root.findtext(f"size/{s}") or 0, f"{file}: size/{s}") for s in ("width", "height")
    )
    if root.findtext("source/annotation") == OURS:
        space = root.findtext("source/database") or ""
    regions = []
    for n, node in enumerate(root.findall("object")):
        try:
            regions.append(_region(node, f"{file}: object {n}", f"r{n}", space))
        except ValueError as error:
            validation.refuse(error)
    image = validation.image_ref(name, picture, width, height)
    every = Coverage("exhaustive")
    return Sample(file.stem, image, regions=tuple(regions), split=split, coverage={space: (every,)} if space else {})


def _region(node: ElementTree.Element, where: str, name: str, space: str) -> Region:
    label = (node.findtext("name") or "").strip()
    if not label:
        raise ValueError(f"{where}: has no name")
    corners = [node.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        raise ValueError(f"{where}: bndbox: expected xmin, ymin, xmax and ymax")
    x1, y1, x2, y2 = validation.numbers(corners, f"{where}: bndbox", 4)
    difficult = (node.findtext("difficult") or "0").strip() == "1"
    return Region(name, "object", (x1, y1, x2, y2), label, space, ignore=difficult, source=SOURCE)

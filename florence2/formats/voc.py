"""Pascal VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt. Twin: reads and writes.

Corners are taken as written, nothing subtracted. A difficult object is an ignored region. Without ImageSets all
annotations are read; a folder that holds the .xml files beside their pictures is read too. The label space is held as
<source><database> of files that name us. Lost in writing: outlines, scores, texts, sources, descriptions, licences, any
coverage but exhaustive.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from florence2 import geometry
from florence2.formats import checks, placing
from florence2.records import Coverage, Region, Sample, Source

SOURCE = Source("import", "voc")
OURS = "florence2"
LISTS = ("train", "val", "test")  # without a test list, val is what there is to test on


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
            checks.refuse(error)
            continue
        yield sample


def _splits(lists: Path) -> dict[str, str]:
    out: dict[str, str] = {}
    tested = (lists / "test.txt").is_file()
    for name in LISTS:
        file = lists / f"{name}.txt"
        split = "test" if name == "val" and not tested else name
        for line in checks.read_text(file).splitlines() if file.is_file() else ():
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
        picture = checks.picture_of_stem(pictures, file.stem)
    name = name or picture.name
    width, height = (checks.whole(root.findtext(f"size/{s}") or 0, f"{file}: size/{s}") for s in ("width", "height"))
    if root.findtext("source/annotation") == OURS:
        space = root.findtext("source/database") or ""
    regions = []
    for n, node in enumerate(root.findall("object")):
        try:
            regions.append(_region(node, f"{file}: object {n}", f"r{n}", space))
        except ValueError as error:
            checks.refuse(error)
    image = checks.image_ref(name, picture, width, height)
    every = Coverage("exhaustive")
    return Sample(file.stem, image, regions=tuple(regions), split=split, coverage={space: (every,)} if space else {})


def _region(node: ElementTree.Element, where: str, name: str, space: str) -> Region:
    label = (node.findtext("name") or "").strip()
    if not label:
        raise ValueError(f"{where}: has no name")
    corners = [node.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        raise ValueError(f"{where}: bndbox: expected xmin, ymin, xmax and ymax")
    x1, y1, x2, y2 = checks.numbers(corners, f"{where}: bndbox", 4)
    difficult = (node.findtext("difficult") or "0").strip() == "1"
    return Region(name, "object", (x1, y1, x2, y2), label, space, ignore=difficult, source=SOURCE)


def write(samples: Iterable[Sample], path: str | Path) -> Counter[str]:
    """Annotations/, JPEGImages/ and, where samples name a split, ImageSets/Main; counts what is lost."""
    folder = Path(path)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    lost: Counter[str] = Counter()
    names = placing.Names()
    lists: dict[str, list[str]] = {}
    for sample in samples:
        width, height = placing.size_of(sample)
        name = names.of(sample)
        stem = os.path.splitext(name)[0]
        file = folder / "Annotations" / f"{stem}.xml"
        if file.exists():
            raise ValueError(f"{file}: exists already; name a new or empty folder")
        placing.place_picture(sample, folder / "JPEGImages" / name, lost)
        root = ElementTree.Element("annotation")
        _add(root, filename=name)
        sample = placing.count_lost(sample, lost, frozenset(("regions", "split")))
        space = placing.space_of(sample)
        placing.count_coverage(sample, space, lost)
        held = space if sample.coverage.get(space) else ""  # of nothing it is said that it is exhaustive
        lost["label_space"] += sum(bool(region.label_space) and region.label_space != held for region in sample.regions)
        _add(ElementTree.SubElement(root, "source"), database=held, annotation=OURS)
        _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
        for region in sample.regions:
            _object(root, region, lost)
        ElementTree.indent(root)
        ElementTree.ElementTree(root).write(file, encoding="utf-8")
        lists.setdefault(sample.split, []).append(stem)
    unknown = {"val"} if "test" not in lists else set()
    lost["split"] += sum(len(stems) for split, stems in lists.items() if split not in {"", *LISTS} - unknown)
    for split, stems in lists.items():
        if split:
            target = folder / "ImageSets" / "Main" / f"{split}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return lost


def _object(root: ElementTree.Element, region: Region, lost: Counter[str]) -> None:
    outlines = [region.quad] if region.quad else list(region.polygons)
    box = region.box or (geometry.polygon_box(*outlines) if outlines else None)
    if box is None or not region.label:
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
        ElementTree.SubElement(parent, tag).text = str(value)

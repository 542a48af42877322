"""Pascal VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/*.txt. Twin: reads and writes.

Corners are taken as written, nothing subtracted. A difficult object is an ignored region. Without ImageSets all
annotations are read, those in subfolders too, and folders called train, valid or test tell the split; annotations/
beside images/ and a folder that holds the .xml files beside their pictures are read alike. A picture is the one that
<filename> names, unless that is another file's: then it is the one that bears the .xml file's own name. The label space
is held as <source><database> of files that name us. Lost in writing: outlines, scores, texts, sources, descriptions,
licences, any coverage but exhaustive.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from florence2.formats import documents, validation
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, files_in
from florence2.formats.parts import part_folders, part_of_folder, tested_on
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.formats.voc_writer import LISTS, OURS, write
from florence2.records import Coverage, Region, Sample, Source

__all__ = ["is_voc", "read", "write"]
SOURCE = Source("import", "voc")
PICTURES = ("JPEGImages", "images", "Images", "jpegimages")


def is_voc(root: Path) -> bool:
    """Whether a folder holds .xml files in Annotations/ (annotations/), or of its own that begin as VOC's do."""
    if not root.is_dir():
        return False
    folder = _annotations(root)
    return any(folder != root or _begins(file) for file in files_in(folder, (".xml",), deep=True))


def _begins(file: Path) -> bool:
    return bool(re.search(rb"<(\w+:)?annotation[\s/>]", documents.beginning(file)))


def _annotations(root: Path) -> Path:
    found = (root / name for name in ("Annotations", "annotations"))
    return next((folder for folder in found if folder.is_dir()), root)


def read(path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None) -> Iterator[Sample]:
    """The samples of a folder by name; `split` is set where the folder's own lists say it."""
    root, problems = Path(path), problems or ReadProblems()
    folder = _annotations(root)
    beside = next((root / name for name in PICTURES if (root / name).is_dir()), folder)
    files = files_in(folder, (".xml",), deep=True)
    if not files:
        raise ValueError(f"{folder}: holds no .xml file; expected VOC's Annotations")
    pictures = _Pictures(Path(images) if images else beside, folder, images, files)
    names = {file.relative_to(folder).with_suffix("").as_posix() for file in files} | {file.stem for file in files}
    splits = _splits(root / "ImageSets" / "Main", names, problems)
    beneath = {} if splits else _parts_by_folder(folder, files)
    for file in files:
        name = file.relative_to(folder).with_suffix("").as_posix()
        split = splits.get(name, splits.get(file.stem, beneath.get(file, "")))
        with problems.record():
            yield _sample(file, name, pictures, root.name, split, problems)


def _parts_by_folder(folder: Path, files: list[Path]) -> dict[Path, str]:
    """The parts of files that lie in train/, valid/ and test/."""
    parts = {part.name: part_of_folder(part) for part in part_folders(folder)}
    return tested_on({file: parts.get(file.relative_to(folder).parts[0], "") for file in files})


def _splits(lists: Path, names: set[str], problems: ReadProblems) -> dict[str, str]:
    """Name -> split, of the lists' lines that mean one of the files."""
    out: dict[str, str] = {}
    tested = (lists / "test.txt").is_file()
    for name in LISTS:
        file = lists / f"{name}.txt"
        split = "test" if name == "val" and not tested else name
        for line in documents.read_text(file).splitlines() if file.is_file() else ():
            listed = line.strip().replace("\\", "/")
            if listed not in names:
                listed = re.sub(r"\s+(-1|0|1)$|\.(jpe?g|png|xml)$", "", listed, flags=re.IGNORECASE)
            if listed in names:
                out.setdefault(listed, split)
            elif listed:
                problems.note("names a picture that has no annotation file", f"{file}: {validation.brief(listed)}")
    return out


class _Pictures:
    """Which picture a file means."""

    def __init__(self, top: Path, folder: Path, images: str | Path | None, files: list[Path]) -> None:
        self.top, self.folder = top, folder
        self.lookup = Lookup(folder, [top], images)
        self.stems = {file.relative_to(folder).with_suffix("").as_posix().casefold() for file in files}

    def of(self, file: Path, filename: str) -> tuple[str, Path]:
        """The picture's name and place: of the file's own name, or as it says where that is not another file's."""
        below = file.parent.relative_to(self.folder)
        own = self.lookup.of_stem(self.top / below, file.stem, str(file)) if not filename else None
        named = self.lookup.existing(filename, f"{file}: filename", [self.top / below]) if filename else None
        if named is not None and named.stem != file.stem:
            own = self.lookup.of_stem(self.top / below, file.stem, str(file))
            if own is None and self._is_anothers(named, file):
                raise ValueError(
                    f"{file}: filename: {validation.brief(filename)} is the picture of another file, and there is none "
                    f"called {file.stem}"
                )
        elif named is None:
            own = self.lookup.of_stem(self.top / below, file.stem, str(file))
        if own is not None:
            return (below / own.name).as_posix(), own
        if named is not None:
            return (below / named.name).as_posix() if below.parts else filename, named
        return filename or f"{file.stem}.jpg", self.top / below / (os.path.basename(filename) or f"{file.stem}.jpg")

    def _is_anothers(self, picture: Path, file: Path) -> bool:
        try:
            name = picture.relative_to(self.top).with_suffix("").as_posix()
        except ValueError:
            name = picture.stem
        own = file.relative_to(self.folder).with_suffix("").as_posix()
        return name.casefold() in self.stems - {own.casefold()}


def _sample(file: Path, name: str, pictures: _Pictures, space: str, split: str, problems: ReadProblems) -> Sample:
    root = documents.read_xml(file)
    filename = (root.findtext("filename") or "").strip()
    shown, picture = pictures.of(file, filename)
    stated_wh = (0, 0)
    with problems.record():
        sides = [validation.whole(_text(root, f"size/{s}") or 0, f"{file}: size/{s}") for s in ("width", "height")]
        stated_wh = (sides[0], sides[1])
    if root.findtext("source/annotation") == OURS:
        space = root.findtext("source/database") or ""
    lost, found = LostObjects(problems), []
    for n, node in enumerate(root.findall("object")):
        where = f"{file}: object {n}"
        with lost.object(_text(node, "name")):
            found.append((where, _region(node, where, f"r{n}", space)))
        for what, tag in (("parts", "part"), ("outlines", "polygon")):
            if node.find(tag) is not None:
                problems.note(f"{what} of objects are left out", where)
    frame = Frame.of(picture, stated_wh, str(file))
    regions = frame.place(found, lost)
    coverage = lost.withdraw({space: (Coverage("exhaustive"),)} if space else {}, space, regions)
    return Sample(name, frame.image(shown), regions=regions, split=split, coverage=coverage)


def _text(node: ElementTree.Element, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _region(node: ElementTree.Element, where: str, name: str, space: str) -> Region:
    label = _text(node, "name")
    if not label:
        raise ValueError(f"{where}: has no name")
    corners = [node.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    if None in corners:
        raise ValueError(f"{where}: bndbox: expected xmin, ymin, xmax and ymax")
    x1, y1, x2, y2 = validation.numbers(corners, f"{where}: bndbox", 4)
    ignore = validation.flag(_text(node, "difficult"), f"{where}: difficult")
    return Region(name, "object", (x1, y1, x2, y2), label, space, ignore=ignore, source=SOURCE)

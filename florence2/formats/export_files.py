"""Shared by all writers: names that are safe as paths, pictures put in place, what was renamed, what is lost.

Every name that comes from data (a file's, a split's, an id) goes through `safe_name` or `Names` before it becomes part
of a path: nothing is written outside the folder that was named.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from florence2.atomic_files import replacing, write_atomic
from florence2.records import ImageRef, Region, Sample

LONGEST = 180  # bytes of a name: a number, .txt or .xml and a temporary file's marks fit into the usual 255 beside it
SUFFIX = 16  # bytes of a suffix; what is longer is no suffix
MAPPING = "mapping.json"
# control characters, line ends, broken Unicode, and what is no letter of a name on some system
_UNSAFE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff<>:"/\\\\|?*]')
_RESERVED = frozenset(("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))))
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def safe_name(text: str, fallback: str = "_") -> str:
    """One component of a path on any system: no separator, not hidden, not `..`, at most LONGEST bytes of UTF-8."""
    name = _UNSAFE.sub("_", text).strip().rstrip(". ")
    if not name.strip("._ "):
        return fallback
    if name.startswith("."):
        name = f"_{name[1:]}"
    stem, suffix = os.path.splitext(name)
    if len(suffix.encode()) > SUFFIX:
        stem, suffix = name, ""
    if stem.split(".")[0].strip().casefold() in _RESERVED:
        stem = f"_{stem}"
    return stem.encode()[: LONGEST - len(suffix.encode())].decode("utf-8", "ignore").rstrip(". ") + suffix


class Names:
    """Safe names that are unique in one folder, whatever a file system makes of case and of composed letters.

    With `stems`, names differ before their suffix, as label files named after pictures need it.
    """

    def __init__(self, stems: bool = True) -> None:
        self.stems = stems
        self.taken: set[str] = set()
        self.folders: set[str] = set()

    def of(self, name: str) -> str:
        """The name, made safe and numbered where it is taken."""
        return self.below("", name)

    def of_path(self, path: str) -> str:
        """A path of safe names, folders kept."""
        *parents, name = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")] or [""]
        folder = ""
        for part in parents[-8:]:
            folder = self._free(folder, safe_name(part), lambda key: key not in self.taken)
            self.folders.add(_key(folder))
        return self.below(folder, name)

    def below(self, folder: str, name: str) -> str:
        """A free name in `folder`, as a path."""
        found = self._free(folder, safe_name(name), lambda key: key not in self.taken and key not in self.folders)
        self.taken.add(self._key(found))
        return found

    def _free(self, folder: str, name: str, free: Callable[[str], bool]) -> str:
        stem, suffix = os.path.splitext(name)
        path, count = f"{folder}/{name}".lstrip("/"), 0
        while not free(self._key(path)):
            count += 1
            path = f"{folder}/{stem}_{count}{suffix}".lstrip("/")
        return path

    def _key(self, path: str) -> str:
        return _key(os.path.splitext(path)[0] if self.stems else path)


def _key(path: str) -> str:
    """What two paths share that may be one file; a reader finds `images/x` as it does `x`."""
    folded = unicodedata.normalize("NFC", path).casefold()
    while folded.startswith("images/"):
        folded = folded.removeprefix("images/")
    return folded


@dataclass(frozen=True)
class PictureFile:
    """A picture's file: its name, and the path where it lies or, where it is no file of its own, its bytes."""

    name: str
    path: Path | None = None
    data: bytes | None = None


def plain_file(ref: ImageRef) -> PictureFile:
    """The file of a picture that lies in a folder; one inside a tar or a table has neither path nor bytes here."""
    name = PurePosixPath((ref.member or ref.uri or ref.id).replace("\\", "/")).name
    path = Path(ref.uri)
    return PictureFile(name, path if ref.uri and not ref.member and path.is_file() else None)


def _itself(name: str) -> str:
    return name


@dataclass(frozen=True)
class ExportOptions:
    """How to write: what the user asks for, then what the caller knows of the samples."""

    scores: bool = False
    """Write scores, in formats that leave them out unless asked."""
    link: bool = False
    """Hard links in place of copies of the pictures."""
    yolo: str = ""
    """boxes or outlines; without it outlines where every object has one, else boxes."""
    image_prefix: str = ""
    """Address before a picture's name in Label Studio's tasks."""
    export_id: str = ""
    """Name of this export in the store it comes from; written into the files that a reviewer sends back."""
    resume: bool = False
    """The folder holds an interrupted export of the same: pictures that are there stay."""
    categories: Sequence[Mapping[str, Any]] = ()
    """Categories of the set that the samples come from: {id, name, supercategory}."""
    original_id: Callable[[str], str] = _itself
    """The id that an item had in the set it comes from."""
    part_of: Callable[[Sample], str] | None = None
    """train, val or test, for trainers, where a sample names no split."""
    picture: Callable[[ImageRef], PictureFile] = plain_file


PLAIN = ExportOptions()


@dataclass
class Export:
    """One export into a folder: what was placed where, and counts of what the format cannot hold."""

    folder: Path
    options: ExportOptions = PLAIN
    lost: Counter[str] = field(default_factory=Counter)
    mapping: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def place(self, ref: ImageRef, file: PictureFile, relative: str) -> None:
        """Put a picture at `relative`, a path of safe names, and note where it came from."""
        self.mapping[relative] = f"{ref.uri}!{ref.member}" if ref.member else ref.uri
        if file.path is None and file.data is None:
            self.lost["picture_not_placed"] += 1
            return
        target = self.target(relative)
        if target.exists():
            if self.options.resume and target.stat().st_size == _size(file):
                return
            target.unlink()
        with replacing(target, sole=True) as temp_path:
            if file.path is None:
                temp_path.write_bytes(file.data or b"")
            elif not (self.options.link and _linked(file.path, temp_path)):
                shutil.copyfile(file.path, temp_path)

    def target(self, relative: str) -> Path:
        """The path of a file to write, its folder made; ValueError where it is there and no interrupted export's."""
        target = self.folder / relative
        if target.exists() and not self.options.resume:
            raise ValueError(f"{target}: exists already; name a new or empty folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write_text(self, relative: str, text: str) -> None:
        """Write a file whole or not at all; broken Unicode becomes an escape."""
        write_atomic(self.target(relative), text, sole=True)

    def write_json(self, relative: str, data: Any) -> None:
        """Write a JSON file; a lone surrogate's escape is what JSON itself writes for it."""
        self.write_text(relative, json.dumps(data, ensure_ascii=False))

    def finish(self) -> Counter[str]:
        """Write the mapping of names to pictures; the counts of what is lost."""
        self.write_text(MAPPING, json.dumps(self.mapping, ensure_ascii=False, indent=0))
        return self.lost


def _size(file: PictureFile) -> int:
    return file.path.stat().st_size if file.path is not None else len(file.data or b"")


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system
        return False
    return True


def repeatable(samples: Iterable[Sample]) -> Iterable[Sample]:
    """The samples as something that can be gone through more than once."""
    return list(samples) if iter(samples) is samples else samples


def xml_text(text: str) -> str:
    """The text without what no XML can hold: control characters and broken Unicode become U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def size_of(sample: Sample) -> tuple[int, int]:
    """The picture's width and height, which most formats need."""
    width, height = sample.image.size_wh
    if not width or not height:
        raise ValueError(f"sample {sample.id!r}: its picture's size is not known; read it with its picture in place")
    return width, height


def count_lost(sample: Sample, lost: Counter[str], kept: frozenset[str], words: bool = False) -> Sample:
    """The sample's current view as a format holds it; what it holds beside `kept` is counted as lost.

    `kept`: texts, regions, groundings, split, licence, source. What refines a region of its label (a mask its box)
    becomes part of it. Regions of text are kept where the format has `words`: elsewhere they would be categories.
    """
    hidden = len([d for d in sample.decisions if d.status != "kept"])
    if hidden:
        lost["rejected_or_superseded"] += hidden
    sample = sample.current()
    for kind in ("texts", "regions", "groundings"):
        items = getattr(sample, kind)
        if items and kind not in kept:
            lost[kind] += len(items)
    lost["split"] += bool(sample.split) and "split" not in kept
    lost["licence"] += bool(sample.image.licence) and "licence" not in kept
    regions = _whole(sample.regions, lost) if "regions" in kept else ()
    if not words:
        lost["regions_of_text"] += sum(region.kind == "text" for region in regions)
        regions = tuple(region for region in regions if region.kind != "text")
    if "source" not in kept:
        lost["source"] += sum(region.source is not None and region.source.kind != "import" for region in regions)
    return replace(sample, regions=regions)


def space_of(sample: Sample) -> str:
    """The label space of a sample's objects, or else one that its coverage names."""
    named = next((region.label_space for region in sample.regions if region.label_space), "")
    return named or next((space for space in sample.coverage if space != "text"), "")


def count_coverage(sample: Sample, space: str, lost: Counter[str]) -> None:
    """Count what a format without coverage loses: all but that every object of its labels is there."""
    for name, states in sample.coverage.items():
        held = name == space and all(coverage.state == "exhaustive" for coverage in states)
        lost["coverage"] += 0 if held or name == "text" else len(states)


def _whole(regions: Sequence[Region], lost: Counter[str]) -> tuple[Region, ...]:
    """The regions without those that refine another: what they add is added to it, where it fits."""
    own = {region.id: region for region in regions if region.id}
    out = dict(own)
    for region in regions:
        base = out.get(region.refines)
        if base is None or region.refines == region.id or base.label != region.label and region.label:
            lost["refines"] += bool(region.refines)
            continue
        shape = base.polygons or base.quad or base.mask is not None
        more: dict[str, Any] = {} if shape else {"polygons": region.polygons, "mask": region.mask}
        lost["refinements"] += bool(shape and (region.polygons or region.mask is not None))
        out[base.id] = replace(base, description=base.description or region.description, **more)
        del out[region.id]
    return tuple(out.get(r.id, r) if r.id else r for r in regions if not r.id or r.id in out)

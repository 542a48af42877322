"""Open Images, read only: boxes and verified labels as CSV, the pictures in a folder of the part's name or images/.

    class-descriptions-boxable.csv                    /m/01g317,Person
    PART-annotations-bbox.csv                         ImageID,LabelName,XMin,XMax,YMin,YMax,IsGroupOf, and more
    PART-annotations-human-imagelabels-boxable.csv    ImageID,Source,LabelName,Confidence: 1 verified, 0 not there
                                                      (or oidv7-val-annotations-human-imagelabels.csv, as V7 has it)

A label verified as present has all its boxes drawn (exhaustive); one verified as absent is a negative; of any other the
absence means nothing. A group is an ignored region.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from florence2.formats import validation
from florence2.records import Coverage, Region, Sample, Source

SPACE = "openimages"
SOURCE = Source("import", "openimages")
BOXES = "-annotations-bbox.csv"
LABELS = ("-annotations-human-imagelabels-boxable.csv", "-annotations-human-imagelabels.csv")
NEWER = {"validation": "oidv7-val", "test": "oidv7-test", "oidv6-train": "oidv7-train"}  # V7's label files
SPLITS = {"train": "train", "validation": "test", "test": "test", "oidv6-train": "train"}


def read(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """The samples of every part in a folder, or of one boxes file; `split` is its part (validation is test)."""
    root = Path(path)
    files = [root] if root.is_file() else sorted(root.glob(f"*{BOXES}"))
    if not files:
        raise ValueError(f"{root}: holds no *{BOXES}")
    names = _names(files[0].parent)
    for file in files:
        part = file.name.removesuffix(BOXES)
        verified = _verified(file, part, names)
        regions = _regions(file, names)
        for name in dict.fromkeys([*regions, *verified]):
            try:
                sample = _sample(name, file, part, regions.get(name, []), verified.get(name, {}), images)
            except ValueError as error:
                validation.refuse(error)
                continue
            yield sample


def _sample(
    name: str,
    file: Path,
    part: str,
    rows: list[tuple[str, tuple[float, ...], bool, str]],
    verified: dict[str, bool],
    images: str | Path | None,
) -> Sample:
    here = file.parent
    place = part.removeprefix("oidv6-")
    folders = [Path(images), Path(images) / place] if images else [here / place, here / "images", here / "data", here]
    image = validation.image_ref(f"{name}.jpg", validation.find_picture(f"{name}.jpg", folders))
    if rows and not image.width:
        raise ValueError(f"{rows[0][3]}: the size of {image.uri} is needed for its boxes; put the picture in place")
    width, height = image.size_wh
    regions = []
    for n, (label, (x1, x2, y1, y2), group, _) in enumerate(rows):
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        regions.append(Region(f"r{n}", "object", box, label, SPACE, ignore=group, source=SOURCE))
    boxed = dict.fromkeys(region.label for region in regions)
    here_too = tuple(label for label in boxed if verified.get(label, True))
    absent = tuple(label for label, present in verified.items() if not present)
    unboxed = tuple(label for label, present in verified.items() if present and label not in boxed)
    states = (Coverage("exhaustive", here_too), Coverage("partial", unboxed), Coverage("negatives", absent))
    known = tuple(state for state in states if state.labels)
    coverage = {SPACE: known} if known else {}
    return Sample(name, image, regions=tuple(regions), split=SPLITS.get(part, part), coverage=coverage)


def _names(folder: Path) -> dict[str, str]:
    """Label code -> name."""
    files = sorted(folder.glob("*class-descriptions*.csv"))
    if not files:
        raise ValueError(f"{folder}: holds no class-descriptions-boxable.csv, which names the labels")
    out = {}
    for n, row in enumerate(csv.reader(validation.read_text(files[0]).splitlines()), 1):
        if len(row) != 2:
            raise ValueError(f"{files[0]}:{n}: expected code,name, got {len(row)} cells")
        out[row[0]] = row[1]
    return out


def _regions(file: Path, names: dict[str, str]) -> dict[str, list[tuple[str, tuple[float, ...], bool, str]]]:
    out: dict[str, list[tuple[str, tuple[float, ...], bool, str]]] = {}
    for where, row in _rows(file, ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")):
        try:
            corners = validation.numbers([row[key] for key in ("XMin", "XMax", "YMin", "YMax")], where, 4)
            if corners[0] > corners[1] or corners[2] > corners[3]:
                raise ValueError(f"{where}: expected XMin <= XMax and YMin <= YMax, got {corners}")
            label = _named(names, row["LabelName"], where)
        except ValueError as error:
            validation.refuse(error)
            continue
        out.setdefault(row["ImageID"], []).append((label, corners, row.get("IsGroupOf") == "1", where))
    return out


def _verified(file: Path, part: str, names: dict[str, str]) -> dict[str, dict[str, bool]]:
    """Picture -> label -> whether a person found it there."""
    names_of_part = dict.fromkeys((part, part.removeprefix("oidv6-"), NEWER.get(part, part)))
    guesses = [file.with_name(name + suffix) for name in names_of_part for suffix in LABELS]
    labels = next((guess for guess in guesses if guess.is_file()), None)
    out: dict[str, dict[str, bool]] = {}
    for where, row in _rows(labels, ("ImageID", "LabelName", "Confidence")) if labels else ():
        try:
            present = validation.number(row["Confidence"], f"{where}: Confidence") > 0
            out.setdefault(row["ImageID"], {})[_named(names, row["LabelName"], where)] = present
        except ValueError as error:
            validation.refuse(error)
    return out


def _rows(file: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.DictReader(validation.read_text(file).splitlines())
    lacking = [column for column in needed if column not in (reader.fieldnames or ())]
    if lacking:
        raise ValueError(f"{file}:1: has no column {lacking[0]}; expected {', '.join(needed)}")
    for n, row in enumerate(reader, 2):
        if any(row[column] is None for column in needed):
            validation.refuse(ValueError(f"{file}:{n}: expected {len(reader.fieldnames or ())} cells, got fewer"))
            continue
        yield f"{file}:{n}", row


def _named(names: dict[str, str], code: str, where: str) -> str:
    if code not in names:
        raise ValueError(f"{where}: label {code!r} is not among the class descriptions")
    return names[code]

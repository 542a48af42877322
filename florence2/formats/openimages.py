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

from florence2.formats import documents, validation
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, matching
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Coverage, Region, Sample, Source

SPACE = "openimages"
SOURCE = Source("import", "openimages")
BOXES = "-annotations-bbox.csv"
LABELS = ("-annotations-human-imagelabels-boxable.csv", "-annotations-human-imagelabels.csv")
NEWER = {"validation": "oidv7-val", "test": "oidv7-test", "oidv6-train": "oidv7-train"}  # V7's label files
SPLITS = {"train": "train", "validation": "test", "test": "test", "oidv6-train": "train"}


def read(path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None) -> Iterator[Sample]:
    """The samples of every part in a folder, or of one boxes file; `split` is its part (validation is test)."""
    root, problems = Path(path), problems or ReadProblems()
    files = [root] if root.is_file() else matching(root, f"*{BOXES}")
    if not files:
        raise ValueError(f"{root}: holds no *{BOXES}")
    names = _names(files[0].parent, problems)
    for file in files:
        part = _Part(file, names, images, problems)
        with problems.record():
            part.read()
        for name in dict.fromkeys([*part.boxes, *part.verified]):
            with problems.record():
                yield part.sample(name)


class _Part:
    """One part's tables: the boxes and verified labels of each picture."""

    def __init__(self, file: Path, names: dict[str, str], images: str | Path | None, problems: ReadProblems) -> None:
        self.file, self.names, self.problems = file, names, problems
        self.part = file.name.removesuffix(BOXES)
        self.boxes: dict[str, list[tuple[str, str, tuple[float, ...], bool]]] = {}
        self.verified: dict[str, dict[str, bool]] = {}
        self.lost: dict[str, LostObjects] = {}
        here, place = file.parent, self.part.removeprefix("oidv6-")
        folders = [here / place, here / "images", here / "data", here]
        self.lookup = Lookup(here, [Path(images), Path(images) / place] if images else folders, images)

    def read(self) -> None:
        """Both tables."""
        for where, row in _rows(self.file, ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"), self.problems):
            lost = self.lost.setdefault(row["ImageID"], LostObjects(self.problems))
            with lost.object(self.names.get(row["LabelName"], "")):
                corners = validation.numbers([row[key] for key in ("XMin", "XMax", "YMin", "YMax")], where, 4)
                if corners[0] > corners[1] or corners[2] > corners[3]:
                    raise ValueError(f"{where}: expected XMin <= XMax and YMin <= YMax, got {corners}")
                label = self._named(row["LabelName"], where)
                name = validation.word(row["ImageID"], f"{where}: ImageID")
                stated = row.get("IsGroupOf")  # -1: not known
                group = stated != "-1" and validation.flag(stated, f"{where}: IsGroupOf")
                self.boxes.setdefault(name, []).append((where, label, corners, group))
        names_of_part = dict.fromkeys((self.part, self.part.removeprefix("oidv6-"), NEWER.get(self.part, self.part)))
        guesses = [self.file.with_name(name + suffix) for name in names_of_part for suffix in LABELS]
        labels = next((guess for guess in guesses if guess.is_file()), None)
        for where, row in _rows(labels, ("ImageID", "LabelName", "Confidence"), self.problems) if labels else ():
            with self.problems.record():
                present = validation.number(row["Confidence"], f"{where}: Confidence") > 0
                name = validation.word(row["ImageID"], f"{where}: ImageID")
                self.verified.setdefault(name, {})[self._named(row["LabelName"], where)] = present

    def _named(self, code: str, where: str) -> str:
        if code not in self.names:
            raise ValueError(f"{where}: label {validation.brief(code)} is not among the class descriptions")
        return self.names[code]

    def sample(self, name: str) -> Sample:
        """One picture's sample."""
        rows, verified = self.boxes.get(name, []), self.verified.get(name, {})
        where = rows[0][0] if rows else f"{self.file}: {name}"
        frame = Frame.of(self.lookup.picture(f"{name}.jpg", where), (0, 0), where).in_shares()
        if rows and not all(frame.size_wh):
            raise ValueError(f"{where}: the size of {frame.picture} is needed for its boxes; put the picture in place")
        width, height = frame.size_wh
        found = []
        for n, (place, label, (x1, x2, y1, y2), group) in enumerate(rows):
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            found.append((place, Region(f"r{n}", "object", box, label, SPACE, ignore=group, source=SOURCE)))
        lost = self.lost.get(name) or LostObjects(self.problems)
        regions = frame.place(found, lost)
        boxed = dict.fromkeys(label for _, label, _, _ in rows)
        listed = tuple(label for label in boxed if verified.get(label, True))
        absent = tuple(label for label, present in verified.items() if not present)
        unboxed = tuple(label for label, present in verified.items() if present and label not in boxed)
        states = (Coverage("exhaustive", listed), Coverage("partial", unboxed), Coverage("negatives", absent))
        known = tuple(state for state in states if state.labels)
        coverage = lost.withdraw({SPACE: known} if known else {}, SPACE, regions)
        image = frame.image(f"{name}.jpg")
        return Sample(name, image, regions=regions, split=SPLITS.get(self.part, self.part), coverage=coverage)


def _names(folder: Path, problems: ReadProblems) -> dict[str, str]:
    """Label code -> name."""
    files = matching(folder, "*class-descriptions*.csv")
    if not files:
        raise ValueError(f"{folder}: holds no class-descriptions-boxable.csv, which names the labels")
    out = {}
    for n, row in enumerate(_cells(files[0]), 1):
        with problems.record():
            if len(row) != 2:
                raise ValueError(f"{files[0]}:{n}: expected code,name, got {len(row)} cells")
            out[row[0]] = validation.word(row[1], f"{files[0]}:{n}")
    return out


def _cells(file: Path) -> Iterator[list[str]]:
    try:
        yield from csv.reader(documents.read_text(file).splitlines())
    except csv.Error as error:
        raise ValueError(f"{file}: not CSV ({error}); check that the file is whole") from None


def _rows(file: Path, needed: tuple[str, ...], problems: ReadProblems) -> Iterator[tuple[str, dict[str, str]]]:
    cells = _cells(file)
    head = next(cells, [])
    lacking = [column for column in needed if column not in head]
    if lacking:
        raise ValueError(f"{file}:1: has no column {lacking[0]}; expected {', '.join(needed)}")
    for n, row in enumerate(cells, 2):
        with problems.record():
            if len(row) < len(head):
                raise ValueError(f"{file}:{n}: expected {len(head)} cells, got fewer")
            yield f"{file}:{n}", dict(zip(head, row))

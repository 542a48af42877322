"""YOLO: data.yaml naming classes and splits, labels/*.txt beside images/. Twin: reads and writes.

Sets with a bare list of names (classes.txt, obj.names) or darknet's obj.data are read as well.

A row is `class cx cy w h` in fractions of the picture, with a score after it, or `class x y x y ...`, an outline; with
`kpt_shape` in data.yaml it is a box and key points, which are left out. labels/ takes the place of the last images/ of
a picture's path below the set, else a label file lies beside its picture. The label space and splits of other names are
held under `florence2` in data.yaml. Lost in writing: ignored regions, masks (outlines stay), texts, sources,
descriptions, licences, any coverage but exhaustive.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2 import geometry
from florence2.formats import documents, validation, yolo_names
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, check_name, files_in, pictures_in, place_of
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.formats.yolo_writer import OURS, write
from florence2.records import Coverage, Region, Sample, Source

__all__ = ["is_yolo", "read", "write"]
SOURCE = Source("import", "yolo")
SPLITS = {"train": "train", "val": "test", "test": "test"}  # a key of data.yaml -> our split
NAMES = ("data.yaml", "dataset.yaml", "data.yml")


def is_yolo(path: Path) -> bool:
    """Whether a path is a set's .yaml or list of names, or a folder that holds one."""
    if not path.is_dir():
        return path.suffix in (".yaml", ".yml") or yolo_names.is_list(path)
    return _card_of(path) is not None


def _card_of(folder: Path) -> Path | None:
    return next((folder / n for n in NAMES if (folder / n).is_file()), None) or yolo_names.find(folder)


def read(path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None) -> Iterator[Sample]:
    """The samples of a data.yaml (or of the folder that holds it); `split` is what its keys say."""
    path, problems = Path(path), problems or ReadProblems()
    file = (_card_of(path) or path / NAMES[0]) if path.is_dir() else path
    card = _Card.read(file, problems)
    found: dict[str, tuple[Path, str]] = {}
    for key in SPLITS:
        for entry in _entries(card.data.get(key), f"{file}: {key}"):
            with problems.record():
                part = card.split_of(key, entry)
                for picture in _pictures(file, key, card.root, entry, Path(images) if images else None, problems):
                    found.setdefault(os.path.abspath(picture), (picture, part))
    lookup = Lookup(file.parent, [card.root], images)
    labels = {place: _labels_of(picture, card.root, lookup) for place, (picture, _) in found.items()}
    unlabelled = [found[place][0] for place, label in labels.items() if label is None]
    if found and len(unlabelled) == len(found):
        problems.refuse(
            ValueError(
                f"{file}: none of its {len(found)} pictures has a label file; for {unlabelled[0]} expected "
                f"{_mirrored(unlabelled[0], card.root)} or one beside it (an empty one says that nothing is there)"
            )
        )
    elif unlabelled:
        for picture in unlabelled:
            problems.note("has no label file, which says that nothing is on it", str(picture))
    _note_strays([label for label in labels.values() if label is not None], problems)
    owners: dict[Path, Path] = {}
    for place, (picture, part) in found.items():
        with problems.record():
            label = labels[place]
            if label is not None and owners.setdefault(label, picture) != picture:
                raise ValueError(f"{label}: belongs to {owners[label].name} and to {picture.name}; rename one of them")
            yield _sample(picture, label, card, part, problems, claims=len(unlabelled) < len(found))


@dataclass(frozen=True)
class _Card:
    """What data.yaml says, or the file in its place."""

    name: str
    data: Mapping[str, Any]
    root: Path
    names: Mapping[int, str]
    space: str
    pose: bool
    splits: Mapping[str, str]

    @classmethod
    def read(cls, file: Path, problems: ReadProblems) -> _Card:
        bare = yolo_names.is_list(file)
        data, unsplit = yolo_names.card(file) if bare else (documents.read_yaml(file), {})
        if not isinstance(data, Mapping) or not set(SPLITS) & set(data):
            raise ValueError(f"{file}: expected 'names' and at least one of train, val, test")
        rows = validation.field(data, "names", str(file))
        if isinstance(rows, list):
            rows = dict(enumerate(rows))
        if not isinstance(rows, Mapping):
            raise ValueError(
                f"{file}: names: expected a list or a map from number to name, got {validation.brief(rows)}"
            )
        names: dict[int, str] = {}
        for number, name in rows.items():
            with problems.record():
                key = validation.whole(number, f"{file}: names")
                names[key] = validation.word(name, f"{file}: names: {key}")
        ours = data.get(OURS)
        ours = ours if isinstance(ours, Mapping) else {}
        splits = ours.get("splits")
        splits = splits if isinstance(splits, Mapping) else {}
        home = yolo_names.home(file.absolute()) if bare else file.absolute().parent
        space = validation.word(ours.get("label_space", home.name), f"{file}: {OURS}", empty=True)
        within = Path(os.path.abspath(file.absolute().parent.parent))
        path = data.get("path")
        root = place_of(path, file.parent, within) if isinstance(path, str) and path.strip() else None
        root = root if root is not None and root.is_dir() else home  # often a folder of another machine
        parts = {**unsplit, **{str(k): str(v) for k, v in splits.items()}}
        return cls(file.name, data, root, names, space, "kpt_shape" in data, parts)

    def split_of(self, key: str, entry: str) -> str:
        """The split of what a key names: the part under `val` is also the one to test on where there is no test
        part."""
        both = {"val", "test"} <= set(self.data) and self.data["val"] != self.data["test"]
        return self.splits.get(entry, "val" if both and key == "val" else SPLITS[key])


def _entries(value: Any, where: str) -> list[str]:
    values = value if isinstance(value, list) else [value] if value else []
    return [validation.word(entry, where) for entry in values]


def _pictures(file: Path, key: str, root: Path, entry: str, images: Path | None, problems: ReadProblems) -> list[Path]:
    """The pictures that an entry names: a folder with all that lies below it, or a list."""
    within = Path(os.path.abspath(file.absolute().parent.parent))
    place = images or place_of(entry, root, within) or place_of(entry, file.parent, within)
    if place is None or not os.path.exists(place):
        shown = validation.brief(entry)
        raise ValueError(f"{file}: {key}: {shown} is neither a folder nor a list of pictures below {root}")
    if place.is_dir():
        found = pictures_in(place, deep=True)
        if not found:
            raise ValueError(f"{file}: {key}: {place} holds no picture")
        return found
    lookup, out = Lookup(file.parent, [root, place.parent]), []
    for n, line in enumerate(documents.read_text(place).splitlines(), 1):
        if line.strip():
            with problems.record():
                check_name(line, f"{place}:{n}")
                out.append(lookup.picture(line.strip(), f"{place}:{n}"))
    return out


def _mirrored(picture: Path, root: Path) -> Path:
    """The label file's place with labels/ for the last images/ of the path below `root`."""
    top, place = os.path.abspath(root), os.path.abspath(picture)
    below = os.path.relpath(place, top) if place.startswith(top.rstrip(os.sep) + os.sep) else place.lstrip(os.sep)
    parts = below.split(os.sep)
    folders = [part.casefold() for part in parts[:-1]]
    if "images" in folders:
        last = len(folders) - 1 - folders[::-1].index("images")
        parts[last] = {"Images": "Labels", "IMAGES": "LABELS"}.get(parts[last], "labels")
    return Path(place[: len(place) - len(below)], *parts).with_suffix(".txt")


def _with_last(folder: Path, words: Mapping[str, str]) -> Path:
    """The folder with the last of its parts that is one of the words replaced."""
    parts = list(folder.parts)
    last = max((n for n, part in enumerate(parts) if part in words), default=None)
    return folder if last is None else Path(*parts[:last], words[parts[last]], *parts[last + 1 :])


def _labels_of(picture: Path, root: Path, lookup: Lookup) -> Path | None:
    """The label file of a picture, None where there is none."""
    for guess in dict.fromkeys((_mirrored(picture, root), picture.with_suffix(".txt"))):
        found = lookup.spelled(guess.parent, [guess.name])
        if found is not None:
            return found
    return None


def _note_strays(taken: list[Path], problems: ReadProblems) -> None:
    """Name the label files beside those that were taken whose picture is not there."""
    known = set(taken)
    for folder in dict.fromkeys(label.parent for label in taken):
        mirrored = _with_last(folder, {"labels": "images", "Labels": "Images", "LABELS": "IMAGES"})
        stems = {path.stem for place in (folder, mirrored) for path in pictures_in(place)}
        for file in files_in(folder, (".txt",)):
            first = documents.beginning(file).split(b"\n")[0].split()
            if file not in known and file.stem not in stems and len(first) > 4 and first[0].isdigit():
                problems.note("is a label file without a picture and is left out", str(file))


def _sample(
    picture: Path, labels: Path | None, card: _Card, split: str, problems: ReadProblems, claims: bool
) -> Sample:
    name = os.path.relpath(picture, card.root)
    frame = Frame.of(picture, (0, 0), str(labels or picture)).in_shares()
    lost, found = LostObjects(problems), []
    lines = documents.read_text(labels).splitlines() if labels is not None else []
    if any(line.strip() for line in lines) and not all(frame.size_wh):
        raise ValueError(f"{picture}: its size is needed to read {labels}; put the picture in place")
    for n, line in enumerate(lines, 1):
        cells = line.split()
        if not cells:
            continue
        where = f"{labels}:{n}"
        with lost.object(card.names.get(int(cells[0]), "") if cells[0].isdecimal() and len(cells[0]) < 9 else ""):
            found.append((where, _region(cells, where, f"r{n - 1}", card, frame.size_wh)))
            if card.pose and len(cells) > 5:
                problems.note("key points (pose, kpt_shape) are left out", where)
    regions = frame.place(found, lost)
    every = (Coverage("exhaustive", tuple(dict.fromkeys(card.names.values()))),)
    coverage: dict[str, tuple[Coverage, ...]] = {card.space: every} if card.space and claims else {}
    coverage = lost.withdraw(coverage, card.space, regions)
    return Sample(name, frame.image(name), regions=regions, split=split, coverage=coverage)


def _region(cells: list[str], where: str, name: str, card: _Card, size_wh: tuple[int, int]) -> Region:
    number = validation.whole(cells[0], f"{where}: class")
    if number not in card.names:
        raise ValueError(f"{where}: class {number} is not among the {len(card.names)} names of {card.name}")
    values = validation.numbers(cells[1:], where)
    width, height = size_wh
    if len(values) in (4, 5) or (card.pose and len(values) > 5):
        cx, cy, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
        if w < 0 or h < 0:
            raise ValueError(f"{where}: expected a width and height of at least 0, got {values[2]} x {values[3]}")
        if min(values[:2]) > 1 or max(values[2:4]) > 2:
            raise ValueError(
                f"{where}: expected fractions of the picture, got {validation.brief(list(values[:4]))}: pixels?"
            )
        score = values[4] if len(values) == 5 else None
        if score is not None and not 0 <= score <= 1:
            raise ValueError(f"{where}: expected a score of 0 to 1 after the box, got {score:g}")
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        return Region(name, "object", box, card.names[number], card.space, score=score, source=SOURCE)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{where}: expected class and 4 numbers, a score after them, or x, y pairs; got {len(values)}")
    outline = tuple(v * (height if n % 2 else width) for n, v in enumerate(values))
    box = geometry.polygon_box(outline)
    return Region(name, "object", box, card.names[number], card.space, polygons=(outline,), source=SOURCE)

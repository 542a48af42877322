"""YOLO sets without a data.yaml: a list of names beside the pictures, or darknet's obj.data.

LabelImg and Label Studio write classes.txt, CVAT and darknet obj.names and obj.data. Each becomes the mapping that a
data.yaml would hold, with the parts that folders called train, val and test name, so that one reader opens all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from florence2.formats import documents
from florence2.formats.lookup import files_in, is_litter
from florence2.formats.parts import PARTS, part_folders, part_of_folder

DARKNET = "obj.data"
LISTS = ("classes.txt", "obj.names", "_darknet.labels")


def find(folder: Path) -> Path | None:
    """The file of a folder that names the classes; None where none does or no label file lies below."""
    places = [folder / DARKNET, *(place / name for place in (folder, folder / "labels") for name in LISTS)]
    file = next((place for place in places if place.is_file()), None)
    if file is None or file.name == DARKNET:
        return file
    return file if any(_is_rows(path) for path in files_in(folder, (".txt",), deep=True) if path != file) else None


def is_list(path: Path) -> bool:
    """Whether a path is called as the files are that name the classes of a set without a data.yaml."""
    return path.name in (DARKNET, *LISTS)


def home(file: Path) -> Path:
    """The folder of the set that a file of names belongs to."""
    return file.parent.parent if file.parent.name == "labels" else file.parent


def card(file: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """What a data.yaml would hold for a set of this file, and the split of the entries that belong to no part.

    Raises ValueError where obj.data names no list of classes.
    """
    if file.name == DARKNET:
        return _darknet(file), {}
    data: dict[str, Any] = {"names": _names(file)}
    root = home(file)
    for top in (root, root / "images"):
        for folder in part_folders(top) if top.is_dir() else ():
            data.setdefault(part_of_folder(folder), []).append(str(folder.relative_to(root)))
    if len(data) < 3:  # one folder alone is no part
        whole = "images" if (root / "images").is_dir() else "."
        return {"names": data["names"], "train": [whole]}, {whole: ""}
    return data, {}


def _names(file: Path) -> list[str]:
    lines = [line.strip() for line in documents.read_text(file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _darknet(file: Path) -> dict[str, Any]:
    pairs = (line.partition("=") for line in documents.read_text(file).splitlines() if "=" in line)
    data: dict[str, Any] = {key.strip(): value.strip() for key, _, value in pairs}
    named = data.get("names", "")
    places = [file.parent / named, file.parent / Path(named).name]
    names = next((place for place in places if named and place.is_file()), None)
    if names is None:
        raise ValueError(f"{file}: names: {named!r} is no file; expected a list of names such as obj.names beside it")
    out: dict[str, Any] = {"names": _names(names)}
    for key, value in data.items():
        if key in PARTS and value:
            out[PARTS[key]] = value
    return out


def _is_rows(path: Path) -> bool:
    """Whether a text file begins with a row of a class and at least four numbers."""
    if is_litter(path.name):
        return False
    first = documents.beginning(path).strip().split(b"\n")[0].split()
    return len(first) > 4 and first[0].isdigit()

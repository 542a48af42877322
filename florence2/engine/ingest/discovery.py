"""What a source holds: the pictures of a folder, of tars and tables in it, by name. Knows files, decodes nothing.

A file that should hold pictures and cannot be read is listed with its problem, so that it becomes a failed row. What
systems leave beside pictures (hidden folders, recycle bins, the `._` files of a Mac) is skipped and counted by name.
"""

from __future__ import annotations

import csv
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from florence2.engine.ingest import url_lists
from florence2.engine.ingest.inspection import ImageCandidate
from florence2.engine.ingest.object_listing import discover_objects
from florence2.engine.ingest.packed import SUFFIXES, all_there_is, in_file, with_splits
from florence2.object_store import is_object_url
from florence2.sources import file_types, files
from florence2.sources.child_process import TableLister
from florence2.store import is_store

LICENCES = "licences.csv"


def discover(source: Path, leave_out: Path | None = None) -> tuple[list[ImageCandidate], list[str]]:
    """Every picture below a folder (or in a tar or a table), by name, and the names of files that hold none."""
    if is_object_url(source):
        with TableLister() as lister:
            return discover_objects(source, leave_out, lister)
    if not source.exists():
        raise ValueError(f"{source}: no such folder; name a folder of pictures, a .tar, a .parquet or a list of URLs")
    if not (source.is_file() or source.is_dir()):
        raise ValueError(f"{source}: is a pipe or a device; name a folder of pictures, a .tar or a .parquet")
    with TableLister() as lister:
        return _discover(source, leave_out, lister)


def _discover(source: Path, leave_out: Path | None, lister: TableLister) -> tuple[list[ImageCandidate], list[str]]:
    if source.is_file():
        found, left = in_file(source, "", lister)
        if found is None:
            raise ValueError(
                f"{source}: expected a folder of pictures, a .tar, a .parquet, .arrow or a store, got a file"
            )
        return all_there_is(found, left)
    fetched = url_lists.fetched_candidates(source)
    if fetched is not None:
        return fetched
    problems: list[ImageCandidate] = []
    skipped: list[str] = []
    licences = _licences(source, skipped)
    by_file: list[tuple[str, list[ImageCandidate]]] = []  # what lies in one archive stays in its order
    for path in _walk(source, leave_out, problems, skipped):
        relative = path.relative_to(source).as_posix()
        if _is_mac_copy(path):
            skipped.append(f"{relative}{file_types.LEFT_BEHIND}")
            continue
        packed = relative.lower().endswith(SUFFIXES)
        inside, left = in_file(path, relative + "/", lister) if packed else (None, [])
        skipped += left
        if inside is not None:
            by_file.append((relative, inside))
        elif _is_picture(path):
            licence = licences.get(relative) or licences.get(path.name, "")
            by_file.append(
                (relative, [ImageCandidate(relative, files.uri_of(path), bytes=_size(path), licence=licence)])
            )
        elif relative != LICENCES:
            skipped.append(relative)
    by_file += [(problem.relative, [problem]) for problem in problems]
    by_file.sort(key=lambda entry: files.as_text(entry[0]))
    every = [found for _, inside in by_file for found in inside]
    return (with_splits(every) if any(found.member for found in every) else every), sorted(skipped)


def _walk(source: Path, leave_out: Path | None, found: list[ImageCandidate], skipped: list[str]) -> Iterator[Path]:
    """Every file below a folder, linked folders too, each folder once; one that cannot be listed goes to `found`.

    Hidden folders below it go to `skipped`.
    """
    seen: set[tuple[int, int]] = set()

    def unlisted(error: OSError) -> None:
        folder = Path(error.filename)
        detail = f"{folder}: cannot be listed ({error.strerror}); check its permissions"
        found.append(
            ImageCandidate(
                folder.relative_to(source).as_posix(), files.uri_of(folder), reason="unreadable", detail=detail
            )
        )

    for folder, folders, names in os.walk(source, onerror=unlisted, followlinks=True):
        here = Path(folder)
        try:
            about = here.stat()
        except OSError:
            continue
        if (about.st_dev, about.st_ino) in seen:  # a link back, or a second way to the same folder
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        hidden = sorted(d for d in folders if file_types.is_hidden_folder(d) and not _left_out(here / d, leave_out))
        skipped += [f"{(here / d).relative_to(source).as_posix()}/{file_types.LEFT_BEHIND}" for d in hidden]
        folders[:] = sorted(d for d in set(folders).difference(hidden) if not _left_out(here / d, leave_out))
        yield from (here / name for name in names)


def _licences(source: Path, skipped: list[str]) -> dict[str, str]:
    """What licences.csv in the source's folder says: a picture's name, relative to it, -> its licence."""
    file = source / LICENCES
    if not file.is_file():
        return {}
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        rows = csv.DictReader(text)
        try:
            columns = rows.fieldnames or []
        except csv.Error as error:
            raise ValueError(f"{file}:1: cannot be read ({error}); expected the columns path and licence") from None
        name = next((c for c in ("path", "file", "file_name", "name") if c in columns), None)
        terms = next((c for c in ("licence", "license") if c in columns), None)
        if name is None or terms is None:
            names = files.as_text(", ".join(columns))
            raise ValueError(f"{file}:1: expected the columns path and licence, got {names[:200] or 'none'}")
        out: dict[str, str] = {}
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return out
            except csv.Error as error:  # a cell too long, a NUL; the rows after it are good
                skipped.append(f"{LICENCES}:{rows.line_num + 1} ({error})")
                continue
            if row[name]:
                out[row[name]] = files.as_text(row[terms] or "")


def _is_picture(path: Path) -> bool:
    """By its suffix, or else by its first bytes; a folder, a pipe or a socket is none."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
    except OSError:
        return file_types.has_picture_suffix(path.name)  # a broken link is listed, and fails as missing
    if file_types.has_picture_suffix(path.name):
        return True
    try:
        with open(path, "rb") as file:
            return bool(file_types.format_of(file.read(16)))
    except OSError:
        return False


def _is_mac_copy(path: Path) -> bool:
    """Whether a file is what macOS puts beside another; one that begins as a picture does is a picture."""
    if not file_types.is_mac_copy(path.name) or not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return not file_types.format_of(file.read(16))
    except OSError:
        return True


def _left_out(folder: Path, leave_out: Path | None) -> bool:
    return is_store(folder) or (leave_out is not None and str(folder.resolve()) == os.path.realpath(leave_out))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

"""What a source holds: the pictures of a folder, of tars and tables in it, by name. Knows files, decodes nothing.

A file that should hold pictures and cannot be read is listed with its problem, so that it becomes a failed row.
"""

from __future__ import annotations

import csv
import json
import os
import re
import stat
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from florence2.engine.ingest import url_lists
from florence2.engine.ingest.inspection import ImageCandidate
from florence2.sources import file_types, files, tables
from florence2.store import is_store

ARCHIVES = (".tar",)
PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".zip")
LICENCES = "licences.csv"
SIDECAR_BYTES = 1 << 20
# a shard's name -> the split it says, as Hugging Face and WebDataset name theirs: train-00000-of-00004.parquet
_SHARD = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev)(?=[-_.]|$)")


def discover(source: Path, leave_out: Path | None = None) -> tuple[list[ImageCandidate], list[str]]:
    """Every picture below a folder (or in a tar or a table), by name, and the names of files that hold none."""
    if not source.exists():
        raise ValueError(f"{source}: no such folder; name a folder of pictures, a .tar, a .parquet or a list of URLs")
    if source.is_file():
        found, left = _in_file(source, "")
        if found is None:
            raise ValueError(
                f"{source}: expected a folder of pictures, a .tar, a .parquet, .arrow or a store, got a file"
            )
        if len(found) == 1 and found[0].reason:
            raise ValueError(f"{found[0].detail}; make it again or move it away")
        return _with_splits(found), left
    fetched = url_lists.fetched_candidates(source)
    if fetched is not None:
        return fetched, []
    licences = _licences(source)
    problems: list[ImageCandidate] = []
    skipped: list[str] = []
    by_file: list[tuple[str, list[ImageCandidate]]] = []  # what lies in one archive stays in its order
    for path in _walk(source, leave_out, problems):
        relative = path.relative_to(source).as_posix()
        inside, left = _in_file(path, relative + "/")
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
    return _with_splits([found for _, inside in by_file for found in inside]), sorted(skipped)


def _walk(source: Path, leave_out: Path | None, found: list[ImageCandidate]) -> Iterator[Path]:
    """Every file below a folder, linked folders too, each folder once; one that cannot be listed goes to `found`."""
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
        folders[:] = sorted(d for d in folders if not _left_out(here / d, leave_out))
        yield from (here / name for name in names)


def _in_file(path: Path, prefix: str) -> tuple[list[ImageCandidate] | None, list[str]]:
    """The pictures inside a tar or a table, and what of it is left out; None where the file is neither."""
    if path.suffix.lower() in ARCHIVES:
        return _in_tar(path, prefix), []
    if tables.is_table(path):
        return _in_table(path, prefix)
    if prefix and path.name.lower().endswith(PACKED):
        return [], [f"{prefix[:-1]} (packed: unpack it)"]
    return None, []


def _in_tar(path: Path, prefix: str) -> list[ImageCandidate]:
    """The pictures of a tar, addressed by offset; a torn end is a failed row beside them."""
    found: list[ImageCandidate] = []
    licences: dict[str, str] = {}
    names: Counter[str] = Counter()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                if member.name.endswith(".json") and member.size <= SIDECAR_BYTES:
                    licences[_sample_name(member.name)] = _licence_in(file)
                elif file_types.has_picture_suffix(member.name) or file_types.format_of(file.read(16)):
                    names[member.name] += 1
                    again = f"#{names[member.name]}" if names[member.name] > 1 else ""
                    place = (member.name, member.offset_data, member.size, member.size)
                    found.append(ImageCandidate(prefix + member.name + again, files.uri_of(path), *place))
    except (tarfile.TarError, OSError, EOFError) as error:
        found.append(_torn(path, prefix, f"is not a whole tar ({error}); {len(found)} pictures before the fault"))
    told = (replace(f, licence=licences.get(_sample_name(f.member), "")) for f in found)
    return sorted(told, key=lambda f: f.relative)


def _sample_name(member: str) -> str:
    """What the files of one WebDataset sample share: the path up to the base name's first dot."""
    folder, _, base = member.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _in_table(path: Path, prefix: str) -> tuple[list[ImageCandidate] | None, list[str]]:
    """The cells of a table's columns of pictures; a table without any is left out by name."""
    name = prefix[:-1] or path.name
    try:
        columns, others = tables.picture_columns(path)
        uri = files.uri_of(path)
        found = [
            ImageCandidate(prefix + cell.member, uri, cell.member, licence=cell.licence)
            for cell in tables.cells(path, columns)
        ]
    except (ValueError, OSError) as error:
        return [_torn(path, prefix, " ".join(str(error).removeprefix(f"{path}: ").split()))], []
    left = [f"{name}:{column}" for column in others]
    return found, left if columns or left else [f"{name} (no column of pictures)"]


def _torn(path: Path, prefix: str, detail: str) -> ImageCandidate:
    """What stands for an archive or a table that cannot be read to its end."""
    return ImageCandidate(
        prefix[:-1] or path.name, files.uri_of(path), reason="torn_archive", detail=f"{path}: {detail}"
    )


def _with_splits(found: list[ImageCandidate]) -> list[ImageCandidate]:
    """What lies in shards named train, validation or test gets that split; without a test, validation is it."""
    said = {}
    for uri in {f.uri for f in found if f.member}:
        shard = PurePosixPath(uri.lower())
        match = _SHARD.search(shard.stem) or _SHARD.fullmatch(shard.parent.name)
        if match:
            said[uri] = match[1]
    held_out = "val" if "test" in said.values() else "test"
    split_of = {uri: word if word in ("train", "test") else held_out for uri, word in said.items()}
    return [replace(f, split=split_of.get(f.uri, "")) for f in found]


def _licences(source: Path) -> dict[str, str]:
    """What licences.csv in the source's folder says: a picture's name, relative to it, -> its licence."""
    file = source / LICENCES
    if not file.is_file():
        return {}
    with open(file, encoding="utf-8-sig", newline="") as text:
        rows = csv.DictReader(text)
        columns = rows.fieldnames or []
        name = next((c for c in ("path", "file", "file_name", "name") if c in columns), None)
        terms = next((c for c in ("licence", "license") if c in columns), None)
        if name is None or terms is None:
            raise ValueError(
                f"{file}:1: expected the columns path and licence, got {', '.join(columns)[:200] or 'none'}"
            )
        return {row[name]: row[terms] or "" for row in rows if row[name]}


def _licence_in(file: IO[bytes]) -> str:
    """The licence that a sample's .json in a WebDataset tar names."""
    try:
        said = json.loads(file.read())
    except ValueError:
        return ""
    terms = (said.get("licence") or said.get("license")) if isinstance(said, dict) else ""
    return terms if isinstance(terms, str) else ""


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


def _left_out(folder: Path, leave_out: Path | None) -> bool:
    return is_store(folder) or (leave_out is not None and folder.resolve() == leave_out.resolve())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

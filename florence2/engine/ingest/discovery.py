"""What a source holds: the pictures of a folder, of tars and tables in it, by name. Knows files, decodes nothing.

A file that should hold pictures and cannot be read is listed with its problem, so that it becomes a failed row. What
systems leave beside pictures (hidden folders, recycle bins, the `._` files of a Mac) is skipped and counted by name.
"""

from __future__ import annotations

import csv
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
from florence2.engine.ingest.object_listing import discover_objects
from florence2.labels import one_line
from florence2.object_store import is_object_url
from florence2.sources import file_types, files, tables
from florence2.sources.child_process import TableLister
from florence2.store import is_store
from florence2.structuring import parse_json

ARCHIVES = (".tar",)
PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".zip")
LICENCES = "licences.csv"
SIDECAR_BYTES = 1 << 20
# a shard's name -> the split it says, as Hugging Face and WebDataset name theirs: train-00000-of-00004.parquet
_SHARD = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev)(?=[-_.]|$)")


def discover(source: Path, leave_out: Path | None = None) -> tuple[list[ImageCandidate], list[str]]:
    """Every picture below a folder (or in a tar or a table), by name, and the names of files that hold none."""
    if is_object_url(source):
        return discover_objects(source, leave_out, PACKED)
    if not source.exists():
        raise ValueError(f"{source}: no such folder; name a folder of pictures, a .tar, a .parquet or a list of URLs")
    if not (source.is_file() or source.is_dir()):
        raise ValueError(f"{source}: is a pipe or a device; name a folder of pictures, a .tar or a .parquet")
    with TableLister() as lister:
        return _discover(source, leave_out, lister)


def _discover(source: Path, leave_out: Path | None, lister: TableLister) -> tuple[list[ImageCandidate], list[str]]:
    if source.is_file():
        found, left = _in_file(source, "", lister)
        if found is None:
            raise ValueError(
                f"{source}: expected a folder of pictures, a .tar, a .parquet, .arrow or a store, got a file"
            )
        if len(found) == 1 and found[0].reason:
            raise ValueError(f"{found[0].detail}; make it again or move it away")
        return _with_splits(found), left
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
        inside, left = _in_file(path, relative + "/", lister)
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


def _in_file(path: Path, prefix: str, lister: TableLister) -> tuple[list[ImageCandidate] | None, list[str]]:
    """The pictures inside a tar or a table, and what of it is left out; None where the file is neither."""
    if path.exists() and not path.is_file():  # to read a pipe, or a device, would never end
        return None, []
    if path.suffix.lower() in ARCHIVES:
        return _in_tar(path, prefix)
    if tables.is_table(path):
        return _in_table(path, prefix, lister)
    if prefix and path.name.lower().endswith(PACKED):
        return [], [f"{prefix[:-1]} (packed: unpack it)"]
    return None, []


def _in_tar(path: Path, prefix: str) -> tuple[list[ImageCandidate], list[str]]:
    """The pictures of a tar, addressed by offset, and what was passed over; a torn end is a failed row beside them."""
    found: list[ImageCandidate] = []
    skipped: list[str] = []
    licences: dict[str, str] = {}
    names: Counter[str] = Counter()
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = files.as_text(member.name)
                file = tar.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                if member.name.endswith(".json") and member.size <= SIDECAR_BYTES:
                    licences[_sample_name(name)] = _licence_in(file)
                    continue
                fits = member.offset_data + member.size <= size or member.size <= files.MAX_BYTES
                whole = fits and not member.issparse()
                if file_types.is_left_behind(member.name) and not _is_own(member.name, file):
                    skipped.append(f"{prefix}{name}{file_types.LEFT_BEHIND}")
                elif file_types.has_picture_suffix(member.name) or (whole and file_types.format_of(file.read(16))):
                    names[name] += 1
                    again = f"#{names[name]}" if names[name] > 1 else ""
                    candidate = ImageCandidate(prefix + name + again, files.uri_of(path), name)
                    if whole:
                        length = member.size
                        found.append(replace(candidate, offset=member.offset_data, length=length, bytes=length))
                    else:
                        what = "is kept as a sparse file" if member.issparse() else "is declared to go on after its end"
                        found.append(replace(candidate, reason="unreadable", detail=f"{path}: {name:.200} {what}"))
            _check_end(tar)
    except Exception as error:  # a damaged archive raises anything
        found.append(_torn(path, prefix, f"is not a whole tar ({error}); {len(found)} pictures before the fault"))
    licensed = (replace(f, licence=licences.get(_sample_name(f.member), "")) for f in found)
    return sorted(licensed, key=lambda f: f.relative), skipped


def _is_own(member: str, file: IO[bytes]) -> bool:
    """Whether a member called as a Mac's copies are is a picture for all that."""
    hidden = file_types.is_left_behind(PurePosixPath(member).with_name("x").as_posix())
    return not hidden and bool(file_types.format_of(file.read(16)))


def _check_end(tar: tarfile.TarFile) -> None:
    """ReadError where a tar's list ended at what is no end: tarfile takes a damaged header for one."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"a damaged header at byte {tar.offset}")


def _sample_name(member: str) -> str:
    """What the files of one WebDataset sample share: the path up to the base name's first dot."""
    folder, _, base = member.rpartition("/")
    return f"{folder}/{base.partition('.')[0]}"


def _in_table(path: Path, prefix: str, lister: TableLister) -> tuple[list[ImageCandidate] | None, list[str]]:
    """The cells of a table's columns of pictures; a table without any is left out by name."""
    name = prefix[:-1] or path.name
    try:
        listed = lister.list(path)
    except (ValueError, OSError) as error:
        return [_torn(path, prefix, one_line(str(error).removeprefix(f"{path}: "), 1000))], []
    uri = files.uri_of(path)
    found = [ImageCandidate(prefix + cell.member, uri, cell.member, licence=cell.licence) for cell in listed.cells]
    left = [f"{name}:{column}" for column in listed.left_out]
    left += [f"{name}/{member}{file_types.LEFT_BEHIND}" for member in listed.passed_over]
    return found, left if found or left else [f"{name} (no column of pictures)"]


def _torn(path: Path, prefix: str, detail: str) -> ImageCandidate:
    """A failed candidate in place of an archive or a table that cannot be read to its end."""
    return ImageCandidate(
        prefix[:-1] or path.name, files.uri_of(path), reason="torn_archive", detail=f"{path}: {detail}"
    )


def _with_splits(found: list[ImageCandidate]) -> list[ImageCandidate]:
    """What lies in shards named train, validation or test gets that split; without a test, validation is it."""
    split_words = {}
    for uri in {f.uri for f in found if f.member}:
        shard = PurePosixPath(uri.lower())
        match = _SHARD.search(shard.stem) or _SHARD.fullmatch(shard.parent.name)
        if match:
            split_words[uri] = match[1]
    held_out = "val" if "test" in split_words.values() else "test"
    split_of = {uri: word if word in ("train", "test") else held_out for uri, word in split_words.items()}
    return [replace(f, split=split_of.get(f.uri, "")) for f in found]


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


def _licence_in(file: IO[bytes]) -> str:
    """The licence that a sample's .json in a WebDataset tar names."""
    try:
        metadata = parse_json(file.read())
        terms = (metadata.get("licence") or metadata.get("license")) if isinstance(metadata, dict) else ""
        return terms.encode("utf-8", "replace").decode() if isinstance(terms, str) else ""
    except ValueError:
        return ""


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

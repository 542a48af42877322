"""Pictures inside tars and tables, on a disk or in an object store: listed where they lie, none of them read.

What cannot be read to its end is a failed candidate, `torn_archive`, beside what could be read of it.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO

from florence2.engine.ingest.inspection import ImageCandidate
from florence2.labels import one_line
from florence2.object_store import NoAnswer, is_object_url
from florence2.sources import file_types, files, tables
from florence2.sources.child_process import TableLister
from florence2.structuring import parse_json

ARCHIVES = (".tar",)
PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".zip")
SUFFIXES = (*ARCHIVES, *tables.SUFFIXES, *PACKED)  # of what `in_file` has anything to say about
SIDECAR_BYTES = 1 << 20
# a shard's name -> the split it says, as Hugging Face and WebDataset name theirs: train-00000-of-00004.parquet
_SHARD = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev)(?=[-_.]|$)")


def in_file(path: Path, prefix: str, lister: TableLister) -> tuple[list[ImageCandidate] | None, list[str]]:
    """The pictures inside a tar or a table, and what of it is left out; None where the file is neither."""
    if not is_object_url(path) and path.exists() and not path.is_file():  # to read a pipe, or a device, would never end
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
        size = files.size_of(str(path))
        with files.open_file(path) as archive, tarfile.open(fileobj=archive, mode="r:") as tar:
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
        if isinstance(error, NoAnswer):
            raise  # it says nothing of the archive
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
    except NoAnswer:
        raise  # it says nothing of the table
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


def all_there_is(found: list[ImageCandidate], left: list[str]) -> tuple[list[ImageCandidate], list[str]]:
    """What lies in a tar or a table that is the whole source; ValueError where it cannot be read."""
    if len(found) == 1 and found[0].reason:
        raise ValueError(f"{found[0].detail}; make it again or move it away")
    return with_splits(found), left


def with_splits(found: list[ImageCandidate]) -> list[ImageCandidate]:
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


def _licence_in(file: IO[bytes]) -> str:
    """The licence that a sample's .json in a WebDataset tar names."""
    try:
        metadata = parse_json(file.read())
        terms = (metadata.get("licence") or metadata.get("license")) if isinstance(metadata, dict) else ""
        return terms.encode("utf-8", "replace").decode() if isinstance(terms, str) else ""
    except ValueError:
        return ""

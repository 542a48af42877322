"""The bytes behind a reference: a file, a stretch of one, a member of a tar, a cell of a table. Only this opens them.

Knows no pixels. A file name that is not valid Unicode is held as file:// with its bytes percent-encoded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
from pathlib import Path
from typing import IO
from urllib.parse import unquote_to_bytes

from florence2.labels import is_unicode
from florence2.object_store import NoAnswer, Objects, ObjectTooLarge, buffered_object, is_object_url, url_of
from florence2.pixels import BadImage
from florence2.records import ImageRef
from florence2.sources import tables

MAX_BYTES = 1 << 30
FILE = "file://"
NO_ANSWER = "no_answer"  # why a picture is not read where the object store is not reached: it may be good


def read_bytes(ref: ImageRef, max_bytes: int = MAX_BYTES) -> bytes:
    """The picture file's bytes, wherever they are; BadImage where they cannot be read."""
    name = name_of(ref)
    if is_object_url(path_of(ref.uri)):
        return _of_object(ref, path_of(ref.uri), max_bytes, name)
    path = present_path(ref)
    try:
        if tables.is_table(path):
            return _of_table(ref, path, name)
        if ref.offset >= 0:
            return _stretch(path, ref.offset, ref.length, max_bytes, name)
        if ref.member:
            return _of_tar(path, ref.member, max_bytes, name)
        return _stretch(path, 0, -1, max_bytes, name)
    except OSError as error:
        raise BadImage(name, "unreadable", f"cannot be read ({error.strerror or error})") from None


def bytes_or_no_answer(ref: ImageRef) -> bytes:
    """The same, for whoever would take a picture that cannot be read for another: NoAnswer where that is not known."""
    try:
        return read_bytes(ref)
    except BadImage as error:
        if error.reason == NO_ANSWER:
            raise NoAnswer(errno.EIO, error.detail, error.name) from None
        raise


def present_path(ref: ImageRef) -> str:
    """The path of the file that holds a picture; BadImage where there is none."""
    name, path = name_of(ref), path_of(ref.uri)
    if is_object_url(path):
        if not is_there(path):
            raise BadImage(name, "missing", "does not exist; put the picture back or annotate again")
        return path
    if "://" in path and not os.path.exists(path):
        raise BadImage(name, "not_fetched", "is an address; fetch it with florence2 annotate LIST --allow-urls HOST")
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        reason, what = ("unreadable", "is not a file") if os.path.exists(path) else ("missing", "does not exist")
        raise BadImage(name, reason, f"{what}; put the picture back or annotate again")
    return path


def plain_path(ref: ImageRef) -> str:
    """The path of a picture that is a file of its own and is there, else ""."""
    path = path_of(ref.uri)
    return path if not ref.member and ref.offset < 0 and os.path.isfile(path) else ""


def is_own_file(ref: ImageRef) -> bool:
    """Whether a picture is a file, or an object, of its own and is there."""
    path = path_of(ref.uri)
    return bool(plain_path(ref)) or (is_object_url(path) and not ref.member and ref.offset < 0 and is_there(path))


def name_of(ref: ImageRef) -> str:
    """What an error calls a picture."""
    return f"{ref.uri}!{ref.member}" if ref.member else ref.uri or ref.id or "image"


def path_of(uri: str) -> str:
    """The path that a reference's uri names."""
    return os.fsdecode(unquote_to_bytes(uri.removeprefix(FILE))) if uri.startswith(FILE) else uri


def uri_of(path: str | Path) -> str:
    """The absolute path or URL; a name that is not valid Unicode as file:// with those bytes percent-encoded."""
    absolute = absolute_of(path)
    return absolute if is_unicode(absolute) else FILE + as_text(absolute.replace("%", "%25"))


def absolute_of(place: str | os.PathLike[str]) -> str:
    """The absolute path of a place; of an object store its URL."""
    return url_of(place) if is_object_url(place) else os.path.abspath(place)


def is_there(path: str) -> bool:
    """Whether anything lies at a path, or an object at a URL of an object store."""
    return Objects(path).facts() is not None if is_object_url(path) else os.path.exists(path)


def open_file(place: str | os.PathLike[str]) -> IO[bytes]:
    """A file, or an object of which no more is read than what is asked for, in ranges."""
    return buffered_object(place) if is_object_url(place) else open(place, "rb")


def size_of(path: str) -> int:
    """The bytes of a file or an object, 0 where there is none; NoAnswer where that is not known."""
    try:
        facts = Objects(path).facts() if is_object_url(path) else None
        return facts.size if facts else os.path.getsize(path)
    except NoAnswer:
        raise
    except OSError:
        return 0


def as_text(name: str) -> str:
    """A file name as valid Unicode: bytes that are none become %XX."""
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def _of_object(ref: ImageRef, url: str, max_bytes: int, name: str) -> bytes:
    if ref.member and ref.offset < 0 and not tables.is_table(url):
        raise BadImage(name, "unreadable", "lies in an archive in an object store; copy that to a disk, or unpack it")
    try:
        if tables.is_table(url):
            return _of_table(ref, url, name)
        return Objects(url).get("", max(0, ref.offset), ref.length if ref.offset >= 0 else -1, max_bytes)
    except FileNotFoundError:
        raise BadImage(name, "missing", "does not exist; put the picture back or annotate again") from None
    except ObjectTooLarge as error:
        raise BadImage(name, "too_large", str(error)) from None
    except OSError as error:
        reason = NO_ANSWER if isinstance(error, NoAnswer) else "unreadable"
        raise BadImage(name, reason, f"cannot be read ({error.strerror or error})") from None


def _stretch(path: str, offset: int, length: int, max_bytes: int, name: str) -> bytes:
    with open(path, "rb") as file:
        size = length if length >= 0 else os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise BadImage(name, "too_large", f"has {size:,} bytes, over the limit of {max_bytes:,}")
        file.seek(offset)
        return file.read(size)


def _of_tar(path: str, member: str, max_bytes: int, name: str) -> bytes:
    try:
        with tarfile.open(path) as tar:
            file = tar.extractfile(member)
            if file is None:
                raise BadImage(name, "missing", "is not a file in its archive")
            if tar.getmember(member).size > max_bytes:  # a sparse one may say any size
                raise BadImage(name, "too_large", f"says more than the limit of {max_bytes:,} bytes")
            return file.read()
    except KeyError:
        raise BadImage(name, "missing", "is not in its archive") from None
    except BadImage:
        raise
    except Exception as error:  # a damaged archive raises anything
        raise BadImage(name, "unreadable", f"cannot be read ({error})") from None


def _of_table(ref: ImageRef, path: str, name: str) -> bytes:
    """A cell's bytes; its rows may have moved since it was taken in, so they are compared with its hash."""
    try:
        data = tables.read_cell(path, ref.member)
    except tables.TooLarge as error:
        raise BadImage(name, "too_large", f"is not read: {error}") from None
    except ValueError as error:
        raise BadImage(name, "unreadable", f"cannot be read ({error})") from None
    if data is None:
        raise BadImage(name, "no_bytes", "holds no bytes; a path or an address in a cell is not followed")
    if ref.sha256 and hashlib.sha256(data).hexdigest() != ref.sha256:
        raise BadImage(name, "changed", "holds another picture than when it was taken in; annotate into a new store")
    return data

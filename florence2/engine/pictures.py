"""Pictures in: what a folder holds, which of it may be annotated, and why not. Knows files, pixels and rows.

A picture is found by its suffix or its first bytes. Looking at one reads and decodes it once: it is then ok, rejected
by a rule, or failed, each with a reason word.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from florence2 import pixels
from florence2.engine.operator import Specialist, digest
from florence2.engine.runners.local import Watch
from florence2.records import ImageRef
from florence2.store import Store, is_store

MAX_PIXELS = pixels.MAX_PIXELS
MAX_BYTES = 1 << 30

# first bytes -> format
MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"\x00\x00\x00\x0cjP  ", "jpeg2000"),
)
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .jp2 .avif .ppm .pgm .pbm .pnm .tga .ico".split()
)


@dataclass(frozen=True)
class ImageRules:
    """Which pictures may be annotated; one that breaks a rule is rejected for the reason that the rule names."""

    max_pixels: int = MAX_PIXELS
    """Over this a picture fails as too_large, before it is decoded."""
    min_side: int = 10
    """A shorter side under this many pixels: too_small."""
    max_aspect: float = 20.0
    """Longer side over shorter side above this: odd_aspect."""
    blank_range: int = 4
    """No channel spans more than this many of 256 levels: blank."""
    near_duplicates: bool = False
    """Reject pictures whose perceptual hash is within `near_bits` of an earlier one's: near_duplicate."""
    near_bits: int = 4
    """Bits of 64 in which near duplicates may differ."""
    licence: bool = False
    """Reject pictures without a licence: no_licence."""
    accept: str = ""
    """FILE.py:FUNCTION, given the upright RGB array; a word that it returns rejects the picture for that reason."""


@dataclass(frozen=True)
class Found:
    """A picture file, or one inside an archive: its name relative to the source, and where its bytes are."""

    relative: str
    uri: str
    member: str = ""
    offset: int = -1
    length: int = -1
    bytes: int = 0
    licence: str = ""

    def ref(self) -> ImageRef:
        """A reference to it, without an id yet."""
        return ImageRef("", self.uri, member=self.member, offset=self.offset, length=self.length, licence=self.licence)


@dataclass(frozen=True)
class LookUnit:
    """A worker's task: look at these pictures. Returns a dictionary of facts for each, in order."""

    found: tuple[Found, ...]
    rules: ImageRules
    specialist: int = field(default=-1, init=False)

    def do(self, store: Store, specialist: Specialist | None, watch: Watch) -> list[dict[str, Any]]:
        """Look at each."""
        accept = load_function(self.rules.accept) if self.rules.accept else None
        out = []
        for index, found in enumerate(self.found):
            if index in watch.culprits:
                facts = _undecoded(found)
                facts.update(status="failed", reason=watch.culprits[index], detail=f"{found.uri}: kills its reader")
                out.append(facts)
                continue
            if watch.alone:
                watch.picture(index)
            out.append(look(found, self.rules, accept))
        return out


def find(source: Path, leave_out: Path | None = None) -> tuple[list[Found], list[str]]:
    """Every picture below a folder (or in a tar), by name, and the names of files that are none."""
    if not source.exists():
        raise ValueError(f"{source}: no such folder; name a folder of pictures")
    if source.is_file():
        if source.suffix == ".tar":
            return _in_tar(source, ""), []
        raise ValueError(f"{source}: expected a folder of pictures, a .tar or a store, got a file")
    found: list[Found] = []
    skipped: list[str] = []
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        folders[:] = sorted(d for d in folders if not _left_out(here / d, leave_out))
        for name in names:
            path = here / name
            relative = path.relative_to(source).as_posix()
            if path.suffix.lower() == ".tar":
                found += _in_tar(path, relative + "/")
            elif is_picture(path):
                found.append(Found(relative, _uri(path), bytes=_size(path)))
            else:
                skipped.append(relative)
    return sorted(found, key=lambda f: _text(f.relative)), sorted(skipped)


def is_picture(path: Path) -> bool:
    """By its suffix, or else by its first bytes."""
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return bool(format_of(file.read(16)))
    except OSError:
        return False


def format_of(head: bytes) -> str:
    """The format whose first bytes these are, or "" for none known."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:12] in (b"ftypavif", b"ftypheic"):
        return head[8:12].decode()
    return next((name for magic, name in MAGIC if head.startswith(magic)), "")


def read_bytes(ref: ImageRef) -> bytes:
    """The picture file's bytes, wherever they are; BadImage where they cannot be read."""
    path = Path(_path(ref.uri))
    try:
        with open(path, "rb") as file:
            if ref.offset >= 0:
                file.seek(ref.offset)
                return file.read(ref.length)
            return file.read()
    except FileNotFoundError:
        raise pixels.BadImage(ref.uri, "missing", "does not exist; put the picture back or annotate again") from None
    except OSError as error:
        raise pixels.BadImage(ref.uri, "unreadable", f"cannot be read ({error.strerror})") from None


def load_pixels(ref: ImageRef, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The upright RGB picture that a reference names, or BadImage."""
    name = f"{ref.uri}:{ref.member}" if ref.member else ref.uri
    if ref.offset >= 0:
        return pixels.load(read_bytes(ref), max_pixels=max_pixels, frame=ref.frame, name=name)
    return pixels.load(_path(ref.uri), max_pixels=max_pixels, frame=ref.frame, name=name)


def look(found: Found, rules: ImageRules, accept: Any = None) -> dict[str, Any]:
    """Facts of one picture: hash, size, format, status, reason, and `detail` where it failed."""
    facts = _undecoded(found)
    if facts["status"] == "failed":
        return facts
    try:
        data = read_bytes(found.ref())
        array = pixels.load(data, max_pixels=rules.max_pixels, name=found.uri)
    except pixels.BadImage as error:
        return {**facts, "status": "failed", "reason": error.reason, "detail": str(error)}
    height, width = array.shape[:2]
    facts.update(width=width, height=height, format=format_of(data[:16]) or None, phash=perceptual_hash(array))
    reason = _broken_rule(array, found, rules) or (accept(array) if accept else "")
    if reason:
        facts.update(status="rejected", reason=str(reason))
    return facts


def image_id(sha256: str, relative: str) -> str:
    """The id of a picture: of its bytes and its name relative to the source."""
    return digest([sha256, _text(relative)], size=12)


def perceptual_hash(array: np.ndarray) -> str:
    """16 hex digits: for an 8x8 grid of grey levels, whether each cell is lighter than its left neighbour."""
    step = max(1, min(array.shape[:2]) // 256)
    small = pixels.resize(np.ascontiguousarray(array[::step, ::step]), (9, 8)).astype(np.int32).sum(axis=2)
    bits = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return np.packbits(bits).tobytes().hex()


def load_function(name: str) -> Any:
    """The function that FILE.py:FUNCTION names."""
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise ValueError(f"accept {name!r}: expected FILE.py:FUNCTION with a file that exists")
    names: dict[str, Any] = {"__name__": Path(path).stem, "__file__": path}
    exec(compile(Path(path).read_text(), path, "exec"), names)
    if not callable(names.get(function)):
        raise ValueError(f"{path}: has no function {function!r}")
    return names[function]


def rules_config(rules: ImageRules) -> dict[str, Any]:
    """The rules as plain values, the user's function as the hash of its file."""
    config = asdict(rules)
    if rules.accept:
        path, _, function = rules.accept.rpartition(":")
        config["accept"] = [function, hashlib.sha256(Path(path).read_bytes()).hexdigest()]
    return config


def _undecoded(found: Found) -> dict[str, Any]:
    """What is known of a picture without decoding it."""
    facts: dict[str, Any] = {"sha256": "", "width": 0, "height": 0, "status": "ok", "reason": "", "detail": ""}
    if max(found.bytes, found.length) > MAX_BYTES:
        detail = f"{found.uri}: has {found.bytes:,} bytes, over the limit of {MAX_BYTES:,}"
        return {**facts, "status": "failed", "reason": "too_large", "detail": detail}
    try:
        facts["sha256"] = hashlib.sha256(read_bytes(found.ref())).hexdigest()
    except pixels.BadImage as error:
        facts.update(status="failed", reason=error.reason, detail=str(error))
    return facts


def _broken_rule(array: np.ndarray, found: Found, rules: ImageRules) -> str:
    height, width = array.shape[:2]
    short, long = sorted((height, width))
    if short < rules.min_side:
        return "too_small"
    if long > rules.max_aspect * short:
        return "odd_aspect"
    if int((array.max(axis=(0, 1)) - array.min(axis=(0, 1))).max()) <= rules.blank_range:
        return "blank"
    if rules.licence and not found.licence:
        return "no_licence"
    return ""


def _in_tar(path: Path, prefix: str) -> list[Found]:
    """The pictures of a tar, addressed by offset; a torn end is taken as the end."""
    found = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                head = tar.extractfile(member).read(16) if member.isfile() else b""  # type: ignore[union-attr]
                if member.isfile() and (Path(member.name).suffix.lower() in SUFFIXES or format_of(head)):
                    found.append(
                        Found(
                            prefix + member.name, _uri(path), member.name, member.offset_data, member.size, member.size
                        )
                    )
    except (tarfile.TarError, OSError) as error:
        if not found:
            raise ValueError(f"{path}: not a readable tar ({error}); make it again or move it away") from None
    return sorted(found, key=lambda f: f.relative)


def _left_out(folder: Path, leave_out: Path | None) -> bool:
    return is_store(folder) or (leave_out is not None and folder.resolve() == leave_out.resolve())


def _uri(path: Path) -> str:
    """The absolute path; a name that is not valid Unicode as file:// with those bytes percent-encoded."""
    text = os.path.abspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return "file://" + _text(text.replace("%", "%25"))
    return text


def _path(uri: str) -> str:
    if not uri.startswith("file://"):
        return uri
    from urllib.parse import unquote_to_bytes

    return os.fsdecode(unquote_to_bytes(uri.removeprefix("file://")))


def _text(name: str) -> str:
    """A file name as valid Unicode: bytes that are none become %XX."""
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0

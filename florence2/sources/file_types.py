"""What a file's name and first bytes tell: whether it is a picture, of which format, or left behind by a program."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from florence2.formats.lookup import PICTURES, SYSTEM_FOLDERS

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
BRANDS = {b"avif": "avif", b"avis": "avif", b"mif1": "heif", b"msf1": "heif"} | {
    b"hei" + c: "heic" for c in (b"c", b"x", b"m", b"s")
}  # of an ISO media file -> format


def format_of(head: bytes) -> str:
    """The format whose first bytes these are, or "" for none known."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
        return BRANDS[head[8:12]]
    return next((name for magic, name in MAGIC if head.startswith(magic)), "")


def has_picture_suffix(name: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a picture's."""
    return os.path.splitext(name)[1].lower() in PICTURES


LEFT_BEHIND = " (left behind)"  # how what is passed over for this is marked, where files are named as skipped


def is_hidden_folder(name: str) -> bool:
    """Whether a folder of this name is none of the user's: hidden, a recycle bin, a system's previews."""
    return (name.startswith(".") and name not in (".", "..")) or name.casefold() in SYSTEM_FOLDERS


def is_mac_copy(name: str) -> bool:
    """Whether a base name is what macOS puts beside a file on a foreign disk: `._` and the file's own name."""
    return name.startswith("._")


def is_left_behind(relative: str) -> bool:
    """Whether a file, by its path below what the user named, is left by a program and none of the user's pictures.

    Of an absolute path, which may lead through any folder, only the name counts.
    """
    path = PurePosixPath(relative)
    hidden = not path.is_absolute() and any(is_hidden_folder(part) for part in path.parts[:-1])
    return hidden or "__MACOSX" in path.parts or is_mac_copy(path.name)

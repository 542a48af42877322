"""What a file's name and first bytes tell: whether it is a picture, and of which format."""

from __future__ import annotations

import os

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
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .jp2 .avif .heic .heif .hif .ppm .pgm .pbm .pnm "
    ".tga .ico".split()
)


def format_of(head: bytes) -> str:
    """The format whose first bytes these are, or "" for none known."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
        return BRANDS[head[8:12]]
    return next((name for magic, name in MAGIC if head.startswith(magic)), "")


def has_picture_suffix(name: str | os.PathLike[str]) -> bool:
    """Whether a name ends as a picture's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES

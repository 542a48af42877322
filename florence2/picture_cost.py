"""What decoding a picture will cost, estimated from its header before a pixel is decoded: bytes of memory, passes,
steps.

The law: a picture may take three times its decoded size (width x height x channels x bytes of the file's own type) and
SPARE bytes more. What a decoder takes beyond that is refused. Figures are of Pillow's decoders, measured in a process
of their own (`tests/test_picture_cost.py`). Knows files' bytes and an opened Pillow image's attributes, no decoder.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any, BinaryIO

SPARE = 64 << 20
SLACK = 12 << 20  # of SPARE, for the blocks of a conversion and the decoders' own tables
MAX_SCANS = 100  # of a JPEG, or of one strip of a TIFF; encoders write up to about 20
MAX_PASSED = 2_000_000_000  # pixels that all scans, or all frames before the one asked for, go over
MAX_INTERPRETED = 16_000_000  # pixels where Pillow decodes in Python, a sample at a time
MAX_TILES = 10_000  # of a JPEG 2000, each of which costs some kB

_CHANNELS = {"LA": 2, "PA": 2, "La": 2, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3, "I": 4, "F": 4}
_ONE_BYTE = ("1", "L", "P")  # modes that Pillow keeps in one byte a pixel; 16-bit grey takes two, all others four
_INTERPRETED = ("ppm", "ppm_plain", "bmp_rle", "SGI16")
_JPEG_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")
_PNG = b"\x89PNG\r\n\x1a\n"
_TURNING_TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # texts that may tell how a PNG is turned
_TEXT_BYTES = 1 << 16
_PNG_HIDDEN = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def excess(image: Any, file: BinaryIO | None = None, frame: int = 0) -> str:
    """Why an opened Pillow image costs too much to decode, or "" where it does not."""
    pixels = image.size[0] * image.size[1]
    tiles = getattr(image, "tile", None)
    if not tiles and file is None:
        return ""  # decoded already
    if tiles and tiles[0][0] in _INTERPRETED and pixels > MAX_INTERPRETED:
        return f"is decoded sample by sample, which is allowed up to {MAX_INTERPRETED:,} pixels"
    if frame * pixels > MAX_PASSED and image.format in ("GIF", "PNG", "WEBP", "AVIF"):
        return f"has its frame {frame} behind too many others"
    scans = _scans(image, file)
    if scans > MAX_SCANS or scans * pixels > max(MAX_PASSED, 20 * pixels):
        return f"has {scans:,} scans, over the limit of {min(MAX_SCANS, MAX_PASSED // pixels)}"
    if image.format == "JPEG2000":
        why = _jpeg2000_fault(image, file)
        if why:
            return why
    allowed = 3 * decoded_bytes(image) * pixels + SPARE - SLACK
    peak = max(_decoding_bytes(image, file, scans, frame) * pixels + _parts(image), _converting_bytes(image) * pixels)
    if peak > allowed:
        return f"takes {peak / 2**20:,.0f} MiB to decode as {image.format}, over the limit of {allowed / 2**20:,.0f}"
    return ""


def raw_mode(image: Any) -> str:
    """How Pillow names the samples of a file: what a tile's decoder is given, or the first of it."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def decoded_bytes(image: Any) -> int:
    """Bytes of one pixel in the file's own type; a bit counts as a byte."""
    raw = raw_mode(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and raw.startswith("I;16")):
        return 2
    if image.mode in _ONE_BYTE:
        return 1
    return _CHANNELS.get(image.mode, 4) * (2 if ";16" in raw else 1)


def stored_bytes(mode: str) -> int:
    """Bytes of one pixel as Pillow keeps it."""
    return 1 if mode in _ONE_BYTE else 2 if mode.startswith("I;16") else 4


def _converting_bytes(image: Any) -> float:
    """Bytes a pixel of a decoded image and the RGB array made of it; one-byte images are let go as it is made."""
    twice = 2 if ";16" in raw_mode(image) and image.mode in ("RGB", "RGBA") else 1
    return 3 if image.mode in _ONE_BYTE else twice * stored_bytes(image.mode) + 3


def _decoding_bytes(image: Any, file: BinaryIO | None, scans: int, frame: int) -> float:
    """Bytes a pixel while Pillow decodes."""
    stored, channels = stored_bytes(image.mode), _CHANNELS.get(image.mode, 1 if image.mode in _ONE_BYTE else 4)
    if frame and image.format in ("GIF", "PNG"):
        return 16  # the frames before, as RGBA, are composed
    if image.format == "WEBP":
        return 12.2  # two canvases of RGBA, and their copy
    if image.format == "AVIF":
        return _yuv_bytes(_head(file)) + channels + stored + 1.3
    if image.format == "HEIF":
        return _yuv_bytes(_head(file)) + channels + stored
    if image.format in ("JPEG", "MPO"):
        return stored + (2 * _sampled(image) if image.info.get("progressive") or scans > 2 else 0)
    if image.format == "JPEG2000":
        grid = jpeg2000_grid(_head(file))
        part = min(1.0, grid.tile_wh[0] * grid.tile_wh[1] / (image.size[0] * image.size[1])) if grid else 1.0
        return stored + channels * (4 + decoded_bytes(image) / channels) * part + 0.5
    return stored * (2 if ";16" in raw_mode(image) and image.mode in ("RGB", "RGBA") else 1)


def _parts(image: Any) -> int:
    """Bytes of one strip or tile of a packed TIFF, which is unpacked whole, whatever the picture's own size is."""
    if image.format != "TIFF" or not image.tile or image.tile[0][0] == "raw":
        return 0
    tags = getattr(image, "tag_v2", {})
    width, height = image.size
    rows = tags.get(278, height)
    wide, high = tags.get(322, width), tags.get(323, min(rows, height) if isinstance(rows, int) else height)
    known = all(isinstance(v, int) for v in (wide, high))
    part = wide * high if known else width * height
    packed = image.info.get("compression", "")
    return int(part) * decoded_bytes(image) * (3 if packed in _JPEG_IN_TIFF else 1)


def _scans(image: Any, file: BinaryIO | None) -> int:
    """Scans of a JPEG, or of one strip of a TIFF of JPEGs; 1 for all other pictures."""
    if file is None or image.format not in ("JPEG", "MPO", "TIFF"):
        return 1
    if image.format == "TIFF":
        if image.info.get("compression") not in _JPEG_IN_TIFF:
            return 1
        tags = getattr(image, "tag_v2", {})
        strips = tags.get(273, tags.get(324, ()))
        return _count(file, b"\xff\xda") // max(1, len(strips) if isinstance(strips, tuple) else 1)
    return _count(file, b"\xff\xda")


def _count(file: BinaryIO, marker: bytes) -> int:
    """How often a marker occurs in a file; JPEG's coded data holds none by chance."""
    place, found, last = file.tell(), 0, b""
    file.seek(0)
    while block := file.read(1 << 16):  # small: large ones, let go, change what the allocator gives back
        found += (last + block).count(marker)
        last = block[-1:]
    file.seek(place)
    return found


def _sampled(image: Any) -> float:
    """Samples a pixel that a JPEG's components hold together: 3 of YCbCr 4:4:4, 1.5 of 4:2:0."""
    layers = [(row[1], row[2]) for row in getattr(image, "layer", ()) if len(row) > 2 and row[1] and row[2]]
    if not layers:
        return _CHANNELS.get(image.mode, 1 if image.mode in _ONE_BYTE else 4)
    widest, highest = max(h for h, _ in layers), max(v for _, v in layers)
    return float(sum(h * v for h, v in layers) / (widest * highest))


def _yuv_bytes(head: bytes) -> float:
    """Bytes a pixel of the planes that an AVIF or HEIF is decoded into, by its codec's configuration."""
    if (place := head.find(b"av1C")) >= 0 and len(head) > place + 6:
        flags = head[place + 6]
        chroma = 0 if flags & 0x10 else 2 / ((2 if flags & 0x08 else 1) * (2 if flags & 0x04 else 1))
        return (1 + chroma) * (2 if flags & 0x40 else 1)
    if (place := head.find(b"hvcC")) >= 0 and len(head) > place + 21:
        chroma = (0, 0.5, 1, 2)[head[place + 20] & 3]
        return (1 + chroma) * (2 if head[place + 21] & 7 else 1)
    return 6.0


class Grid:
    """The SIZ segment of a JPEG 2000 codestream: sizes of the picture and of its tiles, and how many channels."""

    def __init__(self, fields: tuple[int, ...]):
        right, bottom, left, top, wide, high, tile_left, tile_top, self.channels = fields
        self.size_wh = right - left, bottom - top
        self.tile_wh = wide, high
        self.tiles = -(-(right - tile_left) // max(1, wide)) * -(-(bottom - tile_top) // max(1, high))


def jpeg2000_grid(head: bytes) -> Grid | None:
    """What the codestream in a JPEG 2000 file says of itself; None where it does not begin in `head`."""
    place = head.find(b"\xff\x4f\xff\x51")
    if place < 0 or len(head) < place + 42:
        return None
    return Grid(struct.unpack_from(">8IH", head, place + 8))


def _jpeg2000_fault(image: Any, file: BinaryIO | None) -> str:
    if file is None:
        return ""
    grid = jpeg2000_grid(_head(file))
    if grid is None:
        return "has no codestream near its beginning"
    if grid.size_wh != tuple(image.size) or grid.channels > 4:
        return f"says {image.size[0]} x {image.size[1]} and holds {grid.size_wh[0]} x {grid.size_wh[1]}"
    return f"has {grid.tiles:,} tiles, over the limit of {MAX_TILES:,}" if grid.tiles > MAX_TILES else ""


def _head(file: BinaryIO | None, size: int = 1 << 17) -> bytes:
    if file is None:
        return b""
    place = file.tell()
    file.seek(0)
    head = file.read(size)
    file.seek(place)
    return head


def icon_fault(file: BinaryIO) -> str:
    """Why an icon, which Pillow decodes as it opens it, must not be opened: a picture larger than an icon in it."""
    head = _head(file, 6 + 16 * 1024)
    if head[:4] != b"\0\0\1\0":
        return ""
    for number in range(min(struct.unpack_from("<H", head, 4)[0], (len(head) - 6) // 16)):
        (offset,) = struct.unpack_from("<I", head, 6 + 16 * number + 12)
        file.seek(offset)
        inner = file.read(24)
        file.seek(0)
        if len(inner) < 24:
            continue
        size = struct.unpack_from(">II", inner, 16) if inner[:8] == _PNG else struct.unpack_from("<ii", inner, 4)
        if not all(abs(side) <= 1024 for side in size):
            return f"is an icon and holds a picture of {size[0]} x {size[1]}"
    return ""


def png_pixels(file: BinaryIO, texts: bool = True) -> BinaryIO:
    """A PNG without what does not touch its pixels: colour profile, texts but those (`texts`) that may say its turn.

    Picture generators store megabytes there, more than Pillow lets a PNG hold. Any other file as it is.
    """
    if _head(file, 8) != _PNG:
        return file
    stretches: list[tuple[int, int]] = []
    begin = 0
    for kind, place, length in _png_chunks(file):
        hidden = kind in _PNG_HIDDEN and not (texts and _tells_turn(file, kind, place, length))
        if hidden or (kind == b"eXIf" and length > _TEXT_BYTES):
            stretches.append((begin, place - 8))
            begin = place + length + 4
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return io.BufferedReader(_Segments(file, [*stretches, (begin, size)])) if stretches else file


def png_turn_follows(file: BinaryIO) -> bool:
    """Whether a PNG holds something that may say how it is turned after its pixels, where opening does not see it."""
    pixels = False
    for kind, place, length in _png_chunks(file):
        pixels = pixels or kind == b"IDAT"
        if pixels and (kind == b"eXIf" or (kind in _PNG_HIDDEN and _tells_turn(file, kind, place, length))):
            return True
    return False


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's kind, where its data begins, and its length."""
    place = 8
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return
        length = struct.unpack(">I", head[:4])[0]
        yield head[4:], place + 8, length
        place += 12 + length


def _tells_turn(file: BinaryIO, kind: bytes, place: int, length: int) -> bool:
    if kind == b"iCCP" or length > _TEXT_BYTES:
        return False
    file.seek(place)
    return file.read(32).startswith(_TURNING_TEXTS)


class _Segments(io.RawIOBase):
    """Stretches of a file as one file."""

    def __init__(self, file: BinaryIO, stretches: list[tuple[int, int]]):
        self.file, self.stretches = file, [(a, b) for a, b in stretches if b > a]
        self.ends = list(accumulate(b - a for a, b in self.stretches))  # in the whole
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = max(0, offset + (0, self.place, self.ends[-1] if self.ends else 0)[whence])
        return self.place

    def tell(self) -> int:
        return self.place

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self.ends, self.place)
        if number == len(self.ends):
            return 0
        left = self.ends[number] - self.place
        self.file.seek(self.stretches[number][1] - left)
        data = self.file.read(min(len(buffer), left))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)

"""The one image loader: anything a user calls an image becomes upright RGB, or `BadImage` says why not.

Knows Pillow; knows no record and no model.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000

# what Pillow's decoders raise on broken files, beside OSError
_BROKEN = (
    ValueError, SyntaxError, EOFError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError,
    struct.error,
)  # fmt: skip
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER_ORDER = {  # how Pillow names 16 bits a channel in a file -> the same in the other byte order
    f"{mode};16{order}": f"{mode};16{'B' if (_NATIVE if order == 'N' else order) == 'L' else 'L'}"
    for mode in ("RGB", "RGBA")
    for order in "LBN"
}


class BadImage(ValueError):
    """An image that cannot be used; `reason` is one word that can be counted.

    Reasons: missing, unreadable, empty, not_an_image, too_large, truncated, corrupt, bad_array, bad_type, no_frame.
    """

    def __init__(self, name: str, reason: str, detail: str):
        super().__init__(f"{name}: {detail}")
        self.name, self.reason, self.detail = name, reason, detail


def load(image: Any, max_pixels: int = MAX_PIXELS, frame: int = 0, name: str = "") -> np.ndarray:
    """A path, bytes, PIL image or array as upright RGB, HWC uint8 in [0, 255].

    EXIF turns are applied, 16 bits a channel divided by 257, alpha composed on white; of an animation the first frame
    is taken. `name` is what an error calls the image (a path calls itself).
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels, name or "array")
    if isinstance(image, Image.Image):
        name = name or getattr(image, "filename", "") or "PIL image"
        _check_size(image.size, max_pixels, name)
        with _decoding(name):
            return _upright_rgb(image)
    with _opened(image, name) as (opened, name):
        _check_size(opened.size, max_pixels, name)
        if frame:
            try:
                opened.seek(frame)
            except EOFError:
                raise BadImage(name, "no_frame", f"has no frame {frame}; the first is 0") from None
        with _decoding(name):
            return _upright_rgb(opened)


def read_size(image: Any, name: str = "") -> tuple[int, int]:
    """Width and height of the upright image, its pixels not decoded."""
    with _opened(image, name) as (opened, _):
        width, height = opened.size
        # Pillow swaps a turned TIFF's sides itself
        turned = opened.format != "TIFF" and _orientation(opened) >= 5
        return (height, width) if turned else (width, height)


def read_orientation(image: Any, name: str = "") -> int:
    """The EXIF orientation that a picture file names, 1 to 8; 1, upright, where it names none."""
    with _opened(image, name) as (opened, _):
        return _orientation(opened)


def resize(array: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """HWC uint8 at another size (Pillow's bicubic, with its antialiasing)."""
    return np.array(Image.fromarray(array).resize(size_wh, Image.Resampling.BICUBIC))


def crop(array: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The pixels that a box touches, cut at the picture's edges; at least one."""
    height, width = array.shape[:2]
    x1, y1 = (min(max(int(np.floor(v)), 0), side - 1) for v, side in zip(box[:2], (width, height)))
    x2, y2 = (min(max(int(np.ceil(v)), low + 1), side) for v, low, side in zip(box[2:], (x1, y1), (width, height)))
    return array[y1:y2, x1:x2].copy()


def encode(array: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    """HWC uint8 as the bytes of a picture file."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, format=format, **options)
    return out.getvalue()


@contextmanager
def _opened(image: Any, name: str) -> Iterator[tuple[Image.Image, str]]:
    """The picture with its header read; every refusal of a file or of bytes that is none."""
    source: BinaryIO
    if isinstance(image, (bytes, bytearray, memoryview)):
        name, source = name or f"image of {len(image)} bytes", io.BytesIO(image)
        size = len(image)
    elif isinstance(image, (str, os.PathLike)):
        name = name or os.fspath(image)
        size = _file_size(Path(image), name)
        try:
            source = open(image, "rb")  # noqa: SIM115
        except OSError as error:
            raise BadImage(name, "unreadable", f"cannot be read ({error.strerror}); check its permissions") from None
    else:
        kind = type(image).__name__
        raise BadImage(name or kind, "bad_type", f"expected a path, bytes, PIL image or uint8 array, got {kind}")
    with source, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on odd tags and on sizes: both are judged here
        if size == 0:
            raise BadImage(name, "empty", "is empty (0 bytes); expected a picture")
        try:
            opened = Image.open(source)
        except UnidentifiedImageError:
            raise BadImage(name, "not_an_image", "is not a picture in a format known to Pillow") from None
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise BadImage(name, "too_large", f"has over {limit:,} pixels; make it smaller") from None
        except (OSError, *_BROKEN) as error:
            raise BadImage(name, "corrupt", f"has a damaged header ({_brief(error)})") from None
        yield opened, name


def _file_size(path: Path, name: str) -> int:
    try:
        if not path.is_file():
            reason, what = ("unreadable", "is not a file") if path.exists() else ("missing", "does not exist")
            raise BadImage(name, reason, f"{what}; expected the path of a picture")
        return path.stat().st_size
    except OSError as error:
        raise BadImage(name, "unreadable", f"cannot be read ({error.strerror})") from None
    except ValueError as error:
        if isinstance(error, BadImage):
            raise
        raise BadImage(repr(name), "missing", f"is not a path ({error})") from None


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise BadImage(name, "too_large", "does not fit in memory; make it smaller") from None
    except (OSError, *_BROKEN) as error:
        if isinstance(error, BadImage):
            raise
        truncated = "truncated" in str(error) or isinstance(error, EOFError)
        reason, what = ("truncated", "ends too early") if truncated else ("corrupt", "cannot be decoded")
        raise BadImage(name, reason, f"{what} ({_brief(error)}); replace the file") from None


def _check_size(size_wh: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size_wh
    if not width * height:
        raise BadImage(name, "empty", f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        detail = f"has {width} x {height} pixels, over the limit of {max_pixels:,}; make it smaller or raise max_pixels"
        raise BadImage(name, "too_large", detail)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, *_BROKEN):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright_rgb(image: Image.Image) -> np.ndarray:
    low = _low_bytes(image)
    image.load()  # a TIFF is turned here, and its orientation then reads 1
    turn = _TURNS.get(_orientation(image))
    if low is not None:
        image = Image.fromarray(_eight_bits(np.array(image).astype(np.int64) * 256 + low))
    if image.mode.startswith("I") or image.mode == "F":
        rgb = Image.fromarray(_eight_bits(np.array(image), image.mode)).convert("RGB")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", rgba.size, (255, 255, 255))
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    return np.array(rgb if turn is None else rgb.transpose(turn))


def _raw_mode(arguments: Any) -> str:
    """How Pillow names the samples of a file: what a tile's decoder is given, or the first of it."""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _low_bytes(image: Image.Image) -> np.ndarray | None:
    """The low bytes of a colour picture with 16 bits a channel: Pillow keeps the high ones, cut, not rounded.

    Read in the other byte order, the same file gives the low ones. None for all other pictures.
    """
    tiles = getattr(image, "tile", None)
    raw = _raw_mode(tiles[0][3]) if tiles else ""
    if raw not in _OTHER_ORDER or "transparency" in image.info:
        return None
    source = getattr(image, "fp")  # noqa: B009
    place = source.tell()
    source.seek(0)
    twin: Any = Image.open(source)
    twin.seek(image.tell())
    other = _OTHER_ORDER[raw]
    arguments = [other if isinstance(tile[3], str) else (other, *tile[3][1:]) for tile in twin.tile]
    make = getattr(type(twin.tile[0]), "_make", tuple)  # a plain tuple in older Pillows
    twin.tile = [make((*tile[:3], args)) for tile, args in zip(twin.tile, arguments)]
    low = np.array(twin)
    source.seek(place)
    return low


def _eight_bits(array: np.ndarray, mode: str = "I;16") -> np.ndarray:
    """16-bit grey divided by 257 and rounded; of floats, up to 1 is taken as a fraction, above as 0..255."""
    if mode == "F":
        array = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        return np.clip(array * 255 if array.max() <= 1 else array, 0, 255).round().astype(np.uint8)
    wide = np.clip(array.astype(np.int64), 0, 65535)
    return ((wide + 128) // 257).astype(np.uint8)


def _from_array(array: np.ndarray, max_pixels: int, name: str) -> np.ndarray:
    if array.dtype == np.uint16:
        array = _eight_bits(array)
    if array.dtype != np.uint8:
        detail = f"expected uint8 in [0, 255], got {array.dtype}; multiply fractions by 255 and call .astype('uint8')"
        raise BadImage(name, "bad_array", detail)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
        hint = "; call .transpose(1, 2, 0)" if channels_first else ""
        raise BadImage(name, "bad_array", f"expected shape (height, width, 3), got {array.shape}{hint}")
    _check_size((array.shape[1], array.shape[0]), max_pixels, name)
    if array.shape[2] == 4:
        return _upright_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))

"""The one image loader: anything a user calls an image becomes upright RGB, or `BadImage` says why not.

Knows Pillow; knows no record and no model. What a picture may cost is judged before it is decoded (`picture_cost`), and
only FORMATS are decoded, none of which starts a program.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np
from PIL import Image, UnidentifiedImageError

from florence2 import picture_cost
from florence2.labels import one_line

PilImage = Image.Image
ImageLike = Union[str, os.PathLike[str], bytes, np.ndarray, PilImage]  # an array is HWC uint8
ImageFile = Union[str, os.PathLike[str], bytes, bytearray, memoryview]  # a path, or what a file holds
MAX_PIXELS = 100_000_000
# what Pillow may decode: no PostScript, nothing that runs a program or an external handler
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO", "HEIF")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BLOCK = 1 << 20  # pixels that are converted at a time
_ORIENTATION = 0x0112
_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER_ORDER = {  # how Pillow names 16 bits a channel in a file -> the same in the other byte order
    f"{mode};16{order}": f"{mode};16{'B' if (_NATIVE if order == 'N' else order) == 'L' else 'L'}"
    for mode in ("RGB", "RGBA")
    for order in "LBN"
}


class BadImage(ValueError):
    """An image that cannot be used; `reason` is one word that can be counted.

    Reasons: missing, unreadable, empty, not_an_image, no_decoder, too_large, truncated, corrupt, bad_array, bad_type,
    no_frame.
    """

    def __init__(self, name: str, reason: str, detail: str):
        super().__init__(f"{name}: {detail}")
        self.name, self.reason, self.detail = name, reason, detail


def load(image: ImageLike, max_pixels: int = MAX_PIXELS, frame: int = 0, name: str = "") -> np.ndarray:
    """A path, bytes, PIL image or array as upright RGB, HWC uint8 in [0, 255].

    EXIF turns are applied, 16 bits a channel divided by 257, alpha composed on white; of an animation the first frame
    is taken. `name` is what an error calls the image (a path calls itself).
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels, name or "array")
    if isinstance(image, Image.Image):
        name = name or getattr(image, "filename", "") or "PIL image"
        if getattr(image, "tile", None) and image.format not in FORMATS:
            raise BadImage(
                name, "not_an_image", f"is {image.format}, which is not decoded here; call .load() on it first"
            )
        check_size(image.size, max_pixels, name)
        _check_cost(image, None, 0, name)
        with _decoding(name):
            return _upright_rgb(image)
    with _opened(image, name) as (opened, source, name):
        check_size(opened.size, max_pixels, name)
        _check_cost(opened, source, frame, name)
        if frame:
            with _decoding(name):
                try:
                    opened.seek(frame)
                except EOFError:
                    raise BadImage(name, "no_frame", f"has no frame {frame}; the first is 0") from None
            check_size(opened.size, max_pixels, name)
            _check_cost(opened, source, frame, name)
        with _decoding(name):
            return _upright_rgb(opened, ours=True)


def read_size(image: ImageFile, name: str = "") -> tuple[int, int]:
    """Width and height of the upright image, its pixels not decoded."""
    with _opened(image, name) as (opened, source, _):
        width, height = opened.size
        # Pillow swaps a turned TIFF's sides itself
        turned = opened.format != "TIFF" and _stated_orientation(opened, source) >= 5
        return (height, width) if turned else (width, height)


def read_orientation(image: ImageFile, name: str = "") -> int:
    """The EXIF orientation that a picture file names, 1 to 8; 1, upright, where it names none."""
    with _opened(image, name) as (opened, source, _):
        return _stated_orientation(opened, source)


def thumbnail(image: ImageFile, side: int, max_pixels: int = MAX_PIXELS, name: str = "") -> np.ndarray:
    """The picture as `load` gives it, at most `side` pixels long and high; of a JPEG only as much is decoded."""
    with _opened(image, name) as (opened, source, name):
        check_size(opened.size, max_pixels, name)
        _check_cost(opened, source, 0, name)
        with _decoding(name):
            if opened.format == "JPEG":
                opened.draft(None, (2 * side, 2 * side))
            array = _upright_rgb(opened, ours=True)
    scale = min(1.0, side / max(array.shape[:2]))
    return resize(array, (max(1, round(array.shape[1] * scale)), max(1, round(array.shape[0] * scale))))


def holds_more(image: ImageFile, name: str = "") -> bool:
    """Whether a file holds more than the picture that is read of it: pages, or the frames of an animation."""
    with _opened(image, name) as (opened, _, _):
        return opened.format != "MPO" and bool(getattr(opened, "is_animated", False))


def resize(array: np.ndarray, size_wh: tuple[int, int]) -> np.ndarray:
    """HWC uint8 at another size (Pillow's bicubic, with its antialiasing)."""
    return np.array(Image.fromarray(array).resize(size_wh, Image.Resampling.BICUBIC))


def crop(array: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """The pixels that a box touches, cut at the picture's edges; at least one."""
    height, width = array.shape[:2]
    x1, y1 = (min(max(int(np.floor(v)), 0), side - 1) for v, side in zip(box[:2], (width, height)))
    x2, y2 = (min(max(int(np.ceil(v)), low + 1), side) for v, low, side in zip(box[2:], (x1, y1), (width, height)))
    return np.array(array[y1:y2, x1:x2])


def encode(array: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    """HWC uint8 as the bytes of a picture file."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, format=format, **options)
    return out.getvalue()


@contextmanager
def _opened(image: Any, name: str) -> Iterator[tuple[Image.Image, BinaryIO, str]]:
    """The picture with its header read, and its file; every refusal of a file or of bytes that is none."""
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
    with source, _quiet():
        if size == 0:
            raise BadImage(name, "empty", "is empty (0 bytes); expected a picture")
        try:
            fault = picture_cost.icon_fault(source)
            if fault:
                raise BadImage(name, "too_large", f"{fault}; save it as a PNG")
            opened, source = _identified(source)
        except UnidentifiedImageError:
            raise _unknown(source, name) from None
        except Image.DecompressionBombError:
            limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
            raise BadImage(name, "too_large", f"has over {limit:,} pixels; make it smaller") from None
        except BadImage:
            raise
        except Exception as error:  # a decoder may raise anything on a broken file
            raise BadImage(name, "corrupt", f"has a damaged header ({one_line(error, 120)})") from None
        yield opened, source, name


def _identified(source: BinaryIO) -> tuple[Image.Image, BinaryIO]:
    """The picture as Pillow opens it, and the file that it reads: of a PNG without what does not touch its pixels."""
    first = picture_cost.png_pixels(source)
    try:
        return Image.open(first, formats=_formats()), first
    except ValueError as error:
        if "MAX_TEXT" not in str(error):  # a text that may say how it is turned, and is too long for Pillow
            raise
        plain = picture_cost.png_pixels(source, texts=False)
        return Image.open(plain, formats=_formats()), plain


def _formats() -> list[str]:
    """Those of FORMATS that this Pillow knows, and HEIF where pillow-heif is installed."""
    Image.init()
    if "HEIF" not in Image.OPEN:
        heif = _heif()
        if heif is not None:
            heif.register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


@lru_cache(maxsize=1)
def _heif() -> Any:
    try:
        return importlib.import_module("pillow_heif")
    except ImportError:
        return None


def _unknown(source: BinaryIO, name: str) -> BadImage:
    """The refusal of a file that no decoder takes."""
    source.seek(0)
    head = source.read(12)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC and "HEIF" not in Image.OPEN:
        detail = "is a HEIC picture; pip install 'florence2[heif]' (pillow-heif) to read it, or save it as JPEG"
        return BadImage(name, "no_decoder", detail)
    return BadImage(name, "not_an_image", f"is not a picture in one of the formats {', '.join(FORMATS)}")


_silent: list[Any] = []
_silencing = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Pillow's warnings on odd tags and on sizes, which are judged here; whatever threads load at once.

    The process's filters are put back when the last of them leaves.
    """
    with _silencing:
        if not _silent:
            manager = warnings.catch_warnings()
            manager.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _silent.append(manager)
        _silent.append(None)
    try:
        yield
    finally:
        with _silencing:
            _silent.pop()
            if len(_silent) == 1:
                _silent.pop().__exit__(None, None, None)


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
    except BadImage:
        raise
    except Exception as error:  # a decoder may raise anything on a broken file
        truncated = "truncated" in str(error) or isinstance(error, EOFError)
        reason, what = ("truncated", "ends too early") if truncated else ("corrupt", "cannot be decoded")
        raise BadImage(name, reason, f"{what} ({one_line(error, 120)}); replace the file") from None


def check_size(size_wh: tuple[int, int], max_pixels: int, name: str) -> None:
    """Refuse a picture without pixels or with too many, as BadImage."""
    width, height = size_wh
    if min(width, height) < 1:
        raise BadImage(name, "empty", f"has no pixels ({width} x {height})")
    if width * height > max_pixels:
        detail = f"has {width} x {height} pixels, over the limit of {max_pixels:,}; make it smaller or raise max_pixels"
        raise BadImage(name, "too_large", detail)


def _check_cost(image: Image.Image, file: BinaryIO | None, frame: int, name: str) -> None:
    with _decoding(name):
        why = picture_cost.excess(image, file, frame)
    if why:
        raise BadImage(name, "too_large", f"{why}; make it smaller or save it as PNG or JPEG")


def _stated_orientation(image: Image.Image, file: BinaryIO) -> int:
    """The orientation of a picture just opened; of a PNG Pillow would decode all pixels to look for one after them."""
    if image.format != "PNG":
        return _orientation(image)
    place = file.tell()
    follows = picture_cost.png_turn_follows(file)
    file.seek(place)
    return _orientation(image, image.getexif if follows else partial(Image.Image.getexif, image))


def _orientation(image: Image.Image, exif: Callable[[], Image.Exif] | None = None) -> int:
    try:
        value = (exif or image.getexif)().get(_ORIENTATION, 1)
    except Exception:  # a damaged tag; the pixels may be whole
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright_rgb(image: Image.Image, ours: bool = False) -> np.ndarray:
    """The picture as an array, block by block; where it is `ours` its memory is given back as soon as may be."""
    low = _low_bytes(image)
    if ours and image.format == "WEBP" and image.tell() == 0:
        _free_canvases(image)
    image.load()  # a TIFF is turned here, and its orientation then reads 1
    width, height = image.size
    orientation = _orientation(image)
    swapped = orientation >= 5
    out = np.empty((width, height, 3) if swapped else (height, width, 3), np.uint8)
    stored = _TURNED_BACK[orientation](out)
    convert = _converter(image)
    columns = min(width, _BLOCK)
    rows = max(1, _BLOCK // columns)
    boxes = [
        (x, y, min(x + columns, width), min(y + rows, height))
        for y in range(0, height, rows)
        for x in range(0, width, columns)
    ]
    blocks: Iterator[Image.Image]
    if ours and len(boxes) > 1 and picture_cost.stored_bytes(image.mode) == 1:
        cut = [image.crop(box) for box in reversed(boxes)]
        image.close()  # of the picture and its array, only a block is held twice
        blocks = (cut.pop() for _ in boxes)
    else:
        blocks = (image.crop(box) for box in boxes)
    for (x1, y1, x2, y2), block in zip(boxes, blocks):
        if low is not None:
            fine = np.asarray(block).astype(np.uint16) << 8 | np.asarray(low.crop((x1, y1, x2, y2)))
            block = Image.fromarray(_eight_bits(fine))
        stored[y1:y2, x1:x2] = convert(block)
    return out


# the stored picture as a view of the upright one, by EXIF orientation
_TURNED_BACK: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def _converter(image: Image.Image) -> Callable[[Image.Image], np.ndarray]:
    """What makes a block of this picture RGB: (H, W, 3) or, where it is grey, (H, W, 1)."""
    if image.mode == "F":
        scale = _scale_of_floats(image)
        return lambda block: np.clip(_finite(block) * scale, 0, 255).round().astype(np.uint8)[:, :, None]
    if image.mode.startswith("I"):
        return lambda block: _eight_bits(np.asarray(block))[:, :, None]
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white
    return lambda block: np.asarray(block.convert("RGB"))


def _on_white(block: Image.Image) -> np.ndarray:
    rgba = block.convert("RGBA")
    rgb = Image.new("RGB", rgba.size, (255, 255, 255))
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(rgb)


def _finite(block: Image.Image) -> np.ndarray:
    return np.nan_to_num(np.asarray(block, np.float64), nan=0.0, posinf=255.0, neginf=0.0)


def _scale_of_floats(image: Image.Image) -> float:
    """255 where no value is above 1, which then are fractions; else 1."""
    width, height = image.size
    rows = max(1, _BLOCK // width)
    largest = max(_finite(image.crop((0, y, width, min(y + rows, height)))).max() for y in range(0, height, rows))
    return 255.0 if largest <= 1 else 1.0


def _free_canvases(image: Any) -> None:
    """Let a WebP's decoder, with its two canvases, go as soon as it has given the frame."""
    get_next = getattr(image, "_get_next", None)
    if get_next is None or getattr(image, "_decoder", None) is None:
        return

    def once() -> Any:
        frame = get_next()
        image._decoder = None
        return frame

    image._get_next = once


def _low_bytes(image: Image.Image) -> Image.Image | None:
    """The low bytes of a colour picture with 16 bits a channel: Pillow keeps the high ones, cut, not rounded.

    Read in the other byte order, the same file gives the low ones. None for all other pictures.
    """
    raw = picture_cost.raw_mode(image)
    if raw not in _OTHER_ORDER or "transparency" in image.info:
        return None
    source = getattr(image, "fp")  # noqa: B009
    place = source.tell()
    source.seek(0)
    twin: Any = Image.open(source, formats=[image.format or ""])
    twin.seek(image.tell())
    other = _OTHER_ORDER[raw]
    arguments = [other if isinstance(tile[3], str) else (other, *tile[3][1:]) for tile in twin.tile]
    make = getattr(type(twin.tile[0]), "_make", tuple)  # a plain tuple in older Pillows
    twin.tile = [make((*tile[:3], args)) for tile, args in zip(twin.tile, arguments)]
    twin.load()
    source.seek(place)
    reread: Image.Image = twin
    return reread


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """16-bit values divided by 257 and rounded; what is outside of 16 bits is cut."""
    if array.dtype != np.uint16:
        array = np.clip(array, 0, 65535).astype(np.uint16)
    return np.asarray(_DIVIDED[array])


_DIVIDED = ((np.arange(65536) + 128) // 257).astype(np.uint8)


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
    check_size((array.shape[1], array.shape[0]), max_pixels, name)
    if array.shape[2] == 4:
        return _upright_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))

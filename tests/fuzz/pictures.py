"""Picture files damaged in every format that is read: each is upright RGB, or a BadImage of one line, within bounds.

A picture may take three times what it decodes to, and 64 MiB.
"""

import io
import os
import random
import zlib
from contextlib import contextmanager

import numpy as np
from PIL import Image

from florence2 import pixels
from tests.fuzz.attempts import Attempt, limited
from tests.fuzz.damage import damaged_binary

MAX_PIXELS = 1_000_000
DECODED = 8 * MAX_PIXELS  # bytes: four channels of 16 bits
MODES = {  # format -> modes and options to save it with
    "PNG": (("RGB", {}), ("P", {}), ("LA", {}), ("1", {}), ("I;16", {})),
    "JPEG": (("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True})),
    "WEBP": (("RGB", {}), ("RGBA", {"lossless": True})),
    "GIF": (("P", {}), ("P", {"save_all": True})),
    "BMP": (("RGB", {}), ("P", {}), ("1", {})),
    "TIFF": (("RGB", {}), ("RGB", {"compression": "tiff_lzw"}), ("F", {}), ("1", {"compression": "group4"}),
             ("RGB", {"compression": "tiff_deflate"}), ("I;16", {})),
    "JPEG2000": (("RGB", {}), ("L", {}), ("RGBA", {})),
    "AVIF": (("RGB", {}),),
    "PPM": (("RGB", {}), ("L", {})),
    "TGA": (("RGB", {}), ("P", {"compression": "tga_rle"})),
    "ICO": (("RGBA", {}),),
    "MPO": (("RGB", {"save_all": True}),),
}  # fmt: skip


def drawn():
    """(format, bytes) of small pictures in every format, and those of 16 bits a channel that Pillow cannot write."""
    rng = np.random.default_rng(0)
    array = np.kron(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), np.ones((6, 6, 1), np.uint8))
    out = []
    for format, ways in MODES.items():
        for mode, options in ways:
            image = Image.fromarray(array[..., 0]).convert("I;16") if mode == "I;16" else Image.fromarray(array)
            image = image if mode == "I;16" else image.convert(mode)
            more = {"append_images": [image.rotate(90)]} if options.get("save_all") else {}
            file, exif = io.BytesIO(), Image.Exif()
            exif[0x0112] = 6
            if format in ("PNG", "JPEG", "WEBP", "AVIF"):
                more["exif"] = exif
            image.save(file, format, **options, **more)
            out.append((format, file.getvalue()))
    return [*out, ("PNG", _png16(rng))]


def _png16(rng):
    rows = b"".join(b"\0" + rng.bytes(24 * 8) for _ in range(16))
    head = (24).to_bytes(4, "big") + (16).to_bytes(4, "big") + b"\x10\x06\0\0\0"
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, parts))


def _chunk(part):
    kind, data = part
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def attempts(seed):
    """Damaged pictures of each kind in turn, without end."""
    number, whole = 0, drawn()
    for _, data in whole:  # each decoder loaded, and the buffers of the largest picture allowed
        pixels.load(data)
    pixels.load(pixels.encode(np.zeros((1000, 1000, 4), np.uint8)))
    while True:
        for kind, (format, data) in enumerate(whole):
            rng = random.Random(f"{seed}-{kind}-{number}")
            what, damaged = damaged_binary(rng, data, end=rng.choice((64, None)))
            if format == "PNG" and rng.random() < 0.7:
                damaged = _sealed(damaged)
            fault = _fault(damaged, rng.random() < 0.2)
            yield Attempt(format, f"seed {seed}, number {number}, picture {kind}: {what}", fault)
        number += 1


def _sealed(data):
    """A PNG whose chunks' checksums are right, so that the damage reaches what reads them."""
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 8 + length] + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(out)


@contextmanager
def _quiet():
    """libtiff says on the screen what it makes of a file."""
    screen = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)


def _fault(data, sizes):
    faults = []
    with _quiet(), limited(DECODED, faults, 3):
        try:
            array = pixels.load(data, max_pixels=MAX_PIXELS, name="the picture")
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
                faults.append(f"loads as {array.dtype} {array.shape}")
            if sizes and (width_height := pixels.read_size(data)) != array.shape[1::-1]:
                faults.append(f"read_size says {width_height}, load gives {array.shape}")
            if pixels.read_orientation(data) not in range(1, 9):
                faults.append("an orientation that is none")
        except pixels.BadImage as error:
            if len(str(error).splitlines()) != 1 or len(str(error)) > 500 or "the picture" not in str(error):
                faults.append(f"a refusal that is no line: {str(error)[:200]!r}")
        except Exception as error:
            faults.append(f"{type(error).__name__}: {str(error)[:200]}")
    return "; ".join(faults)

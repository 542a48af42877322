"""What a picture may cost: refused before it is decoded, or within three times its decoded size and 64 MiB.

Peaks are of resident memory, measured in a process of its own.
"""

import io
import json
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from florence2 import picture_cost, pixels
from florence2.pixels import BadImage

SIDE = 3000  # 9 megapixels: large beside what Python and its libraries take
CHILD = """
import json, re, sys
import numpy as np
from PIL import Image
Image.init()
from florence2 import pixels
pixels.load(pixels.encode(np.zeros((8, 8, 3), np.uint8)))

def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

open("/proc/self/clear_refs", "w").write("5")
before = kib("VmRSS")
try:
    found = list(pixels.load(sys.argv[1]).shape)
except pixels.BadImage as error:
    found = error.reason
print(json.dumps([found, (kib("VmHWM") - before) * 1024]))
"""


def peak_of(path):
    """What loading gives, a shape or a reason, and the most memory that it took, in bytes."""
    out = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def flat_png(width, height, colour, channels, bits=16):
    """A PNG of one colour, packed as well as may be."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    packer, row = zlib.compressobj(9), b"\0" + b"\x12\x34" * (width * channels * bits // 16)
    rows = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def drawn(mode):
    y, x = np.mgrid[:SIDE, :SIDE]
    image = Image.fromarray(((x // 3 + y // 5) % 256).astype(np.uint8))
    return image.convert("RGB").convert(mode) if mode != "L" else image


def saved(mode, format, **options):
    out = io.BytesIO()
    drawn(mode).save(out, format, **options)
    return out.getvalue()


WITHIN = {  # name: (bytes of one pixel in the file's own type, the file)
    "grey.jpg": (1, lambda: saved("L", "JPEG")),
    "grey.png": (1, lambda: saved("L", "PNG", compress_level=1)),
    "palette.gif": (1, lambda: saved("P", "GIF")),
    "bits.tif": (1, lambda: saved("1", "TIFF", compression="group4")),
    "rgb.jpg": (3, lambda: saved("RGB", "JPEG")),
    "progressive.jpg": (3, lambda: saved("RGB", "JPEG", progressive=True, subsampling=0)),
    "cmyk.jpg": (4, lambda: saved("CMYK", "JPEG", progressive=True)),
    "alpha.png": (4, lambda: saved("RGBA", "PNG", compress_level=1)),
    "packed.tif": (3, lambda: saved("RGB", "TIFF", compression="tiff_lzw")),
    "rgb.webp": (3, lambda: saved("RGB", "WEBP", method=0, quality=10)),
    "tiled.jp2": (3, lambda: saved("RGB", "JPEG2000", tile_size=(512, 512), quality_mode="rates", quality_layers=[40])),
    "grey.jp2": (1, lambda: saved("L", "JPEG2000", quality_mode="rates", quality_layers=[40])),
    "grey16.png": (2, lambda: flat_png(SIDE, SIDE, 0, 1)),
    "rgb16.png": (6, lambda: flat_png(SIDE, SIDE, 2, 3)),
    "rgba16.png": (8, lambda: flat_png(SIDE, SIDE, 6, 4)),
}


@pytest.mark.parametrize("name", WITHIN)
def test_a_picture_costs_at_most_three_times_its_decoded_size(tmp_path, name):
    own, made = WITHIN[name]
    (tmp_path / name).write_bytes(made())
    shape, peak = peak_of(tmp_path / name)
    assert shape == [SIDE, SIDE, 3]
    assert peak <= 3 * own * SIDE * SIDE + (64 << 20), f"{peak / 2**20:.0f} MiB"


def jpeg2000(side, tile):
    """Bytes that begin as a JPEG 2000 picture, of so many pixels a side, in tiles of so many."""
    fields = struct.pack(">HHIIIIIIIIH", 47, 0, side, side, 0, 0, tile, tile, 0, 0, 3) + b"\7\1\1" * 3
    return b"\xff\x4f\xff\x51" + fields + b"\xff\x90" + bytes(64)


def scanned(scans):
    """A progressive JPEG whose last scan is there so many times more."""
    whole = saved("RGB", "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def icon_with(inner):
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner


BEYOND = {
    "jpeg2000 in one tile": lambda: jpeg2000(9000, 9000),
    "jpeg2000 in a million tiles": lambda: jpeg2000(4000, 4),
    "jpeg of 5,000 scans": lambda: scanned(5000),
    "icon": lambda: icon_with(flat_png(9000, 9000, 2, 3, 8)),
    "grey with alpha": lambda: flat_png(9900, 9900, 4, 2, 8),
    "webp": lambda: pixels.encode(np.zeros((5000, 5000, 3), np.uint8), "WEBP", method=0, quality=10),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_would_cost_more_is_refused_before_it_is_decoded(tmp_path, name):
    path = tmp_path / "x"
    path.write_bytes(BEYOND[name]())
    begun = time.monotonic()
    reason, peak = peak_of(path)
    assert reason == "too_large" and peak < 64 << 20
    assert time.monotonic() - begun < 20


def test_a_tiff_tile_larger_than_its_picture_is_refused():
    whole = bytearray(saved("L", "TIFF", compression="tiff_deflate"))
    image = Image.open(io.BytesIO(bytes(whole)))
    image.tag_v2[322], image.tag_v2[323] = 30_000, 30_000
    assert "MiB" in picture_cost.excess(image)


def test_pictures_of_generators_and_large_profiles_load(tmp_path):
    """Workflows, prompts and profiles of megabytes, packed, before and after the pixels; Pillow refuses each."""
    array = np.arange(3 * 12 * 16, dtype=np.uint8).reshape(12, 16, 3)
    workflow, prompt = PngInfo(), PngInfo()
    workflow.add_text("workflow", '{"nodes":[' + "0," * 1_500_000 + "0]}", zip=True)
    prompt.add_itxt("parameters", "a red box on a wall, " * 120_000, zip=True)
    for options in ({"pnginfo": workflow}, {"pnginfo": prompt}, {"icc_profile": bytes(3 << 20)}):
        whole = pixels.encode(array, "PNG", **options)
        assert np.array_equal(pixels.load(whole), array)
        assert pixels.read_size(whole) == (16, 12)
    plain = pixels.encode(array, "PNG")
    late = chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(5 << 20)))
    after = plain[:-12] + late + plain[-12:]
    (tmp_path / "after.png").write_bytes(after)
    assert np.array_equal(pixels.load(tmp_path / "after.png"), array)


def test_a_text_that_turns_the_picture_is_read_and_a_bomb_in_it_is_not():
    """An orientation may stand in a PNG's XMP, which is a text like the ones passed over."""
    array = np.arange(3 * 12 * 16, dtype=np.uint8).reshape(12, 16, 3)
    xmp = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    for text, turned in ((xmp, True), (xmp + " " * (2 << 20), False)):
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", text, zip=True)
        info.add_text("workflow", "0," * 1_500_000, zip=True)
        assert pixels.load(pixels.encode(array, "PNG", pnginfo=info)).shape == ((16, 12, 3) if turned else (12, 16, 3))


def test_no_program_is_started(tmp_path, monkeypatch):
    def started(*args, **more):
        raise AssertionError("a program was started")

    for name in ("Popen", "run", "check_call"):
        monkeypatch.setattr(subprocess, name, started)
    postscript = tmp_path / "x.jpg"
    postscript.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    for image in (postscript, Image.open(postscript)):
        with pytest.raises(BadImage) as caught:
            pixels.load(image)
        assert caught.value.reason == "not_an_image"


def test_whatever_a_decoder_raises_is_a_bad_image(monkeypatch):
    whole = pixels.encode(np.zeros((8, 8, 3), np.uint8))

    class Odd(Exception):
        """Of no kind that a loader expects."""

    def odd(*args, **more):
        raise Odd("out of the blue")

    for target, name in ((Image, "open"), (Image.Image, "load"), (Image.Image, "getexif")):
        with monkeypatch.context() as patched:
            patched.setattr(target, name, odd)
            if name == "getexif":
                assert pixels.load(whole).shape == (8, 8, 3)
                continue
            with pytest.raises(BadImage, match="out of the blue") as caught:
                pixels.load(whole)
            assert caught.value.reason == "corrupt"


def test_a_heic_opens_with_its_library_and_says_so_without(monkeypatch):
    import pillow_heif as heif

    array = np.full((64, 48, 3), 120, np.uint8)
    array[:32] = 30
    out = io.BytesIO()
    heif.from_pillow(Image.fromarray(array)).save(out, quality=90)
    assert np.abs(pixels.load(out.getvalue()).astype(int) - array).max() < 12
    assert pixels.read_size(out.getvalue()) == (48, 64)
    monkeypatch.setattr(pixels, "_heif", lambda: None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(BadImage, match="pillow-heif") as caught:
        pixels.load(out.getvalue())
    assert caught.value.reason == "no_decoder"


def test_warnings_are_as_they_were_after_loads_in_threads():
    import threading
    import warnings

    before = list(warnings.filters)
    whole = pixels.encode(np.zeros((64, 64, 3), np.uint8))
    threads = [threading.Thread(target=lambda: [pixels.load(whole) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before

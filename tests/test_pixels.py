"""The image loader: every kind of picture comes out right, every kind of bad one is named."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from florence2 import pixels
from florence2.pixels import BadImage

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def gradient():
    y, x = np.mgrid[:30, :40]
    return np.stack([x * 6, y * 8, (x + y) * 3], axis=2).astype(np.uint8)


def saved(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def test_path_bytes_picture_and_array_give_the_same(tmp_path, gradient):
    file = tmp_path / "a.png"
    file.write_bytes(pixels.encode(gradient))
    for image in (file, str(file), file.read_bytes(), Image.open(file), gradient):
        assert np.array_equal(pixels.load(image), gradient)
    assert pixels.read_size(file) == (40, 30)


def test_a_wrong_suffix_is_fine(tmp_path, gradient):
    file = tmp_path / "a.jpg"
    file.write_bytes(pixels.encode(gradient, "PNG"))
    assert np.array_equal(pixels.load(file), gradient)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_are_applied(gradient, orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {  # what the camera stored for an upright picture u
        1: lambda u: u, 2: lambda u: u[:, ::-1], 3: lambda u: u[::-1, ::-1], 4: lambda u: u[::-1],
        5: lambda u: u.transpose(1, 0, 2), 6: lambda u: np.rot90(u, 1), 7: lambda u: np.rot90(u, 2).transpose(1, 0, 2),
        8: lambda u: np.rot90(u, -1),
    }  # fmt: skip
    stored = saved(Image.fromarray(np.ascontiguousarray(turns[orientation](gradient))), format, exif=exif)
    assert np.array_equal(pixels.load(stored), gradient)
    assert pixels.read_size(stored) == (40, 30)


def test_sixteen_bits_are_divided_by_257():
    grey = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], dtype=np.uint16)
    expected = np.round(grey / 257).astype(np.uint8)
    for image in (saved(Image.fromarray(grey), "PNG"), saved(Image.fromarray(grey), "TIFF"), grey):
        assert np.array_equal(pixels.load(image), np.repeat(expected[:, :, None], 3, axis=2))


def png16(array):
    """The bytes of a PNG with 16 bits a channel, which Pillow does not write."""
    height, width, channels = array.shape

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_of_colour_too(tmp_path):
    colour = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), np.uint16)
    expected = np.round(colour / 257).astype(np.uint8)  # Pillow alone cuts: x // 256
    (tmp_path / "x.png").write_bytes(png16(colour))
    for image in (png16(colour), tmp_path / "x.png", Image.open(tmp_path / "x.png"), colour):
        assert np.array_equal(pixels.load(image), expected)
    clear = np.concatenate([colour, np.full((20, 30, 1), 65535, np.uint16)], 2)
    clear[:5, :, 3] = 0
    got = pixels.load(png16(clear))
    assert (got[:5] == 255).all() and np.array_equal(got[5:], expected[5:])
    with pytest.raises(pixels.BadImage) as caught:
        pixels.load(png16(colour)[:-600])
    assert caught.value.reason == "truncated"


def test_modes_become_rgb(gradient):
    picture = Image.fromarray(gradient)
    grey = np.array(picture.convert("L"))
    assert np.array_equal(pixels.load(saved(picture.convert("L"), "PNG")), np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(pixels.load(grey), np.repeat(grey[:, :, None], 3, axis=2))
    palette = picture.quantize(16)
    assert np.array_equal(pixels.load(saved(palette, "PNG")), np.array(palette.convert("RGB")))
    cmyk = Image.fromarray(np.full((4, 4, 3), 200, np.uint8)).convert("CMYK")
    assert np.abs(pixels.load(saved(cmyk, "JPEG")).astype(int) - 200).max() <= 3  # not inverted
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert pixels.load(saved(bits, "PNG")).tolist() == [[[0] * 3, [255] * 3]]
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], np.float32))
    assert pixels.load(saved(floats, "TIFF"))[0, :, 0].tolist() == [0, 128, 255, 0]


def test_alpha_is_composed_on_white():
    rgba = Image.new("RGBA", (2, 1), (*RED, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([*RED, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    for image in (saved(rgba, "PNG"), saved(palette, "PNG", transparency=1), saved(rgba, "WEBP", lossless=True)):
        assert pixels.load(image).tolist() == [[list(RED), list(WHITE)]]
    assert pixels.load(np.array(rgba)).tolist() == [[list(RED), list(WHITE)]]
    keyed = saved(Image.new("RGB", (1, 1), RED), "PNG", transparency=RED)
    assert pixels.load(keyed).tolist() == [[list(WHITE)]]


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), WHITE)]
    for format in ("GIF", "WEBP"):
        image = saved(frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
        assert pixels.load(image)[0, 0].tolist() == list(RED)
        assert pixels.load(image, frame=1)[0, 0].tolist() == list(WHITE)
        with pytest.raises(BadImage, match="no frame 9") as caught:
            pixels.load(image, frame=9)
        assert caught.value.reason == "no_frame"


def bomb():
    """A PNG of a few bytes that claims 50,000 x 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    parts = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def bad_files(gradient):
    png, jpeg = pixels.encode(gradient, "PNG"), pixels.encode(gradient, "JPEG")
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    return {
        "truncated.jpg": (jpeg[:-40], "truncated"),
        "truncated.png": (png[: len(png) // 2], "truncated"),
        "corrupt.png": (bytes(flipped), "corrupt"),
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"this is no picture", "not_an_image"),
        "cut_header.png": (png[:20], "corrupt"),
        "bomb.png": (bomb(), "too_large"),
    }


@pytest.mark.parametrize("name", list(bad_files(np.zeros((30, 40, 3), np.uint8))))
def test_a_bad_file_is_named_with_its_reason(tmp_path, gradient, name):
    content, reason = bad_files(gradient)[name]
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(BadImage) as caught:
        pixels.load(file)
    assert (
        caught.value.reason in {reason, "not_an_image"} if name == "cut_header.png" else caught.value.reason == reason
    )
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_file_is_named(tmp_path):
    for path, reason in ((tmp_path / "none.jpg", "missing"), (tmp_path, "unreadable"), ("a\0b", "missing")):
        with pytest.raises(BadImage) as caught:
            pixels.load(path)
        assert caught.value.reason == reason
    with pytest.raises(BadImage, match="got int"):
        pixels.load(3)


def test_size_is_refused_before_decoding(gradient):
    png = pixels.encode(gradient)
    with pytest.raises(BadImage, match="40 x 30 pixels, over the limit of 1,000") as caught:
        pixels.load(png[:60], max_pixels=1000)  # cut: decoding it would have said truncated
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((4, 4, 3)), "expected uint8"),  # floats
        (np.zeros((3, 9, 8), np.uint8), "transpose"),  # channels first
        (np.zeros((4, 4, 2), np.uint8), "expected shape"),
        (np.zeros((4,), np.uint8), "expected shape"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ],
)
def test_arrays_are_checked(array, message):
    with pytest.raises(BadImage, match=message):
        pixels.load(array)


def test_broken_bytes_raise_only_bad_image(gradient):
    rng = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"):
        whole = pixels.encode(gradient, format)
        for _ in range(60):
            broken = bytearray(whole)
            for place in rng.integers(0, len(broken), 4):
                broken[place] = rng.integers(0, 256)
            try:
                loaded = pixels.load(bytes(broken[: rng.integers(1, len(broken) + 1)]))
            except BadImage as error:
                assert error.reason.isidentifier()
            else:
                assert loaded.dtype == np.uint8 and loaded.shape[2] == 3


def test_resize_crop_encode(gradient):
    theirs = Image.fromarray(gradient).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(pixels.resize(gradient, (16, 16)), np.array(theirs))
    assert np.array_equal(pixels.crop(gradient, (1.5, 2.0, 3.2, 4.0)), gradient[2:4, 1:4])
    assert pixels.crop(gradient, (-5, -5, 500, 500)).shape == gradient.shape
    assert pixels.crop(gradient, (100, 100, 90, 90)).shape == (1, 1, 3)


def test_real_photos_load():
    """Those in scikit-image's wheel: grey, RGB, RGBA, PNG, JPEG, GIF, TIFF of several pages."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    files = sorted(file for suffix in ("png", "jpg", "gif", "tif") for file in folder.glob(f"*.{suffix}"))
    assert len(files) > 20
    strange = folder / "multipage_rgb.tif"  # colours as pages, which Pillow does not open
    with pytest.raises(BadImage, match="multipage_rgb.tif"):
        pixels.load(strange)
    for file in files:
        if file == strange:
            continue
        width, height = pixels.read_size(file)
        found = pixels.load(file)
        assert found.shape == (height, width, 3) and found.dtype == np.uint8 and found.std() > 1, file.name


def _png_turned(where: str, value: int = 6) -> bytes:
    """A PNG of 4 x 2 pixels that names an orientation in a chunk before or after its pixels, or nowhere."""
    out = io.BytesIO()
    Image.new("RGB", (4, 2)).save(out, "PNG")
    data = out.getvalue()
    exif = Image.Exif()
    exif[0x0112] = value
    payload = exif.tobytes().removeprefix(b"Exif\0\0")
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + f'<x tiff:Orientation="{value}"/>'.encode()
    kind, body = (b"iTXt", xmp) if "xmp" in where else (b"eXIf", payload)
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    place = data.index(b"IDAT" if "before" in where else b"IEND") - 4
    return data if where == "nowhere" else data[:place] + chunk + data[place:]


@pytest.mark.parametrize("where", ["nowhere", "before", "after", "xmp before", "xmp after"])
def test_the_size_of_a_png_is_that_of_its_pixels_upright(where):
    data = _png_turned(where)
    height, width = pixels.load(data).shape[:2]
    assert pixels.read_size(data) == (width, height) == ((4, 2) if where == "nowhere" else (2, 4))
    assert pixels.read_orientation(data) == (1 if where == "nowhere" else 6)


def test_the_size_of_a_png_is_read_without_its_pixels(monkeypatch):
    loads = []
    monkeypatch.setattr(PngImageFile, "load", lambda self: loads.append(self))
    assert pixels.read_size(_png_turned("before")) == (2, 4)
    assert pixels.read_size(_png_turned("nowhere")) == (4, 2)
    assert not loads

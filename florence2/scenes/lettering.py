"""Letters: the fonts that come in wheels, and words set in them, turned, with their exact quads. Knows no scene."""

from __future__ import annotations

import functools
import importlib.util
import io
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from florence2.scenes.object_layout import SUPERSAMPLE, turn
from florence2.scenes.palette import Rgb
from florence2.scenes.shapes import Path as Outline

# name -> the file in matplotlib's wheel; "" is Pillow's own Aileron
_FILES = {
    "aileron": "",
    "dejavu-sans": "DejaVuSans-Bold.ttf",
    "dejavu-serif": "DejaVuSerif-Bold.ttf",
    "dejavu-mono": "DejaVuSansMono-Bold.ttf",
    "stix": "STIXGeneralBol.ttf",
    "computer-modern": "cmb10.ttf",
}
_MORE = {  # faces of the same families, drawn only where they are asked for: what a seed draws is to stay
    "dejavu-sans-book": "DejaVuSans.ttf",
    "dejavu-sans-oblique": "DejaVuSans-Oblique.ttf",
    "dejavu-sans-bold-oblique": "DejaVuSans-BoldOblique.ttf",
    "dejavu-serif-book": "DejaVuSerif.ttf",
    "dejavu-serif-italic": "DejaVuSerif-Italic.ttf",
    "dejavu-serif-bold-italic": "DejaVuSerif-BoldItalic.ttf",
    "dejavu-mono-book": "DejaVuSansMono.ttf",
    "dejavu-mono-oblique": "DejaVuSansMono-Oblique.ttf",
    "dejavu-mono-bold-oblique": "DejaVuSansMono-BoldOblique.ttf",
    "stix-book": "STIXGeneral.ttf",
    "stix-italic": "STIXGeneralItalic.ttf",
    "stix-bold-italic": "STIXGeneralBolIta.ttf",
}
WITHHELD_FONTS: tuple[str, ...] = ("computer-modern",)
FONTS: tuple[str, ...] = tuple(name for name in _FILES if name not in WITHHELD_FONTS)
MORE_FONTS: tuple[str, ...] = (*FONTS, *_MORE)
_FILES |= _MORE


@dataclass(frozen=True)
class Line:
    """One line of text as drawn: `quad` is its ink turned, corners clockwise from the text's top-left."""

    text: str
    quad: Outline


@functools.lru_cache(maxsize=512)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at a pixel size; ValueError says which extra brings it where it is absent."""
    if name not in _FILES:
        raise ValueError(f"font {name!r}: expected one of {', '.join(_FILES)}")
    return ImageFont.truetype(io.BytesIO(_font_bytes(name)), size, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def _font_bytes(name: str) -> bytes:
    if not _FILES[name]:
        own = ImageFont.load_default(20)
        assert isinstance(own, ImageFont.FreeTypeFont)
        return bytes(own.font_bytes)
    spec = importlib.util.find_spec("matplotlib")  # its folder, without importing it
    if spec is None or not spec.origin:
        raise ValueError(
            f"font {name!r}: its file comes with matplotlib, which is not installed; "
            "pip install 'florence2[demo]', or draw with fonts=('aileron',)"
        )
    return (Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / _FILES[name]).read_bytes()


def size_for(name: str, text: str, height: float) -> int:
    """The font size in supersampled pixels at which the ink of `text` is at least `height` picture pixels high."""
    _, top, _, bottom = font(name, 100).getbbox(text)
    return -int(-height * SUPERSAMPLE * 100 // (bottom - top))


def ink_box(name: str, text: str, size: int) -> tuple[float, float, float, float]:
    """The ink of `text` in picture pixels from the start of its line's top."""
    left, top, right, bottom = font(name, size).getbbox(text)
    return left / SUPERSAMPLE, top / SUPERSAMPLE, right / SUPERSAMPLE, bottom / SUPERSAMPLE


def write(
    canvas: Image.Image,
    text: str,
    name: str,
    size: int,
    centre: tuple[float, float],
    degrees: float,
    rgb: Rgb,
    stretch: float = 1.0,
) -> Line:
    """Set `text`, the middle of its ink at `centre` (picture pixels), on the supersampled canvas; `stretch` widens its
    letters."""
    face = font(name, size)
    left, top, right, bottom = (round(side) for side in face.getbbox(text))  # with the space at its ends
    pad = 2  # room for the filter that turns it
    ink = Image.new("L", (right - left + 2 * pad, bottom - top + 2 * pad))
    ImageDraw.Draw(ink).text((pad - left, pad - top), text, fill=255, font=face)
    if stretch != 1:
        ink = ink.resize((max(1, round(ink.width * stretch)), ink.height), Image.Resampling.BICUBIC)
    left, top, right, bottom = ink.getbbox() or (0, 0, *ink.size)
    width, height = right - left, bottom - top
    ink = ink.crop((left - pad, top - pad, right + pad, bottom + pad))
    if degrees:
        ink = ink.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
    x, y = round(centre[0] * SUPERSAMPLE - ink.width / 2), round(centre[1] * SUPERSAMPLE - ink.height / 2)
    canvas.paste(rgb, (x, y), ink)
    middle = (x + ink.width / 2) / SUPERSAMPLE, (y + ink.height / 2) / SUPERSAMPLE
    return Line(text, plate(middle, width / SUPERSAMPLE, height / SUPERSAMPLE, degrees))


def plate(centre: tuple[float, float], width: float, height: float, degrees: float) -> Outline:
    """A rectangle about a centre, turned clockwise; corners from the top-left."""
    half = width / 2, height / 2
    corners = ((-half[0], -half[1]), (half[0], -half[1]), half, (-half[0], half[1]))
    return tuple((round(centre[0] + x, 2), round(centre[1] + y, 2)) for x, y in turn(corners, degrees))


def random_text(rng: random.Random, longest: int = 8) -> str:
    """Something to read: a word, a number, a price or a code, so that letters have to be read and not guessed."""
    while True:
        which = rng.random()
        if which < 0.55:
            word = rng.choice(WORDS)
            text = rng.choice((word.upper(), word.upper(), word.capitalize(), word))
        elif which < 0.7:
            text = str(rng.randrange(10 ** rng.randint(1, 4)))
        elif which < 0.8:
            text = f"{rng.randrange(100)}.{rng.randrange(100):02d}"
        else:
            text = "".join(rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ23456789") for _ in range(rng.randint(2, 5)))
        if len(text) <= longest:
            return text


WORDS = tuple(
    """
    open stop cafe bar exit shop sale taxi bus park hotel bank milk tea bread cake soup fruit music book toys zoo
    north south east west left right push pull enter free new hot cold wet dry slow fast up down go no yes
    city river lake hill farm road street bridge tower port airport station museum school office post gate door
    red blue gold silver green sun moon star sky rain snow wind fire ice stone wood iron glass paper
    cat dog bird lion tiger bear wolf fox horse duck goat frog crab
    one two three four five six seven eight nine ten zero first last total price cash card
    home lost found danger quiet private staff only help info tickets pizza pasta sushi coffee juice water lemon
    """.split()
)

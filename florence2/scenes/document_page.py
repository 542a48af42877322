"""Pages: receipt-like paper with lines of text, each line's quad and letters known. No objects."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from florence2.records import Sample
from florence2.scenes import lettering, paint
from florence2.scenes.descriptions import Piece, article, number
from florence2.scenes.object_layout import SUPERSAMPLE, turn, zoom
from florence2.scenes.palette import BACKGROUNDS, Rgb, jitter
from florence2.scenes.truth import coverage, record, text_region

_SHOPS = ("CITY CAFE", "GREEN SHOP", "LAKE HOTEL", "BOOK HOUSE", "SUN BAKERY", "TOY WORLD", "RIVER BAR", "STAR MARKET")
_GOODS = ("COFFEE", "TEA", "BREAD", "MILK", "CAKE", "SOUP", "PIZZA", "JUICE", "APPLES", "CHEESE", "PASTA", "SALAD",
          "BOOK", "PENS", "SOAP", "LAMP", "SOCKS", "PAPER")  # fmt: skip
_FAREWELLS = ("THANK YOU", "COME AGAIN", "HAVE A NICE DAY", "GOODBYE")
_INK: Rgb = (38, 38, 44)


@dataclass(frozen=True)
class _PageLine:
    """One line across the paper: the text at the left (or alone in the middle) and at the right."""

    left: str
    right: str = ""
    centred: bool = False
    large: bool = False


def draw_page(
    seed: int,
    size: int | tuple[int, int] = (384, 512),
    *,
    lines: tuple[int, int] = (6, 12),
    tilt: float = 2.0,
    fonts: Sequence[str] | None = None,
    withheld: bool = False,
) -> tuple[np.ndarray, Sample]:
    """A receipt (HWC uint8 RGB) and its whole truth: one quad and text a line, in reading order.

    lines: least and most rows on the paper (3 at least). tilt: the most it is turned, in degrees. fonts: what to choose
    from; `withheld` takes the withheld fonts alone.
    """
    size_wh = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if not 3 <= lines[0] <= lines[1] <= 40:
        raise ValueError(f"lines {lines}: expected (least, most) from 3 to 40")
    if min(size_wh) < 64:
        raise ValueError(f"size {size_wh}: expected at least 64 pixels a side, for a page has to be read")
    fonts = tuple(fonts if fonts is not None else lettering.WITHHELD_FONTS if withheld else lettering.FONTS)
    rng = random.Random(seed)
    ground = rng.choice([name for name in BACKGROUNDS if name != "white"])
    rows = _rows(rng, rng.randint(*lines))
    canvas = paint.background(rng, size_wh, rng.choice(("flat", "noise")), *(jitter(rng, BACKGROUNDS[ground], 6),) * 2)
    degrees = rng.uniform(-tilt, tilt)
    centre, paper_wh = _paper(rng, canvas, size_wh, degrees)
    read = _set(canvas, rows, rng.choice(fonts), centre, paper_wh, degrees)
    pixels = paint.finish(rng, canvas, rng.uniform(0, 8))
    return pixels, _tell(rng, f"page-{seed}", size_wh, rows, read, ground)


def _rows(rng: random.Random, count: int) -> list[_PageLine]:
    """A receipt of `count` rows whose sum is right."""
    rows = [_PageLine(rng.choice(_SHOPS), centred=True, large=True)]
    if count >= 6:
        day = f"{rng.randint(1, 28):02d}/{rng.randint(1, 12):02d}/{rng.randint(2015, 2029)}"
        rows.append(_PageLine(day, f"{rng.randint(8, 21):02d}:{rng.randrange(60):02d}"))
    farewell = count >= 5
    total = 0
    for name in rng.sample(_GOODS, min(len(_GOODS), count - len(rows) - 1 - farewell)):
        many, cents = rng.choice((1, 1, 1, 2, 3)), rng.randrange(50, 2000, 5)
        total += many * cents
        rows.append(_PageLine(f"{many} x {name}" if many > 1 else name, _money(many * cents)))
    rows.append(_PageLine("TOTAL", _money(total), large=True))
    return [*rows, _PageLine(rng.choice(_FAREWELLS), centred=True)] if farewell else rows


def _money(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"


def _paper(
    rng: random.Random, canvas: Image.Image, size_wh: tuple[int, int], degrees: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Paint the sheet with its shadow; its centre, width and height in picture pixels."""
    width, height = size_wh[0] * rng.uniform(0.8, 0.88), size_wh[1] * rng.uniform(0.86, 0.92)
    centre = size_wh[0] / 2 + rng.uniform(-0.02, 0.02) * size_wh[0], size_wh[1] / 2
    corners = zoom(lettering.plate(centre, width, height, degrees))
    shadow = Image.new("L", canvas.size)
    drop = 0.012 * min(canvas.size)
    ImageDraw.Draw(shadow).polygon([(x + drop, y + drop) for x, y in corners], fill=90)
    canvas.paste((0, 0, 0), (0, 0), shadow.filter(ImageFilter.BoxBlur(drop)))
    ImageDraw.Draw(canvas).polygon(corners, fill=jitter(rng, (244, 243, 238), 5))
    return centre, (width, height)


def _set(
    canvas: Image.Image,
    rows: Sequence[_PageLine],
    face: str,
    centre: tuple[float, float],
    paper_wh: tuple[float, float],
    degrees: float,
) -> list[lettering.Line]:
    """Print the rows on the paper; the lines in reading order, a row's left before its right."""
    width, pitch = 0.88 * paper_wh[0], 0.94 * paper_wh[1] / len(rows)
    body = lettering.size_for(face, "H", 0.42 * pitch)
    widest = max(_width(face, row, body) for row in rows)
    body = max(8, int(body * min(1, width / widest)))
    read = []
    for i, row in enumerate(rows):
        baseline = (i + 0.5) * pitch - 0.47 * paper_wh[1]
        size = int(1.25 * body) if row.large else body
        for text, right in ((row.left, False), (row.right, True)):
            if text:
                x1, y1, x2, y2 = lettering.ink_box(face, text, size)
                _, top, _, bottom = lettering.ink_box(face, "H", size)
                across = 0 if row.centred else (width - x2 + x1) / 2 * (1 if right else -1)
                ((dx, dy),) = turn(((across, baseline + (y1 + y2 - top - bottom) / 2),), degrees)
                read.append(lettering.write(canvas, text, face, size, (centre[0] + dx, centre[1] + dy), degrees, _INK))
    return read


def _width(face: str, row: _PageLine, size: int) -> float:
    size = int(1.25 * size) if row.large else size
    boxes = [lettering.ink_box(face, text, size) for text in (row.left, row.right) if text]
    return sum(box[2] - box[0] for box in boxes) + (len(boxes) - 1) * size / SUPERSAMPLE


def _tell(
    rng: random.Random,
    name: str,
    size_wh: tuple[int, int],
    rows: Sequence[_PageLine],
    read: Sequence[lettering.Line],
    ground: str,
) -> Sample:
    regions = tuple(text_region(f"{name}.r{i}", line) for i, line in enumerate(read))
    bought = [row.left for row in rows if row.right and not row.large and "/" not in row.left]
    total = next(i for i, line in enumerate(read) if line.text == "TOTAL")
    shop: Piece = (f'"{read[0].text}"', (regions[0].id,))
    price: Piece = (f"a total of {read[total + 1].text}", (regions[total].id, regions[total + 1].id))
    ids = {region.label: region.id for region in regions}
    items: list[Piece] = []
    for i, item in enumerate(bought):
        items += [" and " if i == len(bought) - 1 else ", "] if i else []
        items.append((f'"{item}"', (ids[item],)))
    captions: dict[str, list[Piece]] = {
        "brief": ["a receipt from ", shop, "."],
        "detailed": ["the image shows a white receipt from ", shop, f" with {number(len(bought))} items and "]
        + [price, f", on {article(ground)} background."],
        "more_detailed": [f"there is a white receipt on {article(ground)} background. At its top it says ", shop, "."]
        + ([" It lists ", *items, "."] if items else [])
        + [" It ends with ", price, "."],
    }
    return record(name, size_wh, regions, captions, [], coverage(rng, []))

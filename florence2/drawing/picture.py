"""Regions, quads, polygons and texts drawn on pixels with Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from florence2.drawing.fonts import Font, lettering
from florence2.drawing.overlays import Overlay, ink_on, overlays_of, texts_of
from florence2.labels import fold_spaces
from florence2.records import Parsed, Region

Point = tuple[float, float]
BLACK, PAPER = (20, 20, 20), (245, 245, 242)
MIN_LONG, MIN_SHORT = 480, 48  # sides of what is drawn on, in pixels
MOST_PIXELS = 2**25  # of a picture that is enlarged
LEAST = 11  # pixels of the smallest letters
COVERED = 0.12  # share of the picture that labels may cover at their full size


def draw(
    image: np.ndarray,
    shown: Parsed | Sequence[Region],
    rejected: Mapping[str, str] | None = None,
    scores: bool = True,
    min_side: int = MIN_LONG,
) -> np.ndarray:
    """HWC uint8: the picture with its annotations; texts are in a strip below.

    Lines and letters grow with the picture, so that it is read as well when it is shown smaller; letters shrink where
    labels would cover too much of it. A picture whose longer side is under `min_side`, or whose shorter one could hold
    no label, is enlarged by a whole factor first. `rejected` maps ids to the reason they were thrown out: those are
    drawn dashed.
    """
    height, width = image.shape[:2]
    scale = max(1, -(-min_side // max(height, width)), -(-MIN_SHORT // min(height, width)))
    scale = max(1, min(scale, math.isqrt(MOST_PIXELS // (height * width))))
    canvas = Image.fromarray(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
    overlays = overlays_of(shown, rejected, scores)
    for overlay in overlays:
        _fill(canvas, overlay, scale)
    pen = ImageDraw.Draw(canvas)
    thick = max(2, round(max(canvas.size) / 320))
    for overlay in overlays:
        for outline in overlay.outlines:
            _outline(pen, _scaled(outline, scale), overlay, thick)
    taken: list[tuple[float, float, float, float]] = []
    texts = [t.text for t in texts_of(shown) if t.text]
    letters = lettering([*(overlay.caption for overlay in overlays), *texts])
    overlays = [replace(overlay, caption=letters.written(overlay.caption)) for overlay in overlays]
    font = letters.font(_label_size([overlay.caption for overlay in overlays], canvas.size))
    for overlay in overlays:
        if overlay.caption:
            _caption(pen, overlay, scale, font, canvas.size, taken)
    return np.array(_with_strip(canvas, list(map(letters.written, texts)), letters.font(_letters(canvas.size))))


def as_image(array: np.ndarray) -> Image.Image:
    """HWC uint8 as a PIL image, which notebooks show and which can be saved."""
    return Image.fromarray(array)


def contact_sheet(
    pictures: Sequence[np.ndarray], captions: Sequence[str] = (), columns: int = 4, cell: int = 320
) -> np.ndarray:
    """HWC uint8: pictures of any size in a grid of square cells, a line of caption under each."""
    letters = lettering(captions)
    font = letters.font(14)
    rows = -(-len(pictures) // columns)
    line = 22 if captions else 4
    sheet = Image.new("RGB", (columns * (cell + 4) + 4, max(rows, 1) * (cell + line + 4) + 4), PAPER)
    pen = ImageDraw.Draw(sheet)
    for n, array in enumerate(pictures):
        picture = Image.fromarray(array)
        factor = min(cell / picture.width, cell / picture.height)
        picture = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))
        x, y = 4 + n % columns * (cell + 4), 4 + n // columns * (cell + line + 4)
        sheet.paste(picture, (x + (cell - picture.width) // 2, y + (cell - picture.height) // 2))
        if n < len(captions):
            pen.text((x + 2, y + cell + 2), _cut(letters.written(captions[n]), font, cell - 4), fill=BLACK, font=font)
    return np.array(sheet)


def _scaled(outline: Sequence[float], scale: int) -> list[tuple[float, float]]:
    return [(x * scale, y * scale) for x, y in zip(outline[::2], outline[1::2])]


def _letters(size_wh: tuple[int, int]) -> int:
    """The size of letters on a picture: a share of its longer side, less where it is narrow."""
    return max(LEAST + 1, round(min(max(size_wh) / 45, min(size_wh) / 12)))


def _label_size(captions: Sequence[str], size_wh: tuple[int, int]) -> int:
    """The size of the labels' letters: smaller, down to half, the more of the picture they would cover."""
    size = _letters(size_wh)
    covered = sum(0.6 * size * len(caption) * 1.4 * size for caption in captions) / (size_wh[0] * size_wh[1])
    shrink = max(0.5, min(1.0, (COVERED / covered) ** 0.5)) if covered else 1.0
    return max(LEAST, round(size * shrink))


def _fill(canvas: Image.Image, overlay: Overlay, scale: int) -> None:
    """Tint the inside, a third of it, within the box around it alone."""
    outlines = [_scaled(outline, scale) for outline in overlay.outlines if len(outline) >= 6]
    if not overlay.filled or overlay.rejected or not outlines:
        return
    xs, ys = zip(*(corner for outline in outlines for corner in outline))
    left, top = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
    right, bottom = min(canvas.width, math.ceil(max(xs)) + 1), min(canvas.height, math.ceil(max(ys)) + 1)
    if right <= left or bottom <= top:
        return
    mask = Image.new("L", (right - left, bottom - top))
    pen = ImageDraw.Draw(mask)
    for outline in outlines:
        pen.polygon([(x - left, y - top) for x, y in outline], fill=90)
    canvas.paste(overlay.color, (left, top, right, bottom), mask)


def _outline(pen: ImageDraw.ImageDraw, corners: list[tuple[float, float]], overlay: Overlay, thick: int) -> None:
    for start, end in zip(corners, corners[1:] + corners[:1]):
        if overlay.rejected:
            _dashes(pen, start, end, overlay.color, max(1, thick // 2))
        else:
            pen.line([start, end], fill=overlay.color, width=thick)


def _dashes(
    pen: ImageDraw.ImageDraw,
    start: Point,
    end: Point,
    color: tuple[int, int, int],
    thick: int,
) -> None:
    count = max(1, int(np.hypot(end[0] - start[0], end[1] - start[1]) // 12))
    places = np.linspace(0, 1, 2 * count)
    at = [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in places]
    for a, b in zip(at[::2], at[1::2]):
        pen.line([a, b], fill=color, width=thick)


def _caption(
    pen: ImageDraw.ImageDraw,
    overlay: Overlay,
    scale: int,
    font: Font,
    size_wh: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """The label in a box of its colour above the outline, moved down while it would cover another."""
    corners = _scaled([v for outline in overlay.outlines for v in outline], scale)
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    text = _cut(overlay.caption, font, min(max(size_wh[0] / 2, 12 * _letters(size_wh)), size_wh[0] - 8))
    x1, y1, x2, y2 = pen.textbbox((0, 0), text, font=font)
    wide, high = x2 - x1 + 6, y2 - y1 + 6
    x = min(max(left, 0), max(size_wh[0] - wide, 0))
    y = top - high if top >= high else top
    for _ in range(20):
        y = min(max(y, 0), max(size_wh[1] - high, 0))
        if not any(x < b[2] and b[0] < x + wide and y < b[3] and b[1] < y + high for b in taken):
            break
        y += high
    y = min(y, max(size_wh[1] - high, 0))
    taken.append((x, y, x + wide, y + high))
    pen.rectangle((x, y, x + wide, y + high), fill=overlay.color)
    pen.text((x + 3 - x1, y + 3 - y1), text, fill=ink_on(overlay.color), font=font)


def _cut(text: str, font: Font, width: float) -> str:
    """One line that fits, with an ellipsis where it was cut."""
    text = fold_spaces(text)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[: len(text) * 9 // 10]
    return text.rstrip() + "..."


def _with_strip(canvas: Image.Image, texts: list[str], font: Font) -> Image.Image:
    lines = [line for text in texts for part in text.splitlines() for line in _wrapped(part, font, canvas.width - 16)]
    if not lines:
        return canvas
    line_height = round(font.getbbox("Ag")[3] * 1.3)
    sheet = Image.new("RGB", (canvas.width, canvas.height + line_height * len(lines) + 16), PAPER)
    sheet.paste(canvas, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for n, line in enumerate(lines):
        pen.text((8, canvas.height + 8 + n * line_height), line, fill=BLACK, font=font)
    return sheet


def _wrapped(text: str, font: Font, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(_cut(word, font, width))
    return lines

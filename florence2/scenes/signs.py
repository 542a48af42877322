"""Signs: a plate with one or two lines of text, slightly turned. Planned before the objects, so that both find room."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from florence2.scenes import lettering
from florence2.scenes.object_layout import SUPERSAMPLE, extent, turn, zoom
from florence2.scenes.palette import Rgb, brightness, distance
from florence2.scenes.shapes import Path

_INKS: tuple[tuple[Rgb, Rgb], ...] = (  # plate and letters
    ((250, 250, 246), (24, 24, 28)),
    ((250, 250, 246), (170, 24, 24)),
    ((250, 222, 70), (24, 24, 28)),
    ((28, 92, 56), (248, 248, 244)),
    ((30, 60, 140), (248, 248, 244)),
    ((176, 30, 34), (248, 248, 244)),
    ((36, 36, 40), (250, 222, 70)),
)


@dataclass(frozen=True)
class Sign:
    """What will be painted: the plate's corners, the lines with their centres, and how."""

    plate: Path
    lines: tuple[tuple[str, tuple[float, float], int], ...]  # text, centre, font size
    font: str
    degrees: float
    rgb: Rgb
    ink: Rgb
    stretch: float = 1.0


def plan_sign(
    rng: random.Random,
    size_wh: tuple[int, int],
    fonts: tuple[str, ...],
    letters: float,
    ground: Rgb,
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Sign | None:
    """A sign that fits in the picture with letters at least `letters` of its height; None where none fits."""
    width, height = size_wh
    face = rng.choice(fonts)
    plate_rgb, ink = rng.choice([pair for pair in _INKS if distance(pair[0], ground) > 60])
    wider = rng.uniform(*stretch) if stretch != (1, 1) else 1.0  # a seed that stretches nothing draws no number
    for _ in range(8):
        texts = [lettering.random_text(rng, 8) for _ in range(rng.choice((1, 1, 1, 2)))]
        degrees = rng.uniform(-15, 15) if rng.random() < 0.6 else 0.0
        grow = rng.uniform(1, 1.8)
        sizes = [lettering.size_for(face, text, letters * height * grow) for text in texts]
        boxes = [lettering.ink_box(face, text, size) for text, size in zip(texts, sizes)]
        inks = [((x2 - x1) * wider, y2 - y1) for x1, y1, x2, y2 in boxes]
        gap = 0.5 * min(h for _, h in inks)
        plate_w, plate_h = max(w for w, _ in inks) + 1.4 * gap, sum(h for _, h in inks) + gap * (len(texts) + 0.6)
        x1, y1, x2, y2 = extent(lettering.plate((0, 0), plate_w, plate_h, degrees))
        if x2 - x1 > width - 2 or y2 - y1 > height * 0.6:
            continue
        centre = rng.uniform(1 - x1, width - 1 - x2), rng.uniform(1 - y1, height - 1 - y2)
        lines, y = [], -plate_h / 2 + 0.8 * gap
        for text, size, (_, h) in zip(texts, sizes, inks):
            ((dx, dy),) = turn(((0, y + h / 2),), degrees)
            lines.append((text, (centre[0] + dx, centre[1] + dy), size))
            y += h + gap
        outline = lettering.plate(centre, plate_w, plate_h, degrees)
        return Sign(outline, tuple(lines), face, degrees, plate_rgb, ink, wider)
    return None


def paint_sign(canvas: Image.Image, sign: Sign) -> tuple[lettering.Line, ...]:
    """Paint it on the supersampled canvas; the lines as they came to lie."""
    pen = ImageDraw.Draw(canvas)
    edge = (60, 60, 64) if brightness(sign.rgb) > 100 else (200, 200, 200)
    corners = zoom(sign.plate)
    pen.polygon(corners, fill=sign.rgb)
    pen.line([*corners, corners[0]], fill=edge, width=SUPERSAMPLE)
    return tuple(
        lettering.write(canvas, text, sign.font, size, centre, sign.degrees, sign.ink, sign.stretch)
        for text, centre, size in sign.lines
    )

"""A picture with its annotations as one piece of HTML: inline SVG over the pixels, every text escaped.

Needs nothing but itself: no script, no style sheet, no network.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence

import numpy as np

from florence2 import pixels
from florence2.drawing.overlays import Overlay, ink_on, overlays_of, texts_of
from florence2.records import Parsed, Region

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def html_figure(
    image: np.ndarray,
    shown: Parsed | Sequence[Region],
    title: str = "",
    rejected: Mapping[str, str] | None = None,
    width: int = 480,
    format: str = "JPEG",
) -> str:
    """A <figure>: the picture `width` CSS pixels wide at most, its overlays, the title and the texts beneath."""
    return (
        f'<figure style="display:inline-block;margin:4px;max-width:{width}px;font:13px sans-serif;vertical-align:top">'
        f"{svg(image, overlays_of(shown, rejected), width, format, title)}"
        f"<figcaption>{_words(shown, title)}</figcaption></figure>"
    )


def svg(
    image: np.ndarray,
    overlays: Sequence[Overlay],
    width: int = 480,
    format: str = "JPEG",
    title: str = "",
    class_name: str = "picture",
    side: int | None = None,
    quality: int = 85,
) -> str:
    """The picture, `width` CSS pixels wide and high at most, under its overlays; for a page that brings its own words.

    Labels are legible where it is shown at that size. `side` bounds the longer side of the pixels that are embedded
    (absent: twice the width).
    """
    height, wide = image.shape[:2]
    shrink = min(1.0, (side or 2 * width) / max(wide, height))  # twice the shown size, for sharp screens
    if shrink < 1:
        image = pixels.resize(image, (max(1, round(wide * shrink)), max(1, round(height * shrink))))
    options = {"quality": quality} if format == "JPEG" else {}
    data = base64.b64encode(pixels.encode(image, format, **options)).decode()
    unit = max(wide, height) / width  # picture pixels in one CSS pixel
    smooth = "pixelated" if wide * 3 < width else "auto"
    taken: list[tuple[float, float, float]] = []
    inside = "".join(_svg(overlay, unit, (wide, height), taken) for overlay in overlays)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="{class_name}" viewBox="0 0 {wide} {height}" '
        f'width="{round(wide / unit)}" style="max-width:100%;height:auto;display:block" role="img" '
        f'aria-label="{escaped(title)}">'
        f'<image href="data:image/{format.lower()};base64,{data}" width="{wide}" height="{height}" '
        f'preserveAspectRatio="none" style="image-rendering:{smooth}"/>{inside}</svg>'
    )


def _svg(overlay: Overlay, unit: float, size_wh: tuple[int, int], taken: list[tuple[float, float, float]]) -> str:
    """The overlay's outline and label; `taken` holds left, right and foot of the labels so far."""
    color, ink = ("#{:02x}{:02x}{:02x}".format(*c) for c in (overlay.color, ink_on(overlay.color)))
    dashes = f' stroke-dasharray="{4 * unit:.1f} {3 * unit:.1f}"' if overlay.rejected else ""
    fill = f'fill="{color}" fill-opacity="0.3"' if overlay.filled and not overlay.rejected else 'fill="none"'
    path = " ".join(_path(outline) for outline in overlay.outlines)
    size = 12 * unit
    words = _fitting(overlay.caption, int((size_wh[0] - 3 * unit) / (0.56 * size)))
    long = 0.56 * size * len(words)
    left = min(v for outline in overlay.outlines for v in outline[::2])
    x = max(min(left, size_wh[0] - long - 2 * unit), 0) + unit  # inside the picture, where it fits
    y = max(min(v for outline in overlay.outlines for v in outline[1::2]) - 3 * unit, size)
    end = x + long
    while y < size_wh[1] and any(x < right and left < end and abs(y - foot) < size for left, right, foot in taken):
        y += size  # down, past a label that is there already
    y = min(y, size_wh[1] - 0.25 * size)
    taken.append((x, end, y))
    caption = escaped(words)
    shape = f'<path d="{path}" {fill} stroke="{color}" stroke-width="{2 * unit:.2f}"{dashes} fill-rule="evenodd"/>'
    label = (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="sans-serif" '
        f'font-size="{size:.1f}" fill="{ink}" stroke="{color}" stroke-width="{3 * unit:.1f}" '
        f'stroke-linejoin="round" paint-order="stroke">{caption}</text>'
    )
    named = f' class="{overlay.status}"' if overlay.status else ""
    named += f' data-f="{escaped(overlay.facets)}"' if overlay.facets else ""
    return f"<g{named}><title>{escaped(overlay.hint or overlay.caption)}</title>{shape}{label if caption else ''}</g>"


def _fitting(caption: str, letters: int) -> str:
    """The caption where it fits into so many letters, else its beginning; the whole of it is shown on hover."""
    return caption if len(caption) <= letters else caption[: max(letters - 1, 1)].rstrip() + "\u2026"


def escaped(text: str) -> str:
    """Text for HTML: markup escaped; what HTML has no place for, control characters and broken Unicode, as U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", text))


def _path(outline: Sequence[float]) -> str:
    corners = " L".join(f"{x:.1f} {y:.1f}" for x, y in zip(outline[::2], outline[1::2]))
    return f"M{corners} Z"


def _words(shown: Parsed | Sequence[Region], title: str) -> str:
    parts = [f"<b>{escaped(title)}</b>"] if title else []
    parts += [escaped(text.text).replace("\n", "<br>") for text in texts_of(shown) if text.text]
    if getattr(shown, "truncated", False):
        parts.append("<i>truncated</i>")
    return "<br>".join(parts)

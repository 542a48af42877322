"""Draw a scene: joins places, signs and paint into a picture, and gives its truth. The whole room from above."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from florence2.records import Sample
from florence2.scenes import lettering, paint
from florence2.scenes.object_layout import Layout, extent, fill
from florence2.scenes.palette import BACKGROUNDS, Rgb, brightness, jitter, mix
from florence2.scenes.shapes import KINDS, SHAPES, WITHHELD_KINDS
from florence2.scenes.signs import Sign, paint_sign, plan_sign
from florence2.scenes.truth import scene_sample

STYLES = ("flat", "flat", "gradient", "noise", "split")  # of backgrounds, as often as they are listed here


def draw(
    seed: int,
    objects: tuple[int, int] = (1, 3),
    min_side: float = 0.15,
    size: int | tuple[int, int] = 128,
    *,
    max_side: float = 0.6,
    repeats: float = 0.25,
    clutter: float = 0.5,
    signs: float = 0.25,
    letters: float = 0.12,
    stretch: tuple[float, float] = (1.0, 1.0),
    corners: int = 0,
    kinds: Sequence[str] | None = None,
    fonts: Sequence[str] | None = None,
    withheld: bool = False,
) -> tuple[np.ndarray, Sample]:
    """A picture (HWC uint8 RGB) and its whole truth; the same seed and arguments draw the same.

    objects: least and most objects. min_side, max_side: of an object's shorter and longer side, as fractions of the
    picture's shorter side. repeats: share of the objects that take the kind of an earlier one, so that counts, colours
    and places matter. size: pixels, or (width, height). clutter: 0 (flat ground, no specks, no grain) to 1.
    signs: probability of a sign; letters: the least height of its letters' ink, a fraction of the picture's height;
    stretch: least and most widening of its letters. corners: the most corners of an outline in the truth, which then
    begins at its topmost one; 0: as drawn.
    kinds, fonts: what to choose from; with `withheld` about half of what is drawn is of withheld kinds and fonts.
    """
    size_wh = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    kinds = tuple(kinds if kinds is not None else _mixed(KINDS, WITHHELD_KINDS, withheld))
    fonts = tuple(fonts if fonts is not None else _mixed(lettering.FONTS, lettering.WITHHELD_FONTS, withheld))
    _check(size_wh, objects, min_side, kinds, fonts)
    for share, name in zip(
        (max_side, repeats, clutter, signs, letters), "max_side repeats clutter signs letters".split()
    ):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} {share}: expected a fraction from 0 to 1")
    if corners and corners < 3 or not 0 < stretch[0] <= stretch[1]:
        raise ValueError(f"corners {corners}, stretch {stretch}: expected 0 or at least 3, and (least, most) above 0")
    rng = random.Random(seed)
    ground, rgb, other, style = _ground(rng, clutter)
    unit = min(size_wh)
    sign = plan_sign(rng, size_wh, fonts, letters, rgb, stretch) if rng.random() < signs else None
    sides = min_side * unit, max(min_side, max_side) * unit
    layout, sign = _place(rng, size_wh, objects, kinds, sides, (rgb, other), sign, repeats)
    canvas = paint.background(rng, size_wh, style, rgb, other)
    paint.specks(rng, canvas, rng.randint(0, round(24 * clutter)), rgb)
    lines = paint_sign(canvas, sign) if sign else ()
    paint.objects(canvas, layout.objects)
    pixels = paint.finish(rng, canvas, 10 * clutter * rng.random())
    return pixels, scene_sample(rng, f"scene-{seed}", size_wh, layout.objects, lines, ground, corners)


def _check(
    size_wh: tuple[int, int], objects: tuple[int, int], min_side: float, kinds: tuple[str, ...], fonts: tuple[str, ...]
) -> None:
    if min(size_wh) < 16:
        raise ValueError(f"size {size_wh}: expected at least 16 pixels a side")
    if not 0 < min_side <= 0.5:
        raise ValueError(f"min_side {min_side}: expected a fraction above 0 and at most 0.5 of the picture's side")
    if not 0 <= objects[0] <= objects[1] <= 250:
        raise ValueError(f"objects {objects}: expected (least, most) from 0 to 250")
    for given, known, what in (
        (kinds, SHAPES, "kind"),
        (fonts, lettering.MORE_FONTS + lettering.WITHHELD_FONTS, "font"),
    ):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise ValueError(f"{what} {''.join(unknown[:1])!r}: expected some of {', '.join(known)}")


def _mixed(known: tuple[str, ...], held: tuple[str, ...], withheld: bool) -> tuple[str, ...]:
    """What is chosen from: the known names; if asked, the withheld ones as often."""
    return known + held * round(len(known) / len(held)) if withheld else known


def _ground(rng: random.Random, clutter: float) -> tuple[str, Rgb, Rgb, str]:
    """The background's name, its colour, the second colour of a gradient or split, and its style."""
    name = rng.choice(tuple(BACKGROUNDS))
    rgb = jitter(rng, BACKGROUNDS[name], 6)
    style = rng.choice(STYLES) if rng.random() < 2 * clutter else "flat"
    toward: Rgb = (0, 0, 0) if brightness(rgb) > 128 else (255, 255, 255)
    return name, rgb, mix(rgb, toward, rng.uniform(0.08, 0.2)) if style in ("gradient", "split") else rgb, style


def _place(
    rng: random.Random,
    size_wh: tuple[int, int],
    objects: tuple[int, int],
    kinds: tuple[str, ...],
    sides: tuple[float, float],
    away: tuple[Rgb, Rgb],
    sign: Sign | None,
    repeats: float,
) -> tuple[Layout, Sign | None]:
    """Find room for the objects: tries again with smaller ones, then with fewer, then without the sign."""
    count = rng.randint(*objects)
    for kept in (sign, None) if sign else (None,):
        most = sides[1]
        for _ in range(12):
            layout = Layout(size_wh, (extent(kept.plate),) if kept else ())
            if fill(rng, layout, count, kinds, (sides[0], most), away, repeats) or len(layout.objects) >= max(
                1, objects[0]
            ):
                return layout, kept
            most = max(sides[0], 0.7 * most)
    raise ValueError(
        f"objects {objects}: no room for {objects[0]} with sides of {sides[0]:.0f} pixels in "
        f"{size_wh[0]}x{size_wh[1]}; ask for fewer, or a smaller min_side"
    )

"""Draw a scene and tell all about it: joins places, paint, letters and words into (picture, Sample)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from florence2.records import Coverage, Grounding, ImageRef, Region, Sample, Source, Text
from florence2.scenes import lettering, paint, words
from florence2.scenes.kinds import KINDS, SHAPES, WITHHELD_KINDS
from florence2.scenes.layout import Box, Layout, Thing, extent, fill
from florence2.scenes.palette import BACKGROUNDS, Rgb, brightness, jitter, mix
from florence2.scenes.signs import Sign, paint_sign, plan_sign

VERSION = "1"  # of what a seed draws; new drawings, new version
LABEL_SPACE = "scenes"
SOURCE = Source(kind="simulated", name="scenes", version=VERSION)
STYLES = ("flat", "flat", "gradient", "noise", "split")  # of backgrounds, as often as they stand here


def draw(
    seed: int,
    objects: tuple[int, int] = (1, 3),
    min_side: float = 0.15,
    size: int | tuple[int, int] = 128,
    *,
    max_side: float = 0.6,
    clutter: float = 0.5,
    signs: float = 0.25,
    letters: float = 0.12,
    kinds: Sequence[str] | None = None,
    fonts: Sequence[str] | None = None,
    withheld: bool = False,
) -> tuple[np.ndarray, Sample]:
    """A picture (HWC uint8 RGB) and its whole truth; the same seed and arguments draw the same.

    objects: least and most things. min_side, max_side: of a thing's shorter and longer side, as fractions of the
    picture's shorter side. size: pixels, or (width, height). clutter: 0 (flat ground, no specks, no grain) to 1.
    signs: probability of a sign; letters: the least height of its letters' ink, a fraction of the picture's height.
    kinds, fonts: what to choose from; `withheld` adds the withheld kinds and fonts to what is chosen from by default.
    """
    size_wh = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    kinds = tuple(kinds if kinds is not None else KINDS + WITHHELD_KINDS * withheld)
    fonts = tuple(fonts if fonts is not None else lettering.FONTS + lettering.WITHHELD_FONTS * withheld)
    _check(size_wh, objects, min_side, kinds, fonts)
    rng = random.Random(seed)
    ground, rgb, other, style = _ground(rng, clutter)
    unit = min(size_wh)
    sign = plan_sign(rng, size_wh, fonts, letters, rgb) if rng.random() < signs else None
    layout = _place(rng, size_wh, objects, kinds, (min_side * unit, max(min_side, max_side) * unit), (rgb, other), sign)
    canvas = paint.background(rng, size_wh, style, rgb, other)
    paint.specks(rng, canvas, rng.randint(0, round(24 * clutter)), rgb)
    lines = paint_sign(canvas, sign) if sign else ()
    paint.things(canvas, layout.things)
    pixels = paint.finish(rng, canvas, 10 * clutter * rng.random())
    return pixels, tell(rng, f"scene-{seed}", size_wh, layout.things, lines, ground)


def _check(
    size_wh: tuple[int, int], objects: tuple[int, int], min_side: float, kinds: tuple[str, ...], fonts: tuple[str, ...]
) -> None:
    if min(size_wh) < 16:
        raise ValueError(f"size {size_wh}: expected at least 16 pixels a side")
    if not 0 < min_side <= 0.5:
        raise ValueError(f"min_side {min_side}: expected a fraction above 0 and at most 0.5 of the picture's side")
    if not 0 <= objects[0] <= objects[1] <= 250:
        raise ValueError(f"objects {objects}: expected (least, most) from 0 to 250")
    for given, known, what in ((kinds, SHAPES, "kind"), (fonts, lettering.FONTS + lettering.WITHHELD_FONTS, "font")):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise ValueError(f"{what} {''.join(unknown[:1])!r}: expected some of {', '.join(known)}")


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
) -> Layout:
    """Find room for the things; tries again with smaller ones, then with fewer, before giving up."""
    count = rng.randint(*objects)
    most = sides[1]
    reserved = (extent(sign.plate),) if sign else ()
    for _ in range(12):
        layout = Layout(size_wh, reserved)
        if fill(rng, layout, count, kinds, (sides[0], most), away) or len(layout.things) >= max(1, objects[0]):
            return layout
        most = max(sides[0], 0.7 * most)
    raise ValueError(
        f"objects {objects}: no room for {objects[0]} with sides of {sides[0]:.0f} pixels in "
        f"{size_wh[0]}x{size_wh[1]}; ask for fewer, or a smaller min_side"
    )


def tell(
    rng: random.Random,
    name: str,
    size_wh: tuple[int, int],
    things: Sequence[Thing],
    lines: Sequence[lettering.Line],
    ground: str,
) -> Sample:
    """The record of a drawn scene."""
    facts = [_fact(f"{name}.r{i}", thing, size_wh) for i, thing in enumerate(things)]
    objects = [_object(thing, fact) for thing, fact in zip(things, facts)]
    read = [text_region(f"{name}.r{len(facts) + i}", line) for i, line in enumerate(lines)]
    sign = None
    if lines:
        box = extent(tuple(point for line in lines for point in line.quad))
        ids = tuple(region.id for region in read)
        sign = words.SignFact(ids, " ".join(line.text for line in lines), _centre(box, size_wh))
    captions = {
        "brief": words.brief(facts, sign, ground),
        "detailed": words.detailed(facts, sign, ground),
        "more_detailed": words.more_detailed(rng, facts, sign, ground),
    }
    texts: list[Text] = []
    said: list[tuple[str, str, tuple[tuple[int, int], ...], tuple[str, ...]]] = []  # text id, phrase, spans, region ids
    for detail, pieces in captions.items():
        text, phrases = words.join(pieces)
        texts.append(Text(f"{name}.t{len(texts)}", text, detail, source=SOURCE))
        said += [(texts[-1].id, p.phrase, (p.span,), p.region_ids) for p in phrases]
    if lines:
        texts.append(Text(f"{name}.t{len(texts)}", "\n".join(line.text for line in lines), "ocr", source=SOURCE))
    said += [("", phrase, (), (fact.region_id,)) for fact in facts for phrase in words.refer(rng, fact, facts, 3)]
    groundings = tuple(Grounding(f"{name}.g{i}", *row, source=SOURCE) for i, row in enumerate(said))
    image = ImageRef(name, width=size_wh[0], height=size_wh[1])
    return Sample(name, image, tuple(texts), (*objects, *read), groundings, coverage=_coverage(rng, things))


def text_region(name: str, line: lettering.Line) -> Region:
    """A line of text as a region: its label is what it says."""
    quad = tuple(number for point in line.quad for number in point)
    return Region(name, "text", extent(line.quad), line.text, quad=quad, source=SOURCE)


def _coverage(rng: random.Random, things: Sequence[Thing]) -> dict[str, tuple[Coverage, ...]]:
    """All is told, text too; two kinds that are not there are named, so that one may ask for them."""
    present = {thing.kind for thing in things}
    others = [kind for kind in KINDS if kind not in present]
    absent = tuple(rng.sample(others, min(2, len(others))))
    return {
        LABEL_SPACE: (Coverage("exhaustive"), Coverage("negatives", absent)),
        "text": (Coverage("exhaustive"),),
    }


def _object(thing: Thing, fact: words.Fact) -> Region:
    polygon = tuple(number for point in thing.polygon for number in point)
    return Region(
        fact.region_id, "object", thing.box, thing.kind, LABEL_SPACE, fact.description, (polygon,), source=SOURCE
    )


def _fact(region_id: str, thing: Thing, size_wh: tuple[int, int]) -> words.Fact:
    x1, y1, x2, y2 = thing.box
    side = math.sqrt((x2 - x1) * (y2 - y1)) / min(size_wh)
    return words.Fact(region_id, thing.kind, thing.colour, thing.texture, _centre(thing.box, size_wh), side)


def _centre(box: Box, size_wh: tuple[int, int]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2 / size_wh[0], (box[1] + box[3]) / 2 / size_wh[1]

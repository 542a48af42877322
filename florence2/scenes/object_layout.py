"""Where objects lie in a scene: kinds, colours and textures are chosen, sizes and places found. Paints only masks.

The rule of truth: boxes and polygons are an object's full drawn extent, wholly inside the picture, and at least 60 % of
each object stays visible (counted in pixels, not estimated).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from florence2.geometry import box_area
from florence2.scenes.palette import COLOURS, TEXTURES, Rgb, distance, jitter
from florence2.scenes.shapes import SHAPES, Path

SUPERSAMPLE = 2  # everything is drawn at twice the size and reduced: anti-aliasing
VISIBLE = 0.6  # the least part of an object that stays uncovered
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PlacedObject:
    """One drawn object. Paths are in pixels of the picture; `polygon` is the silhouette with its holes bridged."""

    kind: str
    colour: str
    texture: str
    rgb: Rgb
    outline: Path
    holes: tuple[Path, ...]
    details: tuple[tuple[str, Path], ...]

    @property
    def box(self) -> Box:
        """The tight box of the outline."""
        return extent(self.outline)

    @property
    def polygon(self) -> Path:
        """The silhouette as one path; each hole is reached over a bridge of no width."""
        path = self.outline
        for hole in self.holes:
            path = _bridge(path, hole)
        return path


class Layout:
    """The places taken so far. A map beside it says which object is on top at each (supersampled) pixel."""

    def __init__(self, size_wh: tuple[int, int], reserved: tuple[Box, ...] = ()):
        self.size_wh = size_wh
        self.objects: list[PlacedObject] = []
        self._reserved = reserved  # boxes that nothing may touch
        self._top = Image.new("L", (size_wh[0] * SUPERSAMPLE, size_wh[1] * SUPERSAMPLE))
        self._areas: list[int] = []
        self._boxes: list[Box] = []

    def add(self, placed: PlacedObject) -> bool:
        """Put an object on top, unless it leaves the picture, hides too much of another or touches a reserved box."""
        box = placed.box
        if min(box) < 0 or box[2] > self.size_wh[0] or box[3] > self.size_wh[1]:
            return False
        if any(_shared(box, other) for other in self._reserved):
            return False
        overlaps = [_shared(box, other) / min(box_area(box), box_area(other)) for other in self._boxes]
        if max(overlaps, default=0) > 0.6:
            return False
        mask, corner = silhouette(placed)
        top = self._top.copy() if any(overlaps) else self._top
        top.paste(len(self.objects) + 1, corner, mask)
        if top is not self._top:
            visible = top.histogram()
            if any(visible[i + 1] < VISIBLE * area for i, area in enumerate(self._areas)):
                return False
            self._top = top
        self.objects.append(placed)
        self._boxes.append(box)
        self._areas.append(mask.histogram()[255])
        return True


def fill(
    rng: random.Random,
    layout: Layout,
    count: int,
    kinds: tuple[str, ...],
    sides: tuple[float, float],
    away: tuple[Rgb, ...],
    repeats: float,
) -> bool:
    """Place `count` objects, shorter side at least sides[0] pixels and longer at most sides[1] where the shape allows.

    A share `repeats` of them takes the kind of an earlier one. Their colours differ clearly from each of `away`.
    False where no room was found.
    """
    least, most = sides
    for _ in range(count):
        kind, texture = rng.choice(kinds), rng.choice(TEXTURES)
        if layout.objects and rng.random() < repeats:
            kind = rng.choice(layout.objects).kind
        colour, rgb = _colour(rng, away)
        ceiling = max(least, most)
        for _ in range(40):
            side = least * (ceiling / least) ** rng.random()
            if layout.add(_somewhere(rng, layout.size_wh, (kind, colour, texture, rgb), side, sides)):
                break
            ceiling = max(least, 0.93 * ceiling)  # less room than hoped: try smaller
        else:
            return False
    return True


def silhouette(placed: PlacedObject) -> tuple[Image.Image, tuple[int, int]]:
    """The object's mask (0 or 255) at SUPERSAMPLE times the picture's scale, and where its corner lies there."""
    x1, y1, x2, y2 = placed.box
    left, top = math.floor(x1 * SUPERSAMPLE), math.floor(y1 * SUPERSAMPLE)
    mask = Image.new("L", (math.ceil(x2 * SUPERSAMPLE) - left, math.ceil(y2 * SUPERSAMPLE) - top))
    pen = ImageDraw.Draw(mask)
    pen.polygon(zoom(placed.outline, left, top), fill=255)
    for hole in placed.holes:
        pen.polygon(zoom(hole, left, top), fill=0)
    return mask, (left, top)


def zoom(path: Path, left: float = 0, top: float = 0) -> list[tuple[float, float]]:
    """A path in supersampled pixels from (left, top) there; Pillow's pixel (0, 0) has its middle at 0.5, 0.5."""
    return [(x * SUPERSAMPLE - left - 0.5, y * SUPERSAMPLE - top - 0.5) for x, y in path]


def extent(path: Path) -> Box:
    """The box around a path."""
    xs, ys = [x for x, _ in path], [y for _, y in path]
    return min(xs), min(ys), max(xs), max(ys)


def turn(path: Path, degrees: float) -> Path:
    """A path turned about the origin, clockwise on the screen."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return tuple((x * cos - y * sin, x * sin + y * cos) for x, y in path)


def _somewhere(
    rng: random.Random,
    size_wh: tuple[int, int],
    look: tuple[str, str, str, Rgb],
    side: float,
    sides: tuple[float, float],
) -> PlacedObject:
    """An object of this look, slightly turned, its shorter side about `side` pixels, at a random place."""
    kind, colour, texture, rgb = look
    shape = SHAPES[kind]
    angle = rng.uniform(-15, 15)
    x1, y1, x2, y2 = extent(turn(shape.outline, angle))
    short, long = sorted((x2 - x1, y2 - y1))
    scale = max(min(side / short, sides[1] / long), (sides[0] + 0.02) / short)  # 0.02: paths are rounded
    x0 = rng.uniform(1, max(1, size_wh[0] - 1 - (x2 - x1) * scale)) - x1 * scale
    y0 = rng.uniform(1, max(1, size_wh[1] - 1 - (y2 - y1) * scale)) - y1 * scale

    def place(path: Path) -> Path:
        return tuple((round(x0 + x * scale, 2), round(y0 + y * scale, 2)) for x, y in turn(path, angle))

    return PlacedObject(
        kind,
        colour,
        texture,
        rgb,
        outline=place(shape.outline),
        holes=tuple(place(hole) for hole in shape.holes),
        details=tuple((role, place(path)) for role, path in shape.details),
    )


def _colour(rng: random.Random, away: tuple[Rgb, ...]) -> tuple[str, Rgb]:
    while True:
        name = rng.choice(tuple(COLOURS))
        rgb = jitter(rng, COLOURS[name])
        if all(distance(rgb, other) > 150 for other in away):
            return name, rgb


def _bridge(path: Path, hole: Path) -> Path:
    """One path around `path` and, backwards, around `hole`, joined where they come nearest."""
    pairs = ((i, j) for i in range(len(path)) for j in range(len(hole)))
    i, j = min(pairs, key=lambda ij: math.dist(path[ij[0]], hole[ij[1]]))
    inside = tuple(reversed(hole[j + 1 :] + hole[: j + 1]))  # starts at hole[j]
    return path[: i + 1] + inside + (inside[0],) + path[i:]


def _shared(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0

"""Colours by name, and the words for textures and backgrounds. Plain numbers; paints nothing."""

from __future__ import annotations

import math
import random

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {  # of objects
    "red": (214, 36, 36),
    "orange": (245, 135, 20),
    "yellow": (248, 215, 38),
    "green": (38, 155, 58),
    "turquoise": (38, 190, 190),
    "blue": (38, 84, 205),
    "purple": (125, 45, 165),
    "pink": (245, 135, 185),
    "brown": (128, 78, 38),
    "black": (28, 28, 30),
    "white": (250, 250, 250),
}
BACKGROUNDS: dict[str, Rgb] = {
    "white": (246, 246, 244),
    "light gray": (208, 208, 206),
    "dark gray": (92, 92, 96),
    "beige": (232, 214, 180),
    "light blue": (178, 210, 238),
    "light green": (190, 224, 182),
    "dark blue": (32, 42, 82),
    "dark green": (32, 66, 48),
}
TEXTURES = ("plain", "plain", "striped", "dotted", "checked")  # as often as they are listed here
ROLES: dict[str, Rgb] = {  # of details that keep their own colour
    "ink": (40, 40, 46),
    "pale": (250, 246, 228),
    "wood": (140, 92, 52),
    "leaf": (62, 150, 62),
    "sun": (250, 205, 60),
    "flame": (250, 140, 30),
    "clay": (188, 100, 60),
}


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """Colour `a` with this share of `b`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def brightness(rgb: Rgb) -> float:
    """Luma, 0 to 255."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def distance(a: Rgb, b: Rgb) -> float:
    """The distance of two colours, weighted as the eye weighs them."""
    return math.sqrt(2 * (a[0] - b[0]) ** 2 + 4 * (a[1] - b[1]) ** 2 + 3 * (a[2] - b[2]) ** 2)


def jitter(rng: random.Random, rgb: Rgb, reach: int = 12) -> Rgb:
    """A colour close to `rgb`, still of its name."""
    r, g, b = (min(255, max(0, channel + rng.randint(-reach, reach))) for channel in rgb)
    return r, g, b


def shade(role: str, rgb: Rgb) -> Rgb:
    """The colour of a detail: its own, or `dark` and `light` made from the object's colour, always apart from it."""
    if role == "dark":
        return mix(rgb, (0, 0, 0), 0.45) if brightness(rgb) > 60 else mix(rgb, (255, 255, 255), 0.38)
    if role == "light":
        return mix(rgb, (255, 255, 255), 0.62) if brightness(rgb) < 205 else mix(rgb, (0, 0, 0), 0.25)
    own = ROLES[role]
    if distance(own, rgb) > 90:
        return own
    return mix(own, (255, 255, 255), 0.6) if brightness(own) < 110 else mix(own, (0, 0, 0), 0.5)


def second(rgb: Rgb) -> Rgb:
    """The other colour of a texture: white on most, black on light objects."""
    return mix(rgb, (255, 255, 255), 0.72) if brightness(rgb) < 170 else mix(rgb, (0, 0, 0), 0.55)

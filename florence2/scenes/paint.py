"""Pixels of a scene: background, specks that are no objects, objects with their textures. Chooses no places."""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image, ImageDraw

from florence2.scenes.object_layout import SUPERSAMPLE, PlacedObject, silhouette, zoom
from florence2.scenes.palette import Rgb, mix, second, shade


def background(rng: random.Random, size_wh: tuple[int, int], style: str, rgb: Rgb, other: Rgb) -> Image.Image:
    """A supersampled canvas: flat, gradient (rgb to other), noise, or split (other below a horizon)."""
    width, height = size_wh
    if style == "flat":
        return Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE), rgb)
    first, last = np.array(rgb, np.float32), np.array(other, np.float32)
    if style == "noise":
        grain = np.frombuffer(rng.randbytes(width * height), np.uint8).reshape(height, width, 1)
        pixels = first + (grain.astype(np.float32) - 127.5) * 0.22
    elif style == "split":
        pixels = np.repeat(np.repeat(first[None, None], height, 0), width, 1)
        pixels[round(height * rng.uniform(0.35, 0.75)) :] = last
    else:
        angle = rng.uniform(0, 2 * math.pi)
        x = np.linspace(-0.5, 0.5, width, dtype=np.float32)[None, :, None] * math.cos(angle)
        y = np.linspace(-0.5, 0.5, height, dtype=np.float32)[:, None, None] * math.sin(angle)
        pixels = first + (last - first) * (np.clip(x + y, -0.5, 0.5) + 0.5)
    canvas = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return canvas.resize((width * SUPERSAMPLE, height * SUPERSAMPLE), Image.Resampling.NEAREST)


def specks(rng: random.Random, canvas: Image.Image, count: int, rgb: Rgb) -> None:
    """Small strokes and dots, in shades near the background: clutter that is no object."""
    pen = ImageDraw.Draw(canvas)
    width, height = canvas.size
    unit = min(width, height)
    for _ in range(count):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        colour = mix(rgb, (rng.randrange(256), rng.randrange(256), rng.randrange(256)), 0.5)
        if rng.random() < 0.5:
            length, angle = unit * rng.uniform(0.03, 0.12), rng.uniform(0, math.pi)
            end = (x + length * math.cos(angle), y + length * math.sin(angle))
            pen.line(((x, y), end), fill=colour, width=max(1, round(unit * 0.008)))
        else:
            radius = unit * rng.uniform(0.004, 0.012)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def objects(canvas: Image.Image, layout: list[PlacedObject]) -> None:
    """Paint the objects in order, each through its own silhouette."""
    for placed in layout:
        mask, (left, top) = silhouette(placed)
        patch = Image.new("RGB", mask.size, placed.rgb)
        pen = ImageDraw.Draw(patch)
        _TEXTURES[placed.texture](pen, mask.size, second(placed.rgb))
        for role, path in placed.details:
            pen.polygon(zoom(path, left, top), fill=shade(role, placed.rgb))
        edge = shade("dark", placed.rgb)
        for path in (placed.outline, *placed.holes):
            pen.line(zoom((*path, path[0], path[1]), left, top), fill=edge, width=3)
        canvas.paste(patch, (left, top), mask)


def finish(rng: random.Random, canvas: Image.Image, grain: float) -> np.ndarray:
    """The canvas reduced to the picture, with a little sensor noise: HWC uint8 RGB."""
    pixels = np.asarray(canvas.reduce(SUPERSAMPLE))
    if not grain:
        return np.array(pixels)
    noise = np.frombuffer(rng.randbytes(pixels.shape[0] * pixels.shape[1]), np.uint8).reshape(*pixels.shape[:2], 1)
    offset = ((noise.astype(np.int16) - 128) * round(grain * 256)) >> 15
    return np.asarray(np.clip(pixels + offset, 0, 255), np.uint8)


def _plain(pen: ImageDraw.ImageDraw, size: tuple[int, int], rgb: Rgb) -> None:
    return


def _striped(pen: ImageDraw.ImageDraw, size: tuple[int, int], rgb: Rgb) -> None:
    width, height = size
    step = max(8, round(max(size) / 5))
    for x in range(-height, width, step):
        pen.polygon(((x, height), (x + height, 0), (x + height + step * 0.42, 0), (x + step * 0.42, height)), fill=rgb)


def _dotted(pen: ImageDraw.ImageDraw, size: tuple[int, int], rgb: Rgb) -> None:
    step = max(8, round(max(size) / 5.5))
    radius = step * 0.28
    for row, y in enumerate(range(step // 3, size[1] + step, step)):
        for x in range(step // 2 if row % 2 else 0, size[0] + step, step):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=rgb)


def _checked(pen: ImageDraw.ImageDraw, size: tuple[int, int], rgb: Rgb) -> None:
    step = max(6, round(max(size) / 7))
    for row, y in enumerate(range(0, size[1], step)):
        for x in range(step * (row % 2), size[0], 2 * step):
            pen.rectangle((x, y, x + step - 1, y + step - 1), fill=rgb)


_TEXTURES = {"plain": _plain, "striped": _striped, "dotted": _dotted, "checked": _checked}

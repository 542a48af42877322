"""Drawn scenes as data: `scenes:COUNT` or `scenes:count=500,seed=7,objects=1-3,min_side=0.15,size=128`.

A scene's reference holds all it is drawn from, so that its pixels are drawn again when they are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from florence2.records import Sample
from florence2.scenes import MORE_FONTS, TRAINING_SEEDS, draw, draw_page

PREFIX = "scenes:"
KEYS = ("count", "seed", "objects", "min_side", "max_side", "size", "clutter", "signs", "withheld", "pages",
        "letters", "repeats", "stretch", "corners", "kinds", "fonts")  # fmt: skip
PAGE_KEYS = frozenset(("size", "withheld", "fonts"))  # those that a page may have beside pages


def read(spec: str, split: str | None = None) -> Iterator[Sample]:
    """The scenes of a spec; without a seed, held-out ones (training ones for the split train)."""
    options = parse(spec)
    count = options.pop("count", 100)
    first = options.pop("seed", 0 if split == "train" else TRAINING_SEEDS)
    for seed in range(first, first + count):
        yield _drawn({"seed": seed, **options})[1]


def pixels(uri: str) -> np.ndarray:
    """The picture of one scene, HWC uint8 RGB."""
    return _drawn(parse(uri))[0]


def split_of(uri: str) -> str:
    """train or test, by the seed of one scene."""
    return "train" if parse(uri)["seed"] < TRAINING_SEEDS else "test"


def parse(spec: str) -> dict[str, Any]:
    """The keys of a spec; ValueError names an unknown one."""
    body = spec.removeprefix(PREFIX)
    parts = [part for part in body.split(",") if part]
    if parts and parts[0].isdigit():
        parts[0] = f"count={parts[0]}"
    options: dict[str, Any] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in KEYS:
            raise ValueError(f"{spec}: {key!r}: expected scenes:COUNT or some of {', '.join(KEYS)} as key=value")
        try:
            options[key] = _value(key, value)
        except ValueError:
            raise ValueError(f"{spec}: {key}: cannot read {value!r}; as in objects=1-3 or min_side=0.15") from None
    return options


def _value(key: str, value: str) -> Any:
    if key == "objects":
        low, _, high = value.partition("-")
        return int(low), int(high or low)
    if key == "size" and "x" in value:
        width, _, height = value.partition("x")
        return int(width), int(height)
    if key == "stretch":
        least, _, most = value.partition("-")
        return float(least), float(most or least)
    if key == "fonts":
        if value != "more":
            raise ValueError
        return MORE_FONTS
    if key == "kinds":
        return tuple(value.split("/"))
    if key in ("withheld", "pages"):
        return bool(int(value))
    return float(value) if key in ("min_side", "max_side", "clutter", "signs", "letters", "repeats") else int(value)


def _drawn(options: dict[str, Any]) -> tuple[np.ndarray, Sample]:
    options = dict(options)
    spec = PREFIX + ",".join(f"{key}={_text(key, value)}" for key, value in options.items())
    seed, pages = options.pop("seed"), options.pop("pages", False)
    if pages and not options.keys() <= PAGE_KEYS:
        raise ValueError(f"{spec}: of pages expected only {', '.join(sorted(PAGE_KEYS))} beside count and seed")
    array, sample = (draw_page if pages else draw)(seed, **options)
    return array, dataclasses.replace(sample, image=dataclasses.replace(sample.image, uri=spec))


def _text(key: str, value: Any) -> str:
    if key == "fonts":
        return "more"
    if isinstance(value, tuple):
        return {"size": "x", "kinds": "/"}.get(key, "-").join(map(str, value))
    return str(int(value)) if isinstance(value, bool) else str(value)

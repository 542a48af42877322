"""Region text selection: the true description of each drawn object among wrong ones of other scenes' objects."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import florence2
from claims_parts import setting
from claims_parts.controls import tests_of
from claims_parts.setting import Results, Size
from florence2.engine.specialists.region_texts import TASK
from florence2.pixels import load
from florence2.predictor.likelihood import log_probabilities
from florence2.records import Ask

WRONG = 3
WAYS = ("log p on the picture", "less log p on a blank one")


def run(results: Results, folder: Path, seeds: Sequence[int], more: Callable[[], bool]) -> None:
    """Descriptions alone, then labels among them, by both measures."""
    for labels in (False, True):
        for way in WAYS:
            if not more():
                return
            arm = f"{'descriptions and labels' if labels else 'descriptions'}: {way}"
            results.once("regions", arm, 0, functools.partial(measured, way, labels, folder, results.size))


def measured(way: str, labels: bool, folder: Path, size: Size) -> dict[str, Any]:
    """Objects of each scene without unseen kinds for which a true candidate is chosen; how often the longest true one.

    Candidates are the true description and those of three other objects; with `labels` the label of each as well.
    """
    model, grey = florence2.load("nano"), np.full((128, 128, 3), 128, np.uint8)
    tests = {n: s for i, (n, s) in enumerate(tests_of(folder, size).items()) if i % setting.EVERY}
    everything = [r for sample in tests.values() for r in sample.regions]
    rng, rows, longest = random.Random(0), [], 0
    for sample in tests.values():
        picture, nothing = model.encode_images([load(sample.image.uri), grey])
        right = 0
        for region in sample.regions:
            strangers = rng.sample([r for r in everything if r.label != region.label], WRONG)
            texts = [r.description for r in (region, *strangers)]
            texts += [r.label for r in (region, *strangers)] if labels else []
            ask = Ask(TASK, region=region.box)
            values = log_probabilities(model, picture, ask, texts)
            if way == WAYS[1]:
                values = values - log_probabilities(model, nothing, ask, texts)
            right += int(values.argmax()) % (1 + WRONG) == 0
            longest += int(values.argmax()) == 0
        rows.append([right, len(sample.regions), len(sample.regions)])
    return {"counts": rows, "chance": 1 / (1 + WRONG), "longest": longest}

"""A specialist that knows the truth and reports it with a stated noise: what a demo or a claim is measured with.

Of the objects of each picture 30 % are missed; the edges of a found box move by up to 10 % of its side; 10 % get
another label of the file; and 0.3 objects a picture are invented. Scores mean something: a right object's are drawn
from Beta(6, 2), a wrongly named one's from Beta(3, 3), an invented one's from Beta(2, 6), so that a threshold helps and
never separates them. The noise is a function of the seed and the image id alone.

Such errors are independent of the picture and average out by construction. Two more kinds do not: misses that depend on
an object's size and on what covers it (`missed_small`, `missed_covered`), and kinds that are taken for one another
(`confused`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from florence2.engine.operator import Spec
from florence2.engine.sample_matching import SampleIndex
from florence2.engine.specialists.requirements import sha256_of
from florence2.formats import jsonl
from florence2.geometry import box_area, intersection
from florence2.records import Box, Failure, Parsed, Region, Result, Sample


@dataclass(frozen=True)
class Noise:
    """How the truth is spoiled."""

    missed: float = 0.3  # share of objects left out
    jitter: float = 0.1  # largest move of an edge, as a share of the box's side
    wrong_label: float = 0.1  # share of found objects that get another label
    invented: float = 0.3  # mean number of invented objects a picture
    right_score: tuple[float, float] = (6, 2)  # parameters of the Beta distributions
    mislabelled_score: tuple[float, float] = (3, 3)
    invented_score: tuple[float, float] = (2, 6)
    missed_small: float = 0.0  # so much more of objects without area, less of larger ones, nothing more from LARGE on
    missed_covered: float = 0.0  # so much more of an object that others overlap wholly, in proportion
    confused: tuple[tuple[str, str], ...] = ()  # labels of which either is taken for the other, as often as `confusion`
    confusion: float = 0.5  # scores of such names are those of right ones: nothing tells them


LARGE = 0.4  # side of an object, the root of its area, as a share of the picture's


class Simulated:
    """Reports a truth file's objects with noise; found for a picture by its id, its path or its name."""

    def __init__(self, path: str, noise: Noise = Noise(), seed: int = 0) -> None:
        self.path, self.noise, self.seed = Path(path), noise, seed
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: no such file; simulated:TRUTH.jsonl reads samples in JSON Lines")
        self.spec = Spec(
            "simulated", "1", produces=frozenset({"region_text/object"}), batch_size=64, source_kind="simulated"
        )
        self.config = {"noise": asdict(noise), "seed": seed}
        self.weights_sha256 = sha256_of([self.path])
        self._truth = SampleIndex(())
        self._labels: list[str] = []

    def setup(self, device: str) -> None:
        """Read the truth."""
        samples = list(jsonl.read(self.path))
        self._truth = SampleIndex(samples)
        self._labels = sorted({r.label for sample in samples for r in sample.regions if r.kind == "object"})

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Result]:
        """The truth of each picture, spoiled; a Failure where the file does not know it."""
        results: list[Result] = []
        for index, (sample, image) in enumerate(zip(samples, images)):
            truth = self._truth.find(sample)
            if truth is None:
                detail = f"{self.path.name} has no truth for it"
                results.append(Failure(index, sample.id, sample.image.uri, "unknown_image", detail))
            else:
                results.append(Parsed(regions=self._spoil(truth, sample.image.id or sample.id, image.shape[:2])))
        return results

    def _spoil(self, truth: Sample, image_id: str, size_hw: tuple[int, int]) -> tuple[Region, ...]:
        noise, rng = self.noise, random.Random(f"{self.seed}:{image_id}")
        height, width = size_hw
        found: list[tuple[Box, str, float]] = []
        for region in truth.regions:
            if region.kind != "object" or region.box is None or region.ignore:
                continue
            if rng.random() < noise.missed + self._harder(region, truth, width * height):
                continue
            box = _jittered(region.box, noise.jitter, rng, width, height)
            confused = [pair for pair in noise.confused if region.label in pair]
            if confused and rng.random() < noise.confusion:
                label = next(label for label in confused[0] if label != region.label)
                found.append((box, label, rng.betavariate(*noise.right_score)))
                continue
            others = [label for label in self._labels if label != region.label]
            if others and rng.random() < noise.wrong_label:
                found.append((box, rng.choice(others), rng.betavariate(*noise.mislabelled_score)))
            else:
                found.append((box, region.label, rng.betavariate(*noise.right_score)))
        for _ in range(_poisson(noise.invented, rng)):
            side_x, side_y = (rng.uniform(0.15, 0.5) * side for side in (width, height))
            x, y = rng.uniform(0, width - side_x), rng.uniform(0, height - side_y)
            label = rng.choice(self._labels) if self._labels else "object"
            found.append(((x, y, x + side_x, y + side_y), label, rng.betavariate(*noise.invented_score)))
        return tuple(
            Region(id=f"object-{i}", box=box, label=label, score=score) for i, (box, label, score) in enumerate(found)
        )

    def _harder(self, region: Region, truth: Sample, area: int) -> float:
        """How much likelier an object is missed for its size and for what covers it."""
        noise = self.noise
        more = 0.0
        if noise.missed_small and region.box is not None:
            more += noise.missed_small * max(0.0, 1 - math.sqrt(box_area(region.box) / area) / LARGE)
        if noise.missed_covered and region.box is not None:
            others = [r.box for r in truth.regions if r is not region and r.kind == "object" and r.box is not None]
            shared = intersection([region.box], others).sum() if others else 0.0
            more += noise.missed_covered * min(1.0, float(shared) / max(box_area(region.box), 1e-9))
        return more

    def close(self) -> None:
        """Forget the truth."""
        self._truth, self._labels = SampleIndex(()), []


def _jittered(box: Box, share: float, rng: random.Random, width: int, height: int) -> Box:
    x1, y1, x2, y2 = box
    dx, dy = share * (x2 - x1), share * (y2 - y1)
    left, right = (min(max(x + rng.uniform(-dx, dx), 0.0), float(width)) for x in (x1, x2))
    top, bottom = (min(max(y + rng.uniform(-dy, dy), 0.0), float(height)) for y in (y1, y2))
    return left, top, right, bottom


def _poisson(mean: float, rng: random.Random) -> int:
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count

"""What a person's look at a picture is worth: F1 against pictures gone over, in the order of `review` and at random.

    python benchmarks/review_order.py [SCENES] [--seed N]          300 scenes unless named

Two simulated specialists (30 % missed, boxes jittered, 10 % wrong names, inventions, seeds of their own) annotate
drawn scenes, the shipped rules judge, their answers are merged. A simulated person then puts a picture's objects right
without fault. F1 is of boxes with the right name and IoU 0.5; random orders: the mean of 20. Last line JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import florence2
from florence2 import geometry, scenes
from florence2.engine.curation import review_order as ordering
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.specialists.simulated import Simulated
from florence2.formats import jsonl
from florence2.records import Sample
from florence2.store import Store

SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6)
SHUFFLES = 20
TESTS = scenes.TRAINING_SEEDS  # the first seed of held-out scenes

Counts = np.ndarray  # (3,): boxes right, kept, true


class Second(Simulated):
    """Another simulated specialist, its noise its own."""

    def __init__(self, path: str) -> None:
        super().__init__(path, seed=1)
        self.spec = dataclasses.replace(self.spec, name="second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="?", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="review-") as folder:
        first = TESTS + args.seed * 100_000
        truth = scenes.write(Path(folder), (scenes.draw(seed) for seed in range(first, first + args.scenes)))
        store = annotated(truth, Path(folder) / "store")
        print_curves(store, {sample.id: sample for sample in jsonl.read(truth)})


def annotated(truth: Path, out: Path) -> Store:
    """What two specialists say of the pictures, judged and merged."""
    makers = [Simulated(str(truth)), Second(str(truth))]
    store = florence2.annotate(truth.parent / "images", out, makers, workers=0)
    florence2.filter(store, merging=MergeConfig())
    return store


def print_curves(store: Store, truth: Mapping[str, Sample]) -> None:
    """F1 as pictures are put right, by each order."""
    before, after = {}, {}
    for sample in store.samples():
        true = truth[Path(sample.image.uri).stem]
        before[sample.image.id] = counts(sample, true)
        after[sample.image.id] = counts(true, true)
    orders = {"review": [one.image_id for one in ordering.review_order(store)]}
    for part in ordering.WEIGHTS:
        found = ordering.review_order(store)
        orders[f"{part} alone"] = [
            one.image_id for one in sorted(found, key=lambda one: (-one.parts[part], one.image_id))
        ]
    orders["most wrong first (needs the truth)"] = sorted(before, key=lambda name: -wrong(before[name]))
    curves = {name: curve(order, before, after) for name, order in orders.items()}
    shuffled = [curve(shuffle(before, n), before, after) for n in range(SHUFFLES)]
    curves["random"] = np.mean(shuffled, 0).tolist()
    print("pictures gone over".ljust(38) + "".join(f"{share:>8.0%}" for share in SHARES))
    for name, values in curves.items():
        print(name.ljust(38) + "".join(f"{value:8.3f}" for value in values))
    print(json.dumps({"pictures": len(before), "shares": SHARES, **curves}))


def shuffle(names: Mapping[str, Counts], seed: int) -> list[str]:
    order = sorted(names)
    random.Random(seed).shuffle(order)
    return order


def curve(order: Sequence[str], before: Mapping[str, Counts], after: Mapping[str, Counts]) -> list[float]:
    """F1 of all pictures, the first of `order` put right, at each of SHARES."""
    assert set(order) == set(before)
    out = []
    for share in SHARES:
        done = round(share * len(order))
        total = sum((after[name] for name in order[:done]), np.zeros(3)) + sum(
            (before[name] for name in order[done:]), np.zeros(3)
        )
        out.append(round(float(2 * total[0] / (total[1] + total[2])), 4))
    return out


def wrong(found: Counts) -> float:
    return float(found[1] + found[2] - 2 * found[0])


def counts(found: Sample, true: Sample) -> Counts:
    """Boxes of the right name and place (each of the truth taken once), boxes kept, boxes true."""
    kept, real = ordering.objects(found), ordering.objects(true)
    overlap = geometry.iou([r.box for r in kept], [r.box for r in real])
    for i, one in enumerate(kept):
        for j, other in enumerate(real):
            overlap[i, j] *= one.label == other.label
    right = 0
    while overlap.size and overlap.max() >= 0.5:
        i, j = np.unravel_index(int(overlap.argmax()), overlap.shape)
        overlap[i, :], overlap[:, j] = 0, 0
        right += 1
    return np.array([right, len(kept), len(real)], dtype=float)


if __name__ == "__main__":
    main()

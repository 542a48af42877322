"""Phrases: both protocols, repeated phrases, referring expressions."""

import numpy as np
import pytest

from florence2.metrics.grounding import GroundingRecall, Referring
from florence2.records import Grounding, Parsed, Region


def said(*phrases):
    """A Parsed from (phrase, start, boxes...)."""
    regions, groundings = [], []
    for phrase, start, *boxes in phrases:
        ids = [f"{start}:{n}" for n in range(len(boxes))]
        regions += [Region(id=i, box=box) for i, box in zip(ids, boxes)]
        groundings.append(Grounding(phrase=phrase, spans=((start, start + len(phrase)),), region_ids=tuple(ids)))
    return Parsed(regions=tuple(regions), groundings=tuple(groundings))


LEFT, RIGHT, BOTH = (0, 0, 10, 10), (10, 0, 20, 10), (0, 0, 20, 10)


def recall(truth, found):
    metric = GroundingRecall()
    metric.update(truth, found)
    return tuple(metric.compute().values())


def test_any_and_merged_differ_where_a_phrase_has_two_boxes():
    truth = said(("two dogs", 0, LEFT, RIGHT))
    assert recall(truth, said(("two dogs", 0, (0, 0, 9, 10)))) == (1, 0)
    assert recall(truth, said(("Two  dogs", 0, BOTH))) == (1, 1)  # IoU of exactly 0.5 with each
    assert recall(truth, truth) == (1, 1) and recall(truth, Parsed()) == (0, 0)


def test_only_the_best_box_of_a_phrase_counts():
    regions = (Region(id="a", box=RIGHT, score=0.2), Region(id="b", box=LEFT, score=0.9))
    found = Parsed(regions=regions, groundings=(Grounding(phrase="a dog", region_ids=("a", "b")),))
    assert recall(said(("a dog", 0, LEFT)), found) == (1, 1)
    assert recall(said(("a dog", 0, RIGHT)), found) == (0, 0)


def test_a_phrase_said_twice_is_matched_in_order():
    truth = said(("a dog", 0, LEFT), ("a dog", 10, RIGHT))
    assert recall(truth, truth) == (1, 1)
    assert recall(truth, said(("a dog", 0, RIGHT), ("a dog", 10, LEFT))) == (0, 0)


def test_referring_takes_the_first_box():
    metric = Referring()
    metric.update([Region(box=LEFT)], [Region(box=LEFT), Region(box=RIGHT)])
    metric.update([Region(box=LEFT)], [Region(box=RIGHT), Region(box=LEFT)])
    metric.update([Region(box=LEFT)], [])
    assert metric.compute() == {"accuracy": 1 / 3} and metric.compute([0]) == {"accuracy": 1}
    assert Referring().compute() == {"accuracy": 0}


def overlap(a, b):
    wide = min(a[2], b[2]) - max(a[0], b[0])
    tall = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(tall, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_recall_equals_both_protocols_step_by_step():
    """Phrase by phrase, as Flickr30k Entities is evaluated: the top box lies on any true box, or on the merged one."""
    rng = np.random.default_rng(0)

    def box(near=None):
        x, y, w, h = rng.integers(0, 40, 2).tolist() + rng.integers(4, 30, 2).tolist()
        if near is not None and rng.random() < 0.7:
            return tuple(float(v) for v in np.add(near, rng.integers(-3, 4, 4)))
        return (float(x), float(y), float(x + w), float(y + h))

    metric, phrases, any_box, merged = GroundingRecall(), 0, 0, 0
    for _ in range(1200):
        truth = [
            (f"phrase {n}", 20 * n, *(box() for _ in range(rng.integers(1, 4)))) for n in range(rng.integers(1, 5))
        ]
        found = [(name, at, *(box(rng.choice(true)) for _ in range(rng.integers(0, 3)))) for name, at, *true in truth]
        metric.update(said(*truth), said(*found))
        for (_, _, *true), (_, _, *given) in zip(truth, found):
            phrases += 1
            around = (
                min(b[0] for b in true),
                min(b[1] for b in true),
                max(b[2] for b in true),
                max(b[3] for b in true),
            )
            any_box += bool(given) and max(overlap(given[0], b) for b in true) >= 0.5
            merged += bool(given) and overlap(given[0], around) >= 0.5
    assert phrases > 2500 and 0.1 < merged / phrases < any_box / phrases < 0.8
    expected = {"recall_any": any_box / phrases, "recall_merged": merged / phrases}
    assert metric.compute() == pytest.approx(expected)

"""Suppression in a picture with very many boxes: what the rule written plainly says, in memory that does not square."""

import resource

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from florence2 import geometry
from florence2.engine.curation.filters.rules import open_chain
from florence2.records import ImageRef, Region, Sample


def plain_nms(boxes, scores, threshold, labels):
    alive, kept = np.ones(len(boxes), bool), []
    for i in np.argsort(-np.asarray(scores), kind="stable"):
        if alive[i]:
            kept.append(int(i))
            same = np.array([label == labels[i] for label in labels])
            alive &= ~((geometry.iou(boxes[i], boxes)[0] > threshold) & same)
    return kept


boxes_of = st.lists(
    st.tuples(*[st.integers(0, 12)] * 4, st.integers(0, 4), st.sampled_from("ab")), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None)
@given(boxes_of, st.sampled_from([0.0, 0.3, 0.6]))
def test_kept_and_values_are_those_of_all_pairs(rows, threshold):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _, _ in rows], float)
    scores, labels = [row[4] / 4 for row in rows], [row[5] for row in rows]
    kept = plain_nms(boxes, scores, threshold, labels)
    assert geometry.nms(boxes, scores, threshold, labels).tolist() == kept
    regions = tuple(
        Region(f"r{n}", box=tuple(b), label=row[5], score=row[4] / 4) for n, (b, row) in enumerate(zip(boxes, rows))
    )
    rule = next(f for f in open_chain({"nms": {"max": threshold}}) if f.spec.name == "nms")
    verdicts = {v.item_id: v for v in rule.verdicts(Sample("s", ImageRef("s", "s.png"), regions=regions))}
    pairs = geometry.iou(boxes, boxes)
    for i, region in enumerate(regions):
        others = [k for k in kept if k != i and labels[k] == labels[i]]
        value = max((pairs[i, k] for k in others), default=0.0)
        assert (verdicts[region.id].status == "kept") == (i in kept) and verdicts[region.id].value == value
        best = next((k for k in others if pairs[i, k] == value), None)
        assert verdicts[region.id].by_id == ("" if i in kept else regions[best].id)


def test_memory_does_not_square():
    rng = np.random.default_rng(0)
    xy, wh = rng.uniform(0, 10_000, (20_000, 2)), rng.uniform(5, 40, (20_000, 2))
    corners = np.concatenate([xy, xy + wh], axis=1).tolist()
    regions = tuple(Region(f"r{n}", box=tuple(box), label="bolt", score=0.5) for n, box in enumerate(corners))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rule = next(f for f in open_chain({}) if f.spec.name == "nms")
    assert len(list(rule.verdicts(Sample("s", ImageRef("s", "s.png"), regions=regions)))) == len(regions)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB; all pairs take 3.2 GB

"""Phrases: both protocols, repeated phrases, referring expressions."""

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

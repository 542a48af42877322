"""Boxes at one threshold: cases worked by hand."""

import numpy as np
import pytest

from florence2.geometry import encode_rle
from florence2.metrics.detection import NO_BOX, DetectionF1, match, region_box
from florence2.records import Region


def at(x, label="", side=10, **fields):
    return Region(box=(x, 0, x + side, side), label=label, **fields)


def scores(truth, found):
    metric = DetectionF1()
    metric.update(truth, found)
    return metric.compute()


@pytest.mark.parametrize(
    "truth, found, precision, recall, labels",
    [
        ([at(0, "a"), at(50, "b")], [at(0, "A"), at(50, " b ")], 1, 1, 1),  # perfect, labels folded
        ([at(0, "a"), at(50, "b")], [at(0, "a"), at(50, "x")], 1, 1, 0.5),  # one wrong name
        ([at(0, "a"), at(50, "b")], [at(1, "a")], 1, 0.5, 1),  # one missed
        ([at(0, "a")], [at(0, "a"), at(1, "a"), at(90, "a")], 1 / 3, 1, 1),  # a double and an invention
        ([at(0, "a")], [], 0, 0, 0),
        ([], [at(0, "a")], 0, 0, 0),
        ([], [], 1, 1, 1),
        ([at(0, "a"), at(50, ignore=True)], [at(0, "a"), at(52)], 1, 1, 1),  # on ignored truth: no error
    ],
)
def test_cases_by_hand(truth, found, precision, recall, labels):
    result = scores(truth, found)
    assert (result["precision"], result["recall"]) == pytest.approx((precision, recall))
    assert result["label_accuracy"] == pytest.approx(labels)
    expected = 2 * precision * recall / (precision + recall) if precision else 0
    assert result["F1"] == pytest.approx(expected)


def test_the_best_overlap_wins_and_equal_labels_break_ties():
    truth = [at(0, "a"), at(0, "b")]
    assert match(truth, [at(0, "b"), at(1, "a")])[0][:2] == (1, 0)
    assert {(t, f) for t, f, _ in match(truth, [at(0, "b"), at(0, "a")])} == {(1, 0), (0, 1)}


def test_quads_polygons_and_masks_have_boxes():
    square = (0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0)
    mask = np.zeros((20, 30), bool)
    mask[:10, :10] = True
    for region in (Region(quad=square), Region(polygons=(square,)), Region(mask=encode_rle(mask))):
        assert scores([at(0)], [region])["F1"] == 1 and region_box(region) == (0, 0, 10, 10)
    for nowhere in (Region(label="a"), Region(mask=encode_rle(mask & False))):
        assert region_box(nowhere) == NO_BOX


def test_resamples_use_their_rows():
    metric = DetectionF1()
    metric.update([at(0)], [at(0)])
    metric.update([at(0)], [at(90)])
    assert metric.compute([0, 0])["F1"] == 1 and metric.compute([1])["F1"] == 0 and metric.compute()["F1"] == 0.5

"""The arithmetic of rules about boxes, each number by hand."""

import numpy as np
import pytest

from florence2 import box_rules

BOXES = [(0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 90), (1, 1, 4, 4), (5, 5, 9, 9)]


def test_sides_aspect_and_share():
    assert box_rules.shorter_side(BOXES).tolist() == [10, 8, 10, 3, 4]
    assert box_rules.aspect(BOXES)[2] == 4 and box_rules.aspect([(5, 5, 5, 5)])[0] == 0
    assert box_rules.picture_share(BOXES, (100, 10)).tolist() == [0.1, 0.08, 0.4, 0.009, 0.016]
    assert box_rules.picture_share(BOXES, (0, 10)).tolist() == [0.0] * 5


@pytest.mark.parametrize(
    "box, valid",
    [
        ((0, 0, 10, 10), True),
        ((5, 5, 5, 9), False),  # no width
        ((9, 5, 5, 9), False),  # turned inside out
        ((-5, 0, 0, 9), False),  # outside
        ((95, 0, 200, 9), True),  # partly inside
        ((0, 0, np.nan, 9), False),
        ((0, 0, np.inf, 9), False),
    ],
)
def test_a_box_is_valid_with_an_area_inside_the_picture(box, valid):
    assert box_rules.is_valid([box], (100, 100)).tolist() == [valid]


def test_nms_measures_and_names_the_winner():
    kept, value, winner = box_rules.nms(BOXES[:3], [0.5, 0.9, 0.1], 0.6)
    assert kept.tolist() == [False, True, True] and winner.tolist() == [1, -1, -1]
    assert value.tolist() == pytest.approx([0.8, 0, 0])
    assert box_rules.nms(BOXES[:2], [0.5, 0.9], 0.6, ["a", "b"]).kept.all()


def test_soft_nms_says_what_decayed_and_whose_overlap_was_worst():
    kept, value, winner = box_rules.soft_nms(BOXES[:3], [0.3, 0.9, 0.1], 0.5, 0.2)
    assert kept.tolist() == [False, True, True]  # the third was below the floor before
    assert value[0] == pytest.approx(0.3 * np.exp(-(0.8**2) / 0.5)) and winner.tolist() == [1, -1, -1]


def test_containers_hold_smaller_boxes_of_their_label():
    assert box_rules.contained_count(BOXES).tolist() == [3, 1, 0, 0, 0]
    labels = ["pack", "pack", "cup", "cup", "pack"]
    assert box_rules.contained_count(BOXES, labels).tolist() == [2, 0, 0, 0, 0]
    assert box_rules.contained_count([(0, 0, 5, 5)] * 3).tolist() == [0, 0, 0]  # equal boxes hold one another not

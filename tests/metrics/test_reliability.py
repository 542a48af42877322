"""Calibration error, ranking and squared error of scores, against definitions."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence2.metrics.reliability import brier, calibration_error, log_loss, ranking, reliability

QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCORED = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@QUIET
@given(SCORED)
def test_ranking_is_the_chance_that_a_right_item_is_above_a_wrong_one(rows):
    good, bad = [s for s, r in rows if r], [s for s, r in rows if not r]
    pairs = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
    assert ranking(*zip(*rows)) == pytest.approx(np.mean(pairs) if pairs else 0.5)


@QUIET
@given(SCORED)
def test_bins_hold_every_item_once(rows):
    scores, right = zip(*rows)
    bins = reliability(scores, right)
    assert sum(b.items for b in bins) == len(rows)
    assert max(b.items for b in bins) - min(b.items for b in bins) <= 1
    assert sum(b.items * b.right for b in bins) == pytest.approx(sum(right))
    assert 0 <= calibration_error(scores, right) <= 1 and 0 <= brier(scores, right) <= 1
    assert np.isfinite(log_loss(scores, right))


def test_by_hand():
    scores, right = [0.2] * 10 + [0.9] * 10, [True] * 2 + [False] * 8 + [True] * 8 + [False] * 2
    assert calibration_error(scores, right, 2) == pytest.approx(0.05)  # none in the first, 0.1 in the second
    assert brier(scores, right) == pytest.approx((2 * 0.64 + 8 * 0.04 + 8 * 0.01 + 2 * 0.81) / 20)
    assert (calibration_error([], []), ranking([], []), brier([], []), log_loss([], [])) == (0, 0.5, 0, 0)

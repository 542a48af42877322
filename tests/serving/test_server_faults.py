"""Killed workers, clients that leave, garbage: the short form of `python -m tests.serving.faults`."""

import pytest

from tests.serving.faults import faults


@pytest.mark.slow
def test_every_request_has_one_true_answer_or_one_honest_error():
    counts = faults(20, seed=3)
    assert counts["true answers"] >= 10 and counts["workers killed"] >= 3
    assert counts["leaver"] and counts["garbage"] and counts["bad"] and counts["slow"]

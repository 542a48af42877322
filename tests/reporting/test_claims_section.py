"""Claims by paired resamples: what holds, what does not, and which pictures gained or lost."""

import pytest

from florence2.reporting.claims_section import claim, claims_table, moved

GOOD = {f"p{n}": (3, 3, 3) for n in range(40)}
BAD = {f"p{n}": (1, 2, 3) for n in range(40)}
MIXED = {f"p{n}": (3, 3, 3) if n % 2 else (1, 2, 3) for n in range(40)}
OTHER = {f"p{n}": (1, 2, 3) if n % 2 else (3, 3, 3) for n in range(40)}


@pytest.mark.parametrize(
    "better, than, verdict, difference",
    [
        (GOOD, BAD, "yes", 1 - 0.4),
        (BAD, GOOD, "no, worse", 0.4 - 1),
        (GOOD, GOOD, "no difference seen", 0.0),
        (MIXED, OTHER, "no difference seen", 0.0),  # as many gained as lost
    ],
)
def test_a_claim_holds_where_the_interval_excludes_zero(better, than, verdict, difference):
    found = claim("it is", better, than)
    assert found.verdict == verdict and found.difference == pytest.approx(difference)
    assert found.low <= found.difference + 1e-9 and found.high >= found.difference - 1e-9
    assert verdict in found.line() and verdict in claims_table([found])


def test_only_pictures_of_both_are_compared():
    found = claim("it is", {**GOOD, "more": (0, 9, 9)}, BAD)
    assert found.difference == pytest.approx(0.6)


def test_pictures_that_gained_and_lost_most_are_named():
    before = {"a": (0, 1, 2), "b": (2, 2, 2), "c": (1, 1, 1), "d": (1, 1, 2)}
    after = {"a": (2, 2, 2), "b": (1, 2, 2), "c": (1, 1, 1), "d": (2, 2, 2)}
    assert moved(after, before, 5) == (["a", "d"], ["b"]) and moved(after, before, 1) == (["a"], ["b"])

"""A short share of the fuzzing, by a fixed seed."""

import pytest

from tests.fuzz.attempts import PARTS, run


@pytest.mark.parametrize("part", PARTS)
def test_what_is_damaged_is_refused_in_a_line_or_read(part):
    tried, faults = run(part, seed=1, count=450)
    assert tried.total() == 450
    assert not faults, "\n".join(f"{f.target}: {f.name}: {f.fault}" for f in faults[:10])

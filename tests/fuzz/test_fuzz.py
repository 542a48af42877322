"""A short share of the fuzzing, by a fixed seed."""

import pytest

from tests.fuzz.attempts import PARTS, run

COUNTS = {
    "labels": 450, "pictures": 260, "tars": 150, "tables": 45, "stores": 16, "checkpoints": 60, "answers": 150,
    "generated": 120, "sealed_stores": 10,
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_what_is_damaged_is_refused_in_a_line_or_read(part):
    tried, faults = run(part, seed=1, count=COUNTS[part])
    assert tried.total() == COUNTS[part]
    assert not faults, "\n".join(f"{f.target}: {f.name}: {f.fault}" for f in faults[:10])

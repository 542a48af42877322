"""A few of the faults of `make faults`, each of them once or twice."""

import pytest

from tests.injected import COUNTS, Faults, inject

FEW = {"every_step": 2, "corrupted_picture": 60}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"), seed=1)


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_left_is_what_an_uninterrupted_run_leaves(faults, name):
    assert inject(faults, name, FEW.get(name, 1)) == []

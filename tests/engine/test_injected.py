"""A few of the faults of `make faults`, each of them once or twice."""

import pytest

from tests.injected import COUNTS, Faults, inject

FEW = {"every_step": 4, "every_request": 3, "corrupted_picture": 60}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults(tmp_path_factory, object_server):
    root = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**object_server.env, "XDG_CACHE_HOME": str(root)}.items():
            patch.setenv(name, value)
        yield Faults(root, 1, object_server.new_bucket())


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_left_is_what_an_uninterrupted_run_leaves(faults, name):
    assert inject(faults, name, FEW.get(name, 1)) == (FEW.get(name, 1), [])

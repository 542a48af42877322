"""A few of the faults of `make faults` on Ray: a cluster of three nodes for the module, slow to start."""

import pytest

pytest.importorskip("ray")
from tests.ray_faults import RayFaults  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    found = RayFaults(tmp_path_factory.mktemp("faults"))
    yield found
    found.close()


def test_processes_actors_and_nodes_that_go_leave_the_same_store(faults):
    assert faults.during(faults.process, faults.actor, faults.node) == ""
    assert "process" in faults.injected


def test_a_driver_that_is_killed_is_followed_by_one_that_goes_on(faults):
    assert faults.driver() == ""

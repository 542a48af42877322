"""One running server for the tests that ask a real one."""

import pytest

import florence2
from florence2.pixels import encode
from tests.serving.running import RunningServer


@pytest.fixture(scope="session")
def server():
    with RunningServer("nano", "--max-bytes", "2000000") as running:
        yield running.wait_ready()


@pytest.fixture(scope="session")
def nano():
    return florence2.load("nano")


@pytest.fixture(scope="session")
def scene():
    """A drawn picture as PNG bytes."""
    return encode(florence2.scenes.draw(2**31 + 8, objects=(3, 3), signs=0.6, size=384)[0])

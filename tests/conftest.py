"""The run asserts why tests were skipped: only what a machine may lack counts as a reason."""

import os
import tempfile

import pytest

from tests.object_server import ObjectServer

_configuration = tempfile.TemporaryDirectory(prefix="florence2-tests-")
os.environ["XDG_CONFIG_HOME"] = _configuration.name  # what tests trust is none of the user's business
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.fsync = lambda handle: os.fstat(handle) and None  # no test cuts the power; thousands of files wait for the disk
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Side by side each has its share of the cores: threads that wait for one another on busy cores take four times as long.
_share = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, str(_share))


@pytest.fixture(scope="session")
def object_server():
    """A server of objects, started for the first test that wants one."""
    server = ObjectServer()
    yield server
    server.close()


@pytest.fixture
def bucket(object_server, monkeypatch, tmp_path):
    """An empty bucket of the test's own, as the place of stores and pictures; the cache folder is the test's too."""
    for name, value in object_server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return object_server.new_bucket()


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    """Where a store goes: a folder of this machine, or a prefix of an object store."""
    return tmp_path / "s" if request.param == "local" else f"{request.getfixturevalue('bucket')}/s"


ALLOWED_SKIPS = ("no GPU", "no ../shared", "no network", "no compiler", "no browser")

_other_skips: list[str] = []


def _note(report) -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED_SKIPS):
        _other_skips.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report):
    _note(report)


def pytest_collectreport(report):
    _note(report)


def pytest_sessionfinish(session):
    if _other_skips:
        print("\nskipped for a reason that is not allowed:", *_other_skips, sep="\n  ")
        session.exitstatus = 1

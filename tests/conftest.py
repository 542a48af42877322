"""The run asserts why tests were skipped: only what a machine may lack counts as a reason."""

import os
import tempfile

_configuration = tempfile.TemporaryDirectory(prefix="florence2-tests-")
os.environ["XDG_CONFIG_HOME"] = _configuration.name  # what tests trust is none of the user's business
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.fsync = lambda handle: os.fstat(handle) and None  # no test cuts the power; thousands of files wait for the disk
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

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

"""SIGTERM at any moment of a server's life: exit code 0, the port closed, no process left."""

import os
import re
import signal
import sys
import time

import pytest

from tests.serving.running import RunningServer, children, is_open, processes, session
from tests.serving.test_predict_route import assert_same
from tests.serving.test_server import LONG, ask, in_threads
from tests.serving.test_store_routes import make_store

STEP_S = 0.005


def assert_clean_end(server):
    """SIGTERM, and what must be true then."""
    port = server.port if server.url else None
    server.worker_pids()  # remembers whose sessions its processes are in
    assert server.stop() == 0, server.lines
    assert port is None or not is_open(port)
    end = time.monotonic() + 5
    while left := [pid for pid in processes() if session(pid) in server.hosts]:
        assert time.monotonic() < end, left
        time.sleep(0.05)
    assert [line for line in server.lines if not re.search("listening on|(is|another one is) started", line)] == []


def begun(*arguments):
    """A server whose command has begun to run, as far as a signal can be heard at all."""
    server = RunningServer(*arguments)
    end = time.monotonic() + 30
    while not hears_sigterm(server.process.pid):
        assert server.process.poll() is None and time.monotonic() < end
        time.sleep(STEP_S)
    return server


def hears_sigterm(pid):
    """Whether the process has a handler for SIGTERM."""
    with open(f"/proc/{pid}/status") as lines:
        caught = next(line for line in lines if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.mark.parametrize("arguments", [("nano",), ("nano", "--processes", "2")], ids=["one", "several"])
@pytest.mark.parametrize("moment_s", [0, 0.3, 0.8, 1.4])
def test_sigterm_while_it_starts(moment_s, arguments):
    with begun(*arguments) as server:
        time.sleep(moment_s)
        assert_clean_end(server)


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("moment_s", [0.1, 0.6])
def test_sigterm_while_a_store_is_opened(moment_s, processes, tmp_path):
    with begun("--store", str(make_store(tmp_path).root), "--processes", processes) as server:
        time.sleep(moment_s)
        assert_clean_end(server)


@pytest.mark.parametrize("moment_s", [0, 0.15, 0.4, 0.8])
@pytest.mark.parametrize("killed", ["server", "host"])
def test_sigterm_when_a_process_of_several_was_killed(killed, moment_s):
    with RunningServer("nano", "--processes", "2") as server:
        server.wait_ready()
        below = children(server.process.pid)
        host = next(pid for pid in below if children(pid))
        os.kill(host if killed == "host" else next(pid for pid in below if pid != host), signal.SIGKILL)
        time.sleep(moment_s)
        assert_clean_end(server)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_to_every_process_at_once_loses_no_request(processes, nano, scene):
    """A service manager ends a service so: the model must not be gone before the requests are answered."""
    with RunningServer("nano", "--processes", processes, "--threads", "1") as server:
        server.wait_ready()
        below = [server.process.pid, *children(server.process.pid), *server.worker_pids()]
        threads, results = in_threads(4, lambda _: ask(server.url, scene, LONG))
        time.sleep(0.15)
        for pid in below:
            os.kill(pid, signal.SIGTERM)
        assert_clean_end(server)
        for thread in threads:
            thread.join(5)
        for answer in results:
            if answer is None or answer.status_code == 503:
                continue  # had not come in, or had reached the one of two that was not ready
            assert answer.status_code == 200, answer.text
            assert_same(answer.json()["answers"][0], nano.predict(scene, "<MORE_DETAILED_CAPTION>"))
        assert any(answer is not None and answer.status_code == 200 for answer in results)

"""A process that loads once what all workers of a phase need, and forks them: a parser is not imported in each anew.

It forks from one thread that has opened no device, and only on Linux; elsewhere, and for work that loads what may hold
threads or a GPU, workers are started one by one.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import reduction
from multiprocessing.connection import Connection, Pipe
from typing import Any, NoReturn

from florence2.engine.execution import worker_process

AVAILABLE = sys.platform == "linux"

_START = "import sys; sys.path[:] = {path!r}; from florence2.engine.execution.fork_template import serve; serve({fd})"


class ForkTemplate:
    """The supervisor's side: a template that has loaded what `preload` loads. OSError or EOFError where it died."""

    def __init__(self, preload: Callable[[], None], env: Mapping[str, str], boot_s: float):
        self._control, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=sys.path, fd=theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,
            env=dict(env),
            start_new_session=True,
        )
        theirs.close()
        self._control.send(preload)
        self._boot_s = boot_s

    def fork(self, connection: Connection) -> ForkedProcess:
        """A worker that serves a connection; the first call waits until what is to be loaded is there."""
        self._control.send(None)
        reduction.send_handle(self._control, connection.fileno(), self._process.pid)
        return ForkedProcess(self, self._answer(self._boot_s))

    def exit_code(self, pid: int, timeout_s: float) -> int | None:
        """How a worker ended, as `subprocess` counts; None where it has not in that time."""
        self._control.send((pid, timeout_s))
        code: int | None = self._answer(timeout_s + 5)
        return code

    def _answer(self, timeout_s: float) -> Any:
        if not self._control.poll(timeout_s):
            raise TimeoutError(f"a template of workers gave no answer in {timeout_s:.0f} s")
        return self._control.recv()

    def close(self, at_once: bool = False) -> None:
        """End it, `at_once` where it may still be loading; workers that are still there end with it."""
        self._control.close()
        if at_once:
            self._process.kill()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ForkedProcess:
    """A worker that the template forked, as far as a supervisor handles it like a subprocess."""

    def __init__(self, template: ForkTemplate, pid: int):
        self.template, self.pid = template, pid
        self._code: int | None = None

    def kill(self) -> None:
        """End it at once; nothing happens where it has ended."""
        if self._code is None:
            try:
                os.kill(self.pid, 9)  # its number is its own until the template has been asked for its exit code
            except ProcessLookupError:
                pass

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for a signal; subprocess.TimeoutExpired where it has none in time."""
        limit = 60.0 if timeout is None else timeout
        if self._code is None:
            try:
                self._code = self.template.exit_code(self.pid, limit)
            except (OSError, EOFError):  # the template is gone, and its workers with it
                self._code = -9
        if self._code is None:
            raise subprocess.TimeoutExpired(f"worker {self.pid}", limit)
        return self._code


def serve(fd: int) -> None:
    """The template's life: load, then fork a worker for each connection that comes, and say how workers ended."""
    control = Connection(fd)
    try:
        control.recv()()
        gc.collect()
        gc.freeze()  # what is loaded stays in pages that all workers share
        while True:
            asked = control.recv()
            if asked is not None:
                control.send(_exit_code(*asked))
                continue
            handle = reduction.recv_handle(control)
            pid = os.fork()
            if not pid:
                control.close()
                _be_worker(handle)
            os.close(handle)
            control.send(pid)
    except (EOFError, OSError):
        return


def _be_worker(handle: int) -> NoReturn:
    code = 1
    try:
        worker_process.serve(handle)
        code = 0
    finally:
        os._exit(code)


def _exit_code(pid: int, timeout_s: float) -> int | None:
    end = time.monotonic() + timeout_s
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.01)

"""A server process's side of its worker: the host is started, a worker asked for, messages pass in threads.

Knows no request: what a worker says is handed to `on_message` in the event loop, its end to `on_end`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

from florence2.serving.batcher import OnEnd, OnMessage
from florence2.serving.messages import Ready, ToWorker
from florence2.serving.settings import Settings

log = logging.getLogger(__name__)
_CODE = "import sys; sys.path[:] = {path!r}; from florence2.serving.model_host import main; main({fd}, {parent})"


class ModelHost:
    """The process that forks workers, and the socket on which it is asked; started again where it has ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._asking, self._answering = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._asking.setblocking(False)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def asking(self) -> socket.socket:
        """Where workers are asked for; other processes may inherit it."""
        return self._asking

    def connect(self, on_message: OnMessage, on_end: OnEnd) -> WorkerLink:
        """Ask for a worker, from the running event loop."""
        self.ensure()
        return connect(self._asking, on_message, on_end)

    def ensure(self) -> bool:
        """Start the host unless it runs; whether it had to be. What was asked meanwhile is answered by the new one."""
        if self._process is not None:
            if self._process.poll() is None:
                return False
            log.warning("the model host ended with code %s; it is started again", self._process.returncode)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE.format(path=sys.path, fd=self._answering.fileno(), parent=os.getpid())],
            pass_fds=[self._answering.fileno()],
            stdin=subprocess.PIPE,
            stdout=2,  # what a library prints must not mix with a command's output
            env={"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", **os.environ},
            start_new_session=True,  # Ctrl-C is for the server
        )
        hand_over(self._process, pickle.dumps((list(sys.path), self.settings)))
        return True

    def stop(self) -> None:
        """End the host; workers end when their connections do."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._asking.close()
        self._answering.close()


def hand_over(process: subprocess.Popen[bytes], data: bytes) -> None:
    """Give a process that was just started its standard input; one that has ended already is noticed by who watches."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(data)


def connect(asking: socket.socket, on_message: OnMessage, on_end: OnEnd) -> WorkerLink:
    """Ask for a worker over a host's socket, from the running event loop."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs:
        socket.send_fds(asking, [b"w"], [theirs.fileno()])
    return WorkerLink(Connection(ours.detach()), asyncio.get_running_loop(), on_message, on_end)


class WorkerLink:
    """One worker, from the ask for it to its end."""

    def __init__(
        self,
        connection: Connection,
        loop: asyncio.AbstractEventLoop,
        on_message: OnMessage,
        on_end: OnEnd,
    ) -> None:
        self.pid: int | None = None
        self._connection, self._loop = connection, loop
        self._on_message, self._on_end = on_message, on_end
        self._out: queue.SimpleQueue[ToWorker | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def send(self, message: ToWorker) -> None:
        """Send in the background; a worker that has ended hears nothing, and `on_end` says so."""
        self._out.put(message)

    def kill(self) -> None:
        """End the worker now."""
        if self.pid is not None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def close(self) -> None:
        """Hang up: the worker ends, and `on_end` is called."""
        self._out.put(None)

    def _read(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                break
            if isinstance(message, Ready):
                self.pid = message.pid
            if not self._call(self._on_message, self, message):
                break
        self._out.put(None)
        self._call(self._on_end, self)

    def _write(self) -> None:
        while (message := self._out.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:
                return  # the reader sees the end
        try:
            hang_up = socket.socket(fileno=os.dup(self._connection.fileno()))
            hang_up.shutdown(socket.SHUT_RDWR)
            hang_up.close()
        except OSError:
            pass  # it has ended already

    def _call(self, call: Callable[..., None], *arguments: object) -> bool:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop has ended
            return False
        return True

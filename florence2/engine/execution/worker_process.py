"""A worker process: receives what it holds, then jobs until its supervisor hangs up."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from florence2.engine.execution import attempt_journal
from florence2.engine.execution.context import WorkerContext
from florence2.store import Journal


@dataclass
class _PipedHeartbeat:
    journal: Journal
    connection: Connection
    isolate: bool
    poison_images: dict[int, str]
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)  # a task may report from several threads

    def progress(self, pictures: int) -> None:
        self.done += pictures
        self._send("progress", self.done)

    def image(self, index: int) -> None:
        self.journal.append(attempt_journal.picture(index))
        self._send("alive")

    def message(self, text: str) -> None:
        self._send("message", text)

    def writing(self) -> None:
        if self.isolate:
            self.journal.append("writing")
        self._send("alive")

    def _send(self, *message: Any) -> None:
        with self.lock:
            self.connection.send(message)


def serve(fd: int) -> None:
    """The worker's life. Loading is done before "start" is sent: it is not on the job's lease."""
    _leave_with_parent()
    connection = Connection(fd)
    path, pickled = pickle.loads(connection.recv_bytes())
    sys.path[:] = path
    context: WorkerContext | None = None
    while True:
        try:
            job, device, isolate, poison_images = connection.recv()
        except (EOFError, OSError):
            return
        try:
            context = context or pickle.loads(pickled)
            context.prepare(job.specialist, job.operator, device)
            connection.send(("start",))
            tries = context.store.journal(job.key)
            tries.append("start")
            context.heartbeat = _PipedHeartbeat(tries, connection, isolate, poison_images)
            outcome = job.task.do(context.store, context)
        except Exception as error:  # whatever it was, the supervisor raises it in the caller's process
            _send(connection, ("error", _as_one_line(error)))
            continue
        _send(connection, ("done", outcome))


def _send(connection: Connection, message: tuple[Any, ...]) -> None:
    try:
        connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the supervisor has gone; the next receive says so


def _as_one_line(error: Exception) -> Exception:
    """The error as one that can be pickled and that a command turns into one line."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror or str(error), error.filename)
    text = str(error) or type(error).__name__
    return ValueError(text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}")


def _leave_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

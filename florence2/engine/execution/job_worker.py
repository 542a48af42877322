"""What every worker does with the jobs it is given, whatever connects it to its supervisor.

A job begins when "start" is sent: what the worker loads before that is not on the job's lease.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from florence2.engine.execution import attempt_journal
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import Job
from florence2.store import Journal

Message = tuple[Any, ...]  # its kind, then what it holds: start, progress, alive, message, done, error
Send = Callable[[Message], None]


@dataclass
class _SentHeartbeat:
    journal: Journal
    send: Send
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
            self.send(message)


class JobWorker:
    """Holds a context, opened with the first job, and does one job after another."""

    def __init__(self, pickled: bytes):
        self._pickled = pickled
        self._context: WorkerContext | None = None

    @property
    def context(self) -> WorkerContext:
        """What was sent, unpickled once."""
        self._context = self._context or pickle.loads(self._pickled)
        return self._context

    def do(self, job: Job, device: str, isolate: bool, poison_images: Mapping[int, str], send: Send) -> None:
        """Do a job; the last message is "done" with its outcome and the memory held, or "error" with what it raised."""
        try:
            context = self.context
            context.prepare(job.specialist, job.operator, device)
            send(("start",))
            tries = context.store.journal(job.key)
            tries.append("start")
            context.heartbeat = _SentHeartbeat(tries, send, isolate, dict(poison_images))
            begun = time.perf_counter()
            outcome = job.task.do(context.store, context)
            outcome = dataclasses.replace(outcome, took_s=time.perf_counter() - begun)
        except Exception as error:  # whatever it was, the supervisor raises it in the caller's process
            send(("error", _as_one_line(error)))
            return
        send(("done", outcome, _resident_bytes()))


def pickled(context: WorkerContext) -> tuple[Sequence[str], bytes]:
    """What a worker is made from: where modules are found, and a context; ValueError where it cannot be sent."""
    try:
        return list(sys.path), pickle.dumps(context)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise unpickled(error) from None


def unpickled(error: Exception) -> ValueError:
    """The refusal of work that cannot be sent to a worker."""
    return ValueError(
        f"cannot send this work to a worker process ({error}); name specialists as FILE.py:CLASS, write rules in an "
        "importable module, or use workers=0"
    )


def _resident_bytes() -> int:
    """The memory that this process holds now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _as_one_line(error: Exception) -> Exception:
    """The error as one that can be pickled and that a command turns into one line."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror or str(error), error.filename)
    text = str(error) or type(error).__name__
    return ValueError(text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}")

"""Runs jobs in supervised processes of this machine, or in this one. Knows nothing of pictures or stores' tables.

A job that kills its worker is tried again; after `attempts` deaths, or one hang, it is done one picture at a time, and
the picture that kills even then is given up with its reason. Deaths are journalled in attempts/<key>, and only those
that happened while the supervisor lived: killing the whole run blames nobody. A worker's start and loading are not on
its lease.
"""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Protocol

from florence2.store.journal import Journal

ATTEMPTS = 3  # deaths of a job before its pictures are tried one at a time
BOOT_S = 600.0  # for a worker to start and load what a job needs
FIRST_LEASE_S = 600.0  # for a job, until the time that jobs take is known
LEASE_FLOOR_S = 120.0
LEASE_FACTOR = 20  # times the median job


@dataclass(frozen=True)
class Job:
    """One unit of work: the name of its journal, how many pictures it counts for, and what the work needs to know."""

    key: str
    size: int
    payload: Any


class Heartbeat(Protocol):
    """What a job's work tells while it runs, and what earlier tries of it have shown."""

    isolate: bool
    poison_images: dict[int, str]  # picture -> reason, for pictures that killed a worker when tried alone

    def picture(self, index: int) -> None:
        """Say, before trying it alone, which picture comes next."""

    def writing(self) -> None:
        """Say that the pictures are done and the results are being written."""


class Work(Protocol):
    """What a worker does with jobs; it is pickled to the worker."""

    def prepare(self, job: Job) -> None:
        """Load what the job needs; not on the lease."""

    def do(self, job: Job, heartbeat: Heartbeat) -> Any:
        """Do the job; the return value goes to the supervisor."""


Progress = Callable[[int], None]


@dataclass
class NullHeartbeat:
    """The watch of a job that runs in this process."""

    isolate: bool = False
    poison_images: dict[int, str] = field(default_factory=dict)

    def picture(self, index: int) -> None:
        """Nobody listens."""

    def writing(self) -> None:
        """Nobody listens."""


class InlineRunner:
    """Runs jobs one after another in this process: for small jobs and for doubles. A crash takes the process along."""

    def __init__(self, work: Work):
        self.work = work

    def run(self, jobs: Iterable[Job], at_once: int = 0) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, in order."""
        for job in jobs:
            self.work.prepare(job)
            yield job, self.work.do(job, NullHeartbeat())

    def __enter__(self) -> InlineRunner:
        return self

    def __exit__(self, *exc: Any) -> None:
        pass


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    job: Job | None = None
    since: float = 0.0  # when it was given the job, or last reported
    started: float = 0.0  # when it began the job itself; 0 while it loads


class ProcessRunner:
    """Runs jobs in up to `workers` processes, started as they are needed and kept until the end."""

    def __init__(
        self,
        work: Work,
        root: Path,
        workers: int,
        attempts: int = ATTEMPTS,
        lease_s: float | None = None,
        boot_s: float = BOOT_S,
    ):
        self.root, self.limit = Path(root), workers
        self.attempts, self.lease_s, self.boot_s = attempts, lease_s, boot_s
        self._hello = _pickled(work)
        self._workers: list[_Worker] = []
        self._seconds: list[float] = []
        self._boot_deaths = 0
        self._timeouts: Counter[str] = Counter()

    def __enter__(self) -> ProcessRunner:
        return self

    def __exit__(self, kind: Any, *exc: Any) -> None:
        for worker in self._workers:
            if kind is None:
                worker.connection.close()  # the worker sees the end and leaves
            else:
                worker.process.kill()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers.clear()

    def run(self, jobs: Iterable[Job], at_once: int = 0) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, as they finish; no more than `at_once` of them together (0: one a worker)."""
        todo, source = deque[Job](), iter(jobs)
        while True:
            while job := todo.popleft() if todo else next(source, None):
                worker = self._free(at_once or self.limit)
                if worker is None or not self._give(worker, job):
                    todo.appendleft(job)
                    if worker is None:
                        break
            busy = [worker for worker in self._workers if worker.job is not None]
            if not busy:
                return
            if not todo:  # one is made ready while the workers are busy
                todo.extend(islice(source, 1))
            ready = wait([worker.connection for worker in busy], timeout=min(1.0, (self.lease_s or 4.0) / 4))
            for worker in busy:
                if worker.connection in ready:
                    yield from self._hear(worker, todo)
                elif time.monotonic() - worker.since > self._patience(worker):
                    self._lose(worker, todo, "timeout")

    def _free(self, at_once: int) -> _Worker | None:
        """A worker without a job, started if there may be one more; always the same ones while they live."""
        for worker in self._workers[:at_once]:
            if worker.job is None:
                return worker
        if len(self._workers) >= min(at_once, self.limit):
            return None
        self._workers.append(_start(self._hello))
        return self._workers[-1]

    def _give(self, worker: _Worker, job: Job) -> bool:
        try:
            worker.connection.send((job, *journal(self.root, job.key, self.attempts)))
        except OSError:  # it died while idle
            self._forget(worker)
            return False
        worker.job, worker.since, worker.started = job, time.monotonic(), 0.0
        return True

    def _patience(self, worker: _Worker) -> float:
        if not worker.started:
            return self.boot_s
        assert worker.job is not None
        more = 2.0 ** min(3, self._timeouts[worker.job.key])  # a slow machine must not look like a hang for ever
        if self.lease_s is not None:
            return self.lease_s * more
        if not self._seconds:
            return FIRST_LEASE_S * more
        return max(LEASE_FLOOR_S, LEASE_FACTOR * statistics.median(self._seconds)) * more

    def _hear(self, worker: _Worker, todo: deque[Job]) -> Iterator[tuple[Job, Any]]:
        try:
            message, *rest = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._lose(worker, todo, "died")
            return
        worker.since = time.monotonic()
        if message == "start":
            worker.started = worker.since
            self._boot_deaths = 0
        elif message == "done":
            job, worker.job = worker.job, None
            assert job is not None
            self._seconds = [*self._seconds[-99:], time.monotonic() - worker.started]
            yield job, rest[0]
        elif message == "error":
            raise rest[0]

    def _lose(self, worker: _Worker, todo: deque[Job], cause: str) -> None:
        """Bury a worker; its job goes back to the front, the death on its account if it had begun it."""
        job, begun = worker.job, worker.started
        code = self._forget(worker)
        assert job is not None
        if begun:
            Journal(self.root, job.key).append(cause)
            self._timeouts[job.key] += cause == "timeout"
            if deaths(self.root, job.key) > 3 * self.attempts + 2 * job.size:
                raise ChildProcessError(f"{self.root}: workers keep dying over unit {job.key}; last exit code {code}")
        else:
            self._boot_deaths += 1
            if self._boot_deaths >= self.attempts:
                what = f"did not get ready in {self.boot_s:.0f} s" if cause == "timeout" else f"exited with code {code}"
                often = f"{self._boot_deaths} times while loading"
                raise ChildProcessError(f"{self.root}: a worker {what}, {often}; run with --workers 0 to see why")
        todo.appendleft(job)

    def _forget(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        worker.process.kill()
        worker.connection.close()
        return worker.process.wait()


def journal(root: Path, key: str, attempts: int) -> tuple[bool, dict[int, str]]:
    """What the journal of a job says: whether to go one picture at a time, and which pictures killed when alone."""
    lines = _lines(root, key)
    poison_images = {}
    for before, line in zip(lines, lines[1:]):
        if line in ("died", "timeout") and before.startswith("picture "):
            poison_images[int(before.split()[1])] = "worker_died" if line == "died" else "timeout"
    return "timeout" in lines or deaths(root, key) >= attempts, poison_images


def deaths(root: Path, key: str) -> int:
    """How many workers died over a job while their supervisor lived."""
    return sum(line in ("died", "timeout") for line in _lines(root, key))


def _lines(root: Path, key: str) -> list[str]:
    return Journal(root, key).lines()


def _pickled(work: Work) -> bytes:
    try:
        return pickle.dumps(([path for path in sys.path], pickle.dumps(work)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"cannot send this work to a worker process ({error}); name specialists as FILE.py:CLASS, or use workers=0"
        ) from None


# The worker's code starts here rather than through multiprocessing's spawn, which would import the caller's script.
_START = "import sys; sys.path[:] = {path!r}; from florence2.engine.execution.processes import serve; serve({fd})"


def _start(hello: bytes) -> _Worker:
    ours, theirs = Pipe()
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    process = subprocess.Popen(
        [sys.executable, "-c", _START.format(path=sys.path, fd=theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what a library prints must not mix with a command's output
        env={**threads, **os.environ},  # one thread a worker: scores do not depend on how many workers there are
        start_new_session=True,  # Ctrl-C is for the supervisor
    )
    theirs.close()
    try:
        ours.send_bytes(hello)
    except OSError:
        pass  # it died at once: noticed when it is given a job
    return _Worker(process, ours)


@dataclass
class _Journalled:
    root: Path
    key: str
    connection: Connection
    isolate: bool
    poison_images: dict[int, str]

    def picture(self, index: int) -> None:
        Journal(self.root, self.key).append(f"picture {index}")
        self.connection.send(("picture", index))

    def writing(self) -> None:
        if self.isolate:
            Journal(self.root, self.key).append("writing")
            self.connection.send(("writing",))


def serve(fd: int) -> None:
    """A worker's life: receive the work, then jobs until the supervisor hangs up."""
    _leave_with_parent()
    connection = Connection(fd)
    path, pickled = pickle.loads(connection.recv_bytes())
    sys.path[:] = path
    work = None
    while True:
        try:
            job, isolate, poison_images = connection.recv()
        except (EOFError, OSError):
            return
        try:
            work = work or pickle.loads(pickled)
            work.prepare(job)
            root = Path(work.root)
            connection.send(("start",))
            Journal(root, job.key).append("start")
            result = work.do(job, _Journalled(root, job.key, connection, isolate, poison_images))
        except Exception as error:  # whatever it was, the supervisor raises it in the caller's process
            _send(connection, ("error", _told(error)))
            continue
        _send(connection, ("done", result))


def _send(connection: Connection, message: tuple[Any, ...]) -> None:
    try:
        connection.send(message)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the supervisor has gone; the next receive says so


def _told(error: Exception) -> Exception:
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

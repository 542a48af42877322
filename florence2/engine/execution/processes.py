"""The runner in supervised processes of this machine. Knows nothing of pictures or of the store's tables.

A job that kills its worker is tried again; after `attempts` deaths, or one hang, it is done one picture at a time, and
the picture that kills even then is given up with its reason. Deaths are journalled, and only those that happened while
the supervisor lived: killing the whole run counts against no job. Starting a worker and loading are not part of its
lease, the time between two heartbeats, learnt for each operator from its own jobs.
"""

from __future__ import annotations

import os
import pickle
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType

from florence2.engine.execution import attempt_journal
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.devices import accelerators
from florence2.engine.execution.fork_template import AVAILABLE, ForkedProcess, ForkTemplate
from florence2.engine.execution.jobs import ATTEMPTS, Job, JobOutcome, OnProgress, Resources

BOOT_S = 600.0  # for a worker to start and load what a job needs
FIRST_LEASE_S = 600.0  # between two signs of life, until the time that they take is known
LEASE_FLOOR_S = 120.0
LEASE_FACTOR = 20  # times the median


@dataclass
class _Worker:
    process: subprocess.Popen[bytes] | ForkedProcess
    connection: Connection
    slot: int  # its place among the workers: which device it is given
    job: Job | None = None
    since: float = 0.0  # when it was given the job, or last gave a sign
    started: float = 0.0  # when it began the job itself; 0 while it loads
    silence: float = 0.0  # the longest time between two signs of this job


class ProcessRunner:
    """Runs jobs in as many processes as `cpus` and `devices` hold, started as they are needed, kept until the end."""

    def __init__(
        self,
        context: WorkerContext,
        cpus: int,
        attempts: int = ATTEMPTS,
        lease_s: float | None = None,
        boot_s: float = BOOT_S,
        devices: Sequence[str] | None = None,
        on_message: Callable[[str], None] | None = None,
    ):
        self.store, self.cpus, self._devices = context.store, cpus, devices
        self.attempts, self.lease_s, self.boot_s, self.on_message = attempts, lease_s, boot_s, on_message
        self._context = context
        self._hello = b""
        self._template: ForkTemplate | None = None
        self._forks = AVAILABLE
        self._workers: list[_Worker] = []
        self._silences: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=100))  # by operator
        self._boot_deaths = 0
        self._shown: set[str] = set()
        self._timeouts: Counter[str] = Counter()

    def __enter__(self) -> ProcessRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
        if self._template is not None:
            self._template.close(at_once=kind is not None)
            self._template = None

    @property
    def devices(self) -> Sequence[str]:
        """The GPUs, searched for when a first operator needs one."""
        if self._devices is None:
            self._devices = accelerators(self._context.device)
        return self._devices

    def workers(self, resources: Resources) -> int:
        """As many as the processors hold; where a GPU is wanted and there are some, as many as these hold."""
        fit = int(self.cpus / resources.num_cpus) if resources.num_cpus > 0 else self.cpus
        if resources.num_gpus > 0 and self.devices:
            fit = int(len(self.devices) / resources.num_gpus)
        return max(1, min(fit, resources.at_once or fit))

    def run(
        self, jobs: Iterable[Job], resources: Resources, on_progress: OnProgress | None = None
    ) -> Iterator[tuple[Job, JobOutcome]]:
        """Each job with its outcome, as they finish."""
        todo, source = deque[Job](), iter(jobs)
        at_once = self.workers(resources)
        while True:
            while job := todo.popleft() if todo else next(source, None):
                worker = self._free(at_once, job.preload)
                if worker is None or not self._give(worker, job, resources):
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
                    yield from self._hear(worker, todo, resources, on_progress)
                elif time.monotonic() - worker.since > self._patience(worker, resources):
                    self._lose(worker, todo, resources, "timeout")

    def _free(self, at_once: int, preload: Callable[[], None] | None) -> _Worker | None:
        """A worker without a job, started if there may be one more; always the same ones until they die."""
        for worker in self._workers[:at_once]:
            if worker.job is None:
                return worker
        if len(self._workers) >= at_once:
            return None
        slot = next(n for n in range(at_once) if n not in {worker.slot for worker in self._workers})
        self._hello = self._hello or _pickled(self._context)
        self._workers.append(self._start(slot, preload))
        return self._workers[-1]

    def _start(self, slot: int, preload: Callable[[], None] | None) -> _Worker:
        """A worker: forked where all need the same, else, or where that fails, a process of its own."""
        forked = self._forked(preload) if preload is not None and self._forks else None
        ours, process = forked or _spawned()
        try:
            ours.send_bytes(self._hello)
        except OSError:
            pass  # it died at once: noticed when it is given a job
        return _Worker(process, ours, slot)

    def _forked(self, preload: Callable[[], None]) -> tuple[Connection, ForkedProcess] | None:
        """A connection to a worker forked from the template; None where that has failed, once and for all."""
        ours, theirs = Pipe()
        try:
            self._template = self._template or ForkTemplate(preload, _environment(), self.boot_s)
            return ours, self._template.fork(theirs)
        except (OSError, EOFError):
            self._forks = False
            ours.close()
            if self._template is not None:
                self._template.close(at_once=True)
            return None
        finally:
            theirs.close()

    def _give(self, worker: _Worker, job: Job, resources: Resources) -> bool:
        device = self.devices[worker.slot % len(self.devices)] if resources.num_gpus > 0 and self.devices else ""
        try:
            worker.connection.send(
                (job, device, *attempt_journal.read(self.store.journal(job.key).lines(), self.attempts))
            )
        except OSError:  # it died while idle
            self._forget(worker)
            return False
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(_UNPICKLED.format(error)) from None
        worker.job, worker.since, worker.started, worker.silence = job, time.monotonic(), 0.0, 0.0
        return True

    def _patience(self, worker: _Worker, resources: Resources) -> float:
        if not worker.started:
            return self.boot_s
        assert worker.job is not None
        more = 2.0 ** min(3, self._timeouts[worker.job.key])  # longer after each timeout: a slow machine is no hang
        if self.lease_s is not None:
            return self.lease_s * more
        known = self._silences[resources.name]
        return (max(LEASE_FLOOR_S, LEASE_FACTOR * statistics.median(known)) if known else FIRST_LEASE_S) * more

    def _hear(
        self, worker: _Worker, todo: deque[Job], resources: Resources, on_progress: OnProgress | None
    ) -> Iterator[tuple[Job, JobOutcome]]:
        try:
            message, *rest = worker.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._lose(worker, todo, resources, "died")
            return
        now = time.monotonic()
        job = worker.job
        assert job is not None
        if message == "start":
            worker.started = now
            self._boot_deaths = 0
        else:
            worker.silence = max(worker.silence, now - worker.since)
        worker.since = now
        if message == "progress" and on_progress:
            on_progress(job, rest[0])
        elif message == "message":
            self._say_once(resources.name, rest[0])
        elif message == "done":
            worker.job = None
            self._silences[resources.name].append(worker.silence)
            yield job, rest[0]
        elif message == "error":
            raise rest[0]

    def _lose(self, worker: _Worker, todo: deque[Job], resources: Resources, cause: str) -> None:
        """Remove a dead worker; its job goes back to the front of the queue. The death counts if it had begun it."""
        job, begun = worker.job, worker.started
        waited = time.monotonic() - worker.since
        code = self._forget(worker)
        assert job is not None
        if begun:
            tries = self.store.journal(job.key)
            tries.append(cause)
            self._timeouts[job.key] += cause == "timeout"
            if attempt_journal.deaths(tries.lines()) > 3 * self.attempts + 2 * job.size:
                raise ChildProcessError(
                    f"{self.store.root}: workers keep dying over unit {job.key}; last exit code {code}"
                )
            what = f"no sign of life for {waited:.0f} s, stopped" if cause == "timeout" else f"died, exit code {code}"
            self._say(f"{resources.name}: a worker with {job.size} pictures: {what}; they are tried again")
        else:
            self._boot_deaths += 1
            if self._boot_deaths >= self.attempts:
                what = f"did not get ready in {self.boot_s:.0f} s" if cause == "timeout" else f"exited with code {code}"
                often = f"{self._boot_deaths} times while loading"
                raise ChildProcessError(f"{self.store.root}: a worker {what}, {often}; run with --workers 0 to see why")
        todo.appendleft(job)

    def _forget(self, worker: _Worker) -> int:
        self._workers.remove(worker)
        worker.process.kill()
        worker.connection.close()
        return worker.process.wait()

    def _say_once(self, name: str, text: str) -> None:
        """The first message of an operator's jobs; the summary counts what follows."""
        if name not in self._shown:
            self._shown.add(name)
            self._say(text)

    def _say(self, text: str) -> None:
        if self.on_message:
            self.on_message(text)


_UNPICKLED = (
    "cannot send this work to a worker process ({}); name specialists as FILE.py:CLASS, write rules in an importable "
    "module, or use workers=0"
)


def _pickled(context: WorkerContext) -> bytes:
    try:
        return pickle.dumps(([path for path in sys.path], pickle.dumps(context)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(_UNPICKLED.format(error)) from None


# The worker's code starts here rather than through multiprocessing's spawn, which would import the caller's script.
_START = "import sys; sys.path[:] = {path!r}; from florence2.engine.execution.worker_process import serve; serve({fd})"


def _environment() -> dict[str, str]:
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return {**threads, **os.environ}  # one thread a worker: scores do not depend on how many workers there are


def _spawned() -> tuple[Connection, subprocess.Popen[bytes]]:
    """A connection to a worker that is a new interpreter."""
    ours, theirs = Pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", _START.format(path=sys.path, fd=theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=2,  # what a library prints must not mix with a command's output
        env=_environment(),
        start_new_session=True,  # Ctrl-C is for the supervisor
    )
    theirs.close()
    return ours, process

"""Workers under supervision, wherever they run: given jobs, listened to, replaced. Knows no pictures and no transport.

A job that kills its worker is tried again; after `attempts` deaths, or one hang, it is done one picture at a time, and
the picture that kills even then is given up with its reason. Deaths are journalled, and only those that happened while
the supervisor lived: killing the whole run counts against no job. Starting a worker and loading are not part of its
lease, the time between two heartbeats, learnt for each operator from its own jobs.
"""

from __future__ import annotations

import pickle
import statistics
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

from florence2.engine.execution import attempt_journal
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.job_worker import Message, unpickled
from florence2.engine.execution.jobs import ATTEMPTS, Job, JobOutcome, OnLost, OnProgress, Resources
from florence2.store import Store

BOOT_S = 600.0  # for a worker to start and load what a job needs
FIRST_LEASE_S = 600.0  # between two signs of life, until the time that they take is known
LEASE_FLOOR_S = 120.0
LEASE_FACTOR = 20  # times the median
GB = 10**9


class WorkerLost(Exception):
    """A worker is gone: it gives no further message."""


@dataclass(frozen=True)
class Ending:
    """How a worker ended, in words, and whether what it was doing may be to blame."""

    how: str
    to_blame: bool = True


class SupervisedWorker(ABC):
    """A worker as its supervisor knows it."""

    def __init__(self, slot: int):
        self.slot = slot  # its place among the workers
        self.ready = True  # can be given a job; else it is being started, elsewhere
        self.job: Job | None = None
        self.since = 0.0  # when it was given the job, or last gave a sign
        self.started = 0.0  # when it began the job itself; 0 while it loads
        self.silence = 0.0  # the longest time between two signs of this job
        self.journalled = 0  # lines in the journal of the job when it was given

    @abstractmethod
    def give(self, job: Job, device: str, isolate: bool, poison_images: dict[int, str]) -> None:
        """Send it a job; WorkerLost where it died while idle."""

    @abstractmethod
    def receive(self) -> Message:
        """Its next message; WorkerLost where it is gone."""

    @abstractmethod
    def end(self) -> Ending:
        """End it at once, if it has not ended."""


W = TypeVar("W", bound=SupervisedWorker)


class Supervisor(ABC, Generic[W]):
    """Runs jobs in workers that are started as they are needed and kept until the end."""

    def __init__(
        self,
        context: WorkerContext,
        attempts: int = ATTEMPTS,
        lease_s: float | None = None,
        boot_s: float = BOOT_S,
        on_message: Callable[[str], None] | None = None,
    ):
        self.context = context
        self.attempts, self.lease_s, self.boot_s, self.on_message = attempts, lease_s, boot_s, on_message
        self.on_lost: OnLost | None = None
        self._workers: list[W] = []
        self._silences: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=100))  # by operator
        self._boot_deaths = 0
        self._shown: set[str] = set()
        self._timeouts: Counter[str] = Counter()

    @abstractmethod
    def workers(self, resources: Resources) -> int:
        """How many jobs with these needs are done at once."""

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    @abstractmethod
    def _start(self, slot: int, job: Job, resources: Resources) -> W:
        """A new worker, which may be for such jobs alone."""

    @abstractmethod
    def _wait(self, workers: Sequence[W], timeout_s: float) -> Collection[W]:
        """Those of the workers that have something to say, or are gone; none when the time is over."""

    def _device(self, worker: W, resources: Resources) -> str:
        """The device a job is done on; "" leaves it to the worker."""
        return ""

    @property
    def _store(self) -> Store:
        return self.context.store

    def run(
        self, jobs: Iterable[Job], resources: Resources, on_progress: OnProgress | None = None
    ) -> Iterator[tuple[Job, JobOutcome]]:
        """Each job with its outcome, as they finish; where the caller stops before the end, jobs that run are ended."""
        try:
            yield from self._run(iter(jobs), resources, on_progress)
        finally:
            for worker in [worker for worker in self._workers if worker.job is not None]:
                self._workers.remove(worker)
                worker.end()

    def _run(
        self, source: Iterator[Job], resources: Resources, on_progress: OnProgress | None
    ) -> Iterator[tuple[Job, JobOutcome]]:
        todo = deque[Job]()
        while True:
            self._hand_out(todo, source, resources)
            heard = [worker for worker in self._workers if worker.job is not None or not worker.ready]
            if not todo and all(worker.job is None for worker in heard):
                return
            ready = self._wait(heard, timeout_s=min(1.0, (self.lease_s or 4.0) / 4))
            for worker in heard:
                if worker in ready:
                    yield from self._hear(worker, todo, resources, on_progress)
                elif worker.job is not None and time.monotonic() - worker.since > self._patience(worker, resources):
                    self._lose(worker, todo, resources, "timeout")

    def _hand_out(self, todo: deque[Job], source: Iterator[Job], resources: Resources) -> None:
        """Give each worker a job, and start workers while there are jobs for them; one job is drawn in advance."""
        at_once = self.workers(resources)
        while True:
            idle = [worker for worker in self._workers[:at_once] if worker.ready and worker.job is None]
            coming = sum(not worker.ready for worker in self._workers)
            if len(todo) <= coming and (job := next(source, None)) is not None:
                todo.append(job)
            if not todo:
                return
            if idle:
                job = todo.popleft()
                if not self._give(idle[0], job, resources):
                    todo.appendleft(job)
            elif len(self._workers) < at_once and len(todo) > coming:
                slot = next(n for n in range(at_once) if n not in {worker.slot for worker in self._workers})
                self._workers.append(self._start(slot, todo[0], resources))
            else:
                return

    def _give(self, worker: W, job: Job, resources: Resources) -> bool:
        lines = self._store.journal(job.key).lines()
        tried = attempt_journal.read(lines, self.attempts)
        try:
            worker.give(job, self._device(worker, resources), *tried)
        except WorkerLost:
            self._workers.remove(worker)
            worker.end()
            return False
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise unpickled(error) from None
        worker.job, worker.since, worker.started, worker.silence = job, time.monotonic(), 0.0, 0.0
        worker.journalled = len(lines)
        return True

    def _patience(self, worker: W, resources: Resources) -> float:
        if not worker.started:
            return self.boot_s
        assert worker.job is not None
        more = 2.0 ** min(3, self._timeouts[worker.job.key])  # longer after each timeout: a slow machine is no hang
        if self.lease_s is not None:
            return self.lease_s * more
        known = self._silences[resources.name]
        return (max(LEASE_FLOOR_S, LEASE_FACTOR * statistics.median(known)) if known else FIRST_LEASE_S) * more

    def _hear(
        self, worker: W, todo: deque[Job], resources: Resources, on_progress: OnProgress | None
    ) -> Iterator[tuple[Job, JobOutcome]]:
        try:
            message, *rest = worker.receive()
        except WorkerLost:
            self._lose(worker, todo, resources, "died")
            return
        now = time.monotonic()
        if message == "ready":
            worker.ready = True
            return
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
            if 0 < resources.memory_gb * GB < rest[1]:  # it leaks: a fresh worker takes its place before memory ends
                self._workers.remove(worker)
                worker.end()
                self._say_once(
                    f"{resources.name}, memory",
                    f"{resources.name}: a worker holds {rest[1] / GB:.1f} GB, over memory_gb; such are replaced",
                )
            yield job, rest[0]
        elif message == "error":
            raise rest[0]

    def _lose(self, worker: W, todo: deque[Job], resources: Resources, cause: str) -> None:
        """Remove a dead worker; its job goes back to the front of the queue. The death counts if it had begun it."""
        job, begun = worker.job, self._had_begun(worker)
        waited = time.monotonic() - worker.since
        self._workers.remove(worker)
        ending = worker.end()
        if job is not None:
            todo.appendleft(job)
        if job is not None and begun:
            self._boot_deaths = 0
            what = f"no sign of life for {waited:.0f} s, stopped" if cause == "timeout" else f"died, {ending.how}"
            if cause == "timeout" or ending.to_blame:
                self._count_death(job, cause, ending)
            if self.on_lost:
                self.on_lost(job, cause, what)
            self._say(f"{resources.name}: a worker with {job.size} pictures: {what}; they are tried again")
        elif ending.to_blame:
            self._boot_deaths += 1
            if self._boot_deaths >= self.attempts:
                what = f"did not get ready in {self.boot_s:.0f} s" if cause == "timeout" else f"ended ({ending.how})"
                often = f"{self._boot_deaths} times while loading"
                raise ChildProcessError(f"{self._where}: a worker {what}, {often}; run with --workers 0 to see why")

    def _had_begun(self, worker: W) -> bool:
        """Whether a worker that is lost had begun its job: as it said, or, where that is lost with it, as it wrote."""
        if worker.started or worker.job is None:
            return bool(worker.started)
        return len(self._store.journal(worker.job.key).lines()) > worker.journalled

    def _count_death(self, job: Job, cause: str, ending: Ending) -> None:
        tries = self._store.journal(job.key)
        tries.append(cause)
        self._timeouts[job.key] += cause == "timeout"
        if attempt_journal.deaths(tries.lines()) > 3 * self.attempts + 2 * job.size:
            raise ChildProcessError(f"{self._where}: workers keep dying over unit {job.key}; last: {ending.how}")

    @property
    def _where(self) -> str:
        return str(self._store.root)

    def _say_once(self, name: str, text: str) -> None:
        """The first message of an operator's jobs; the summary counts what follows."""
        if name not in self._shown:
            self._shown.add(name)
            self._say(text)

    def _say(self, text: str) -> None:
        if self.on_message:
            self.on_message(text)

"""The runner in supervised processes of this machine: how they are started, and how they are spoken to."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from multiprocessing.connection import Connection, Pipe, wait
from types import TracebackType

from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.devices import accelerators
from florence2.engine.execution.fork_template import AVAILABLE, ForkedProcess, ForkTemplate
from florence2.engine.execution.job_worker import Message, pickled
from florence2.engine.execution.jobs import ATTEMPTS, Job, Resources
from florence2.engine.execution.supervision import BOOT_S, Ending, SupervisedWorker, Supervisor, WorkerLost


class ProcessWorker(SupervisedWorker):
    """A process at the other end of a pipe."""

    def __init__(self, process: subprocess.Popen[bytes] | ForkedProcess, connection: Connection, slot: int):
        super().__init__(slot)
        self.process, self.connection = process, connection

    def give(self, job: Job, device: str, isolate: bool, poison_images: dict[int, str]) -> None:
        """Send it a job."""
        try:
            self.connection.send((job, device, isolate, poison_images))
        except OSError as error:
            raise WorkerLost(str(error)) from None

    def receive(self) -> Message:
        """What it sent."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise WorkerLost(str(error)) from None
        return message

    def end(self) -> Ending:
        """Kill it."""
        self.process.kill()
        self.connection.close()
        return Ending(f"exit code {self.process.wait()}")


class ProcessRunner(Supervisor[ProcessWorker]):
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
        super().__init__(context, attempts, lease_s, boot_s, on_message)
        self.cpus, self._devices = cpus, devices
        self._hello = b""
        self._template: ForkTemplate | None = None
        self._forks = AVAILABLE

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
            self._devices = accelerators(self.context.device)
        return self._devices

    def workers(self, resources: Resources) -> int:
        """As many as the processors hold; where a GPU is wanted and there are some, as many as these hold."""
        fit = int(self.cpus / resources.num_cpus) if resources.num_cpus > 0 else self.cpus
        if resources.num_gpus > 0 and self.devices:
            fit = int(len(self.devices) / resources.num_gpus)
        return max(1, min(fit, resources.at_once or fit))

    def _start(self, slot: int, job: Job, resources: Resources) -> ProcessWorker:
        """A worker: forked where all need the same, else, or where that fails, a process of its own."""
        self._hello = self._hello or pickle.dumps(pickled(self.context))
        forked = self._forked(job.preload) if job.preload is not None and self._forks else None
        ours, process = forked or _spawned()
        try:
            ours.send_bytes(self._hello)
        except OSError:
            pass  # it died at once: noticed when it is given a job
        return ProcessWorker(process, ours, slot)

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

    def _wait(self, workers: Sequence[ProcessWorker], timeout_s: float) -> Collection[ProcessWorker]:
        ready = wait([worker.connection for worker in workers], timeout=timeout_s)
        return [worker for worker in workers if worker.connection in ready]

    def _device(self, worker: ProcessWorker, resources: Resources) -> str:
        return self.devices[worker.slot % len(self.devices)] if resources.num_gpus > 0 and self.devices else ""


# The worker's code starts here rather than through multiprocessing's spawn, which would import the caller's script.
_START = "import sys; sys.path[:] = {path!r}; from florence2.engine.execution.worker_process import serve; serve({fd})"
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def _environment() -> dict[str, str]:
    return {**THREADS, **os.environ}  # one thread a worker: scores do not depend on how many workers there are


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

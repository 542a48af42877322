"""The runner in this process: one job after another, for small work and for debugging. A crash takes it along."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType

from florence2.engine.execution.context import NullHeartbeat, WorkerContext
from florence2.engine.execution.jobs import Job, JobOutcome, OnProgress, Resources


class InlineRunner:
    """Runs jobs here, in order."""

    def __init__(self, context: WorkerContext, on_message: Callable[[str], None] | None = None):
        self.context, self.on_message = context, on_message
        self.shown: set[str] = set()

    def __enter__(self) -> InlineRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.context.close()

    def workers(self, resources: Resources) -> int:
        """Always one."""
        return 1

    def run(
        self, jobs: Iterable[Job], resources: Resources, on_progress: OnProgress | None = None
    ) -> Iterator[tuple[Job, JobOutcome]]:
        """Each job with its outcome, in order."""
        for job in jobs:
            self.context.prepare(job.specialist, job.operator)
            self.context.heartbeat = _InlineHeartbeat(self, job, resources, on_progress)
            begun = time.perf_counter()
            outcome = job.task.do(self.context.store, self.context)
            yield job, dataclasses.replace(outcome, took_s=time.perf_counter() - begun)


class _InlineHeartbeat(NullHeartbeat):
    def __init__(self, runner: InlineRunner, job: Job, resources: Resources, on_progress: OnProgress | None):
        super().__init__()
        self.runner, self.job, self.name, self.on_progress = runner, job, resources.name, on_progress
        self.done = 0

    def progress(self, pictures: int) -> None:
        self.done += pictures
        if self.on_progress:
            self.on_progress(self.job, self.done)

    def message(self, text: str) -> None:
        if self.runner.on_message and self.name not in self.runner.shown:
            self.runner.shown.add(self.name)
            self.runner.on_message(text)

"""A phase of a command: jobs run by a runner, their fragments noted, the pictures counted as they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.options import Progress
from florence2.engine.session import Session


@dataclass
class Count:
    """How many of a phase's pictures are done: by jobs that ended, and by those that run."""

    name: str
    total: int
    progress: Progress | None = None
    done: int = 0
    running: dict[str, int] = field(default_factory=dict)

    def skip(self, pictures: int) -> None:
        """Pictures whose work was found done."""
        self.done += pictures
        self.show()

    def partly(self, job: Job, pictures: int) -> None:
        """A running job has done so many."""
        self.running[job.key] = min(pictures, job.size)
        self.show()

    def ended(self, job: Job) -> None:
        """A job is done."""
        self.running.pop(job.key, None)
        self.skip(job.size)

    def show(self) -> None:
        """Report it."""
        if self.progress:
            self.progress(self.name, min(self.total, self.done + sum(self.running.values())), self.total)


def run_phase(
    session: Session, runner: Runner, jobs: Iterable[Job], resources: Resources, count: Count
) -> Iterator[tuple[Job, JobOutcome]]:
    """Each job with its outcome, its fragments noted as the command's."""
    count.show()
    for job, outcome in runner.run(jobs, resources, count.partly):
        session.add(outcome.fragments)
        count.ended(job)
        yield job, outcome


def complete(
    session: Session, runner: Runner, jobs: Callable[[Count], Iterable[Job]], resources: Resources, count: Count
) -> None:
    """Run all jobs of a phase of which only the fragments are wanted; `jobs` counts the pictures that it skips."""
    for _ in run_phase(session, runner, jobs(count), resources, count):
        pass

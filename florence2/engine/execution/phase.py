"""A phase of a command: jobs run by a runner, their fragments noted, the pictures counted as they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.options import Progress
from florence2.engine.session import Session
from florence2.monitoring.run_journal import NOT_TAKEN, RunJournal


@dataclass
class Count:
    """How many of a phase's pictures are done: by jobs that ended, and by those that run."""

    name: str
    total: int
    progress: Progress | None = None
    done: int = 0
    found: int = 0  # of these, before this run
    journal: RunJournal = NOT_TAKEN
    running: dict[str, int] = field(default_factory=dict)

    def skip(self, pictures: int) -> None:
        """Pictures whose work was found done."""
        self.done, self.found = self.done + pictures, self.found + pictures
        self.show()

    def partly(self, job: Job, pictures: int) -> None:
        """A running job has done so many."""
        self.running[job.key] = min(pictures, job.size)
        self.show()

    def ended(self, job: Job) -> None:
        """A job is done."""
        self.running.pop(job.key, None)
        self.done += job.size
        self.show()

    def show(self) -> None:
        """Report it."""
        done = min(self.total, self.done + sum(self.running.values()))
        self.journal.counted(max(0, done - self.found), self.found)
        if self.progress:
            self.progress(self.name, done, self.total)


def run_phase(
    session: Session, runner: Runner, jobs: Iterable[Job], resources: Resources, count: Count, operator: str = ""
) -> Iterator[tuple[Job, JobOutcome]]:
    """Each job with its outcome, its fragments noted as the command's; `operator`: the run whose rate is learnt."""
    journal = count.journal = session.journal
    journal.phase(count.name, count.total, operator or count.name, runner.workers(resources))
    count.show()
    for job, outcome in runner.run(jobs, resources, count.partly):
        session.add(outcome.fragments)
        rows = sum(fragment.rows for fragment in outcome.fragments)
        journal.unit(job.key, job.size, len(outcome.fragments), rows, outcome.took_s, outcome.seconds)
        count.ended(job)
        yield job, outcome


def complete(
    session: Session, runner: Runner, jobs: Callable[[Count], Iterable[Job]], resources: Resources, count: Count
) -> None:
    """Run all jobs of a phase of which only the fragments are wanted; `jobs` counts the pictures that it skips."""
    for _ in run_phase(session, runner, jobs(count), resources, count):
        pass

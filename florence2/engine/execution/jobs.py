"""What is run, apart from any runner: a job, the task in it, what it needs, and what comes of it.

An engine may run a job more than once; a task therefore names what it writes by its inputs, and the store takes the
first of equals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

from florence2.engine.execution.context import WorkerContext
from florence2.engine.operator import Specialist
from florence2.store import Fragment, Store

ATTEMPTS = 3  # deaths of a job before its pictures are tried one at a time


@dataclass(frozen=True)
class JobOutcome:
    """What came of a job: the fragments it committed, seconds by what they went into, and plain facts."""

    fragments: tuple[Fragment, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Any = None
    took_s: float = 0.0  # on the worker, of the job alone


class WorkTask(Protocol):
    """A piece of a phase's work; it is pickled to a worker, and holds references, never pixels."""

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Do it, and commit what came of it."""


@dataclass(frozen=True)
class Job:
    """A task, the name of its journal, for how many pictures it counts, and the specialist that it needs."""

    key: str
    size: int
    task: WorkTask
    specialist: str | Specialist | None = None  # by name, or as an object
    operator: str = ""  # the run that the specialist works for: a worker loads it once
    preload: Callable[[], None] | None = None  # what all workers need, where it holds no thread and no device


@dataclass(frozen=True)
class Resources:
    """What one job at a time of an operator takes of a machine; runners hold as many workers as fit."""

    name: str  # whose work it is: for what is learnt of it, and for messages
    num_cpus: float = 1
    num_gpus: float = 0
    memory_gb: float = 0  # 0: not known
    at_once: int = 0  # no more jobs together than this; 0: as many as fit


OnProgress = Callable[[Job, int], None]  # so many pictures of a job are done
OnLost = Callable[[Job, str, str], None]  # a job's worker was lost: the cause as a word, and in words


class Runner(Protocol):
    """Runs jobs, here or elsewhere: at least once each, in any order."""

    def workers(self, resources: Resources) -> int:
        """How many jobs with these needs it does at once."""

    def run(
        self, jobs: Iterable[Job], resources: Resources, on_progress: OnProgress | None = None
    ) -> Iterator[tuple[Job, JobOutcome]]:
        """Each job with its outcome, as they finish; jobs are drawn as there is room for them."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

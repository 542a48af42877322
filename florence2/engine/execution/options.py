"""How the work of a command is run: by which runner, on how much of the machine."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2 import arguments
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.devices import AUTO, accelerators
from florence2.engine.execution.inline import InlineRunner
from florence2.engine.execution.jobs import ATTEMPTS, Runner
from florence2.engine.execution.processes import ProcessRunner
from florence2.engine.operator import Filter
from florence2.store import Snapshot

Progress = Callable[[str, int, int], None]  # what is being done, pictures done, pictures in all


@dataclass(frozen=True)
class Execution:
    """Processes (0: in this one), their lease, how often a job may kill its worker, where messages go."""

    workers: int | None = None
    lease_s: float | None = None
    attempts: int = ATTEMPTS
    device: str = AUTO
    progress: Progress | None = None
    on_message: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if self.workers is not None:
            arguments.whole("workers", self.workers, least=0)
        if self.lease_s is not None:
            arguments.above_zero("lease_s", self.lease_s)
        arguments.whole("attempts", self.attempts, least=1)

    def runner(self, root: Path, restoring: Mapping[str, str] | None = None) -> Runner:
        """The runner for a store."""
        context = WorkerContext(root, self.device, restoring)
        if self.device != AUTO:
            accelerators(self.device)  # refused before anything is done
        if self.workers == 0:
            return InlineRunner(context, self.on_message)
        cpus = self.workers or _cpus()
        return ProcessRunner(context, cpus, self.attempts, self.lease_s, on_message=self.on_message)

    def for_rules(self, chain: Sequence[Filter], snapshot: Snapshot) -> Execution:
        """As it is for judging: in this process, unless workers are named, where others would be of no use.

        There is none for a single unit, and another process may not be able to import rules that are not the engine's.
        """
        few = len(snapshot.of("images")) < 2
        own = any(not type(rule).__module__.startswith("florence2.") for rule in chain)
        return dataclasses.replace(self, workers=0) if self.workers is None and (few or own) else self

    def message(self, text: str) -> None:
        """A line for the user's screen."""
        if self.on_message:
            self.on_message(text)


def _cpus() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

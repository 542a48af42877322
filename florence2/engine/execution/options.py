"""How the work of a command is run: by which runner, on how much of the machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2 import arguments
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.devices import AUTO, accelerators
from florence2.engine.execution.inline import InlineRunner
from florence2.engine.execution.jobs import ATTEMPTS, Job, Runner
from florence2.engine.execution.processes import ProcessRunner
from florence2.engine.operator import Filter
from florence2.monitoring.run_journal import NOT_TAKEN, RunJournal
from florence2.store import Snapshot

RUNNERS = ("local", "ray")
Progress = Callable[[str, int, int], None]  # what is being done, pictures done, pictures in all


@dataclass(frozen=True)
class Execution:
    """Processes or actors (0: in this process), their lease, how often a job may kill its worker, where messages go."""

    workers: int | None = None
    lease_s: float | None = None
    attempts: int = ATTEMPTS
    device: str = AUTO
    progress: Progress | None = None
    on_message: Callable[[str], None] | None = None
    kind: str = "local"  # or "ray"
    ray_address: str | None = None  # of a cluster; None: RAY_ADDRESS, else a Ray of this command's own
    journal: RunJournal = NOT_TAKEN

    def __post_init__(self) -> None:
        if self.workers is not None:
            arguments.whole("workers", self.workers, least=0)
        if self.lease_s is not None:
            arguments.above_zero("lease_s", self.lease_s)
        arguments.whole("attempts", self.attempts, least=1)
        if self.kind not in RUNNERS:
            raise ValueError(f"runner {self.kind!r}: expected {' or '.join(RUNNERS)}")
        if self.ray_address and self.kind != "ray":
            raise ValueError(f"ray_address {self.ray_address!r}: names a Ray cluster; it goes with runner ray")
        if self.workers == 0 and self.kind == "ray":
            raise ValueError(
                "workers 0: is this process alone; with runner ray name 1 or more, or none for all there is"
            )

    def runner(self, root: Path, restoring: Mapping[str, str] | None = None) -> Runner:
        """The runner for a store."""
        context = WorkerContext(root, self.device, restoring)
        if self.kind == "ray":
            from florence2.engine.execution.ray import RayRunner

            actors = RayRunner(
                context, self.workers, self.ray_address, self.attempts, self.lease_s, on_message=self.message
            )
            actors.on_lost = self._lost
            return actors
        if self.device != AUTO:
            accelerators(self.device)  # refused before anything is done
        if self.workers == 0:
            return InlineRunner(context, self.message)
        cpus = self.workers or arguments.processors()
        processes = ProcessRunner(context, cpus, self.attempts, self.lease_s, on_message=self.message)
        processes.on_lost = self._lost
        return processes

    def _lost(self, job: Job, cause: str, how: str) -> None:
        self.journal.retried(cause, job.size, how)

    def for_rules(self, chain: Sequence[Filter], snapshot: Snapshot) -> Execution:
        """As it is for judging: in this process, unless workers are named, where others would be of no use.

        There is none for a single unit, and another process may not be able to import rules that are not the engine's.
        """
        if self.kind != "local":
            return self
        few = len(snapshot.of("images")) < 2
        own = any(not type(rule).__module__.startswith("florence2.") for rule in chain)
        return dataclasses.replace(self, workers=0) if self.workers is None and (few or own) else self

    def message(self, text: str) -> None:
        """A line for the user's screen."""
        self.journal.message(text)
        if self.on_message:
            self.on_message(text)

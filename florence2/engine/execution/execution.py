"""How the work of a command is run: by which runner, with how many processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from florence2.engine.execution.processes import ATTEMPTS, InlineRunner, ProcessRunner
from florence2.engine.execution.worker import WorkerContext

Progress = Callable[[str, int, int], None]  # what is being done, pictures done, pictures in all


@dataclass(frozen=True)
class Execution:
    """How units are run: processes (0 = in this one), how long a unit may take, how often it may kill its worker."""

    workers: int | None = None
    lease_s: float | None = None
    attempts: int = ATTEMPTS
    device: str = "cpu"
    progress: Progress | None = None
    on_message: Callable[[str], None] | None = None

    def pool(self, work: WorkerContext, pictures: int, unit: int) -> InlineRunner | ProcessRunner:
        """The runner for this much work."""
        if self.workers == 0:
            return InlineRunner(work)
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers: expected 0 (none) or more, got {self.workers}")
        limit = self.workers or os.cpu_count() or 1
        needed = max(1, -(-pictures // unit))
        return ProcessRunner(work, work.root, min(limit, needed), self.attempts, self.lease_s)

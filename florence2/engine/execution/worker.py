"""What a worker holds: the store, and the one specialist it has loaded. It is sent to workers by pickle, unloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from florence2.engine.execution.processes import Heartbeat, Job
from florence2.engine.operator import Specialist
from florence2.store import Store


class WorkerTask(Protocol):
    """A job's payload: which specialist it needs (an index, -1 for none), and how it is done."""

    specialist: int

    def do(self, store: Store, specialist: Specialist | None, heartbeat: Heartbeat) -> Any:
        """Do it."""


class WorkerContext:
    """Opens a specialist when its first unit comes, and closes the one before."""

    def __init__(self, root: Path, specialists: Sequence[str | Specialist] = (), device: str = "cpu"):
        self.root, self.specialists, self.device = root, list(specialists), device
        self._open: tuple[int, Specialist] | None = None
        self._store: Store | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "specialists": self.specialists, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _open=None, _store=None)

    def prepare(self, job: Job) -> None:
        """Load the job's specialist."""
        wanted = job.payload.specialist
        if wanted < 0 or (self._open is not None and self._open[0] == wanted):
            return
        self.close()
        specialist = resolve_specialist(self.specialists[wanted])
        specialist.setup(self.device)
        self._open = wanted, specialist

    def do(self, job: Job, heartbeat: Heartbeat) -> Any:
        """Do the job."""
        self._store = self._store or Store(self.root)
        task: WorkerTask = job.payload
        return task.do(self._store, self._open[1] if self._open else None, heartbeat)

    def close(self) -> None:
        """Let go of the specialist that is loaded."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


def resolve_specialist(specialist: str | Specialist) -> Specialist:
    """A specialist from its name, or from an object."""
    from florence2.engine.specialists import as_specialist

    return as_specialist(specialist)

"""What a task finds where it runs: a specialist, loaded once, and a heartbeat. Sent to workers by pickle, unloaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from florence2.engine.execution.devices import AUTO, accelerators
from florence2.engine.operator import Specialist
from florence2.store import Store


class Heartbeat(Protocol):
    """What a task reports while it runs, and what earlier attempts at it have found."""

    isolate: bool  # do the pictures one by one
    poison_images: dict[int, str]  # picture -> reason, for pictures that killed a worker when tried alone

    def progress(self, pictures: int) -> None:
        """Say that so many of the job's pictures are done."""

    def image(self, index: int) -> None:
        """Say, before trying it alone, which picture comes next."""

    def message(self, text: str) -> None:
        """A line for the user's screen."""

    def writing(self) -> None:
        """Say that the pictures are done and the results are being written."""


@dataclass
class NullHeartbeat:
    """Of a job that runs in this process: it needs no sign of life."""

    isolate: bool = False
    poison_images: dict[int, str] = field(default_factory=dict)

    def progress(self, pictures: int) -> None:
        """Not reported."""

    def image(self, index: int) -> None:
        """Not reported."""

    def message(self, text: str) -> None:
        """Not reported."""

    def writing(self) -> None:
        """Not reported."""


class WorkerContext:
    """The store's folder, the specialist that is loaded now, and the heartbeat of the job at hand."""

    def __init__(self, root: Path, device: str = AUTO, restoring: Mapping[str, str] | None = None):
        self.root, self.device, self.restoring = root, device, restoring
        self.heartbeat: Heartbeat = NullHeartbeat()
        self._open: tuple[str, str, Specialist] | None = None
        self._store: Store | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "device": self.device, "restoring": self.restoring}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, heartbeat=NullHeartbeat(), _open=None, _store=None)

    @property
    def specialist(self) -> Specialist:
        """The one that is loaded."""
        assert self._open is not None
        return self._open[2]

    @property
    def store(self) -> Store:
        """The store, opened once."""
        self._store = self._store or Store(self.root, restoring=self.restoring)
        return self._store

    def prepare(self, specialist: str | Specialist | None, operator: str, device: str = "") -> None:
        """Load the specialist of an operator (None: none is needed), and close the one before."""
        if specialist is None or (self._open is not None and self._open[:2] == (operator, device)):
            return
        self.close()
        found = resolve_specialist(specialist)
        found.setup(device or self._device_for(found))
        self._open = operator, device, found

    def _device_for(self, specialist: Specialist) -> str:
        """The device as named; where it is not, the first GPU there is for one that wants a GPU."""
        if self.device != AUTO:
            return self.device
        return next(iter(accelerators(AUTO)), "cpu") if specialist.spec.num_gpus > 0 else "cpu"

    def close(self) -> None:
        """Let go of the specialist that is loaded."""
        if self._open is not None:
            self._open[2].close()
            self._open = None


def resolve_specialist(specialist: str | Specialist) -> Specialist:
    """A specialist from its name, or from an object."""
    from florence2.engine.specialists import as_specialist

    return as_specialist(specialist)

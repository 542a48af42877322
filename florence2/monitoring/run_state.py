"""What a run of a command has done so far, phase by phase; from it come its rate and the time that it will still take.

Plain data, to and from JSON. Seconds are measured by a clock that does not jump; times of day are Unix times.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from florence2.structuring import structure

RUNNING, ENDED, FAILED, INTERRUPTED = OUTCOMES = ("running", "ended", "failed", "interrupted")
EARLIER_S = 60.0  # of earlier runs' time that counts beside what this run has measured itself


@dataclass
class PhaseState:
    """One phase: inspecting, one specialist, judging, merging, training. It counts pictures, or steps of training."""

    name: str
    total: int = 0
    operator: str = ""  # the run id of the store's operator: what is measured is kept for its later runs
    workers: int = 1
    found: int = 0  # done before this run
    done: int = 0  # by this run
    failures: dict[str, int] = field(default_factory=dict)  # reason -> items of this run
    quarantined: int = 0  # left alone, as they failed in three runs
    retries: dict[str, int] = field(default_factory=dict)  # cause -> jobs given out again, as their worker was lost
    fragments: int = 0
    rows: int = 0
    busy_s: float = 0.0  # of all workers, at jobs that ended
    measured_items: int = 0  # since the first sign, which comes after loading
    measured_s: float = 0.0
    earlier_items: float = 0.0  # of one worker in earlier runs, in `earlier_s`
    earlier_s: float = 0.0
    ended: bool = False
    given_up: str = ""

    @property
    def left(self) -> int:
        """Items that are neither found nor done."""
        return max(0, self.total - self.found - self.done)

    @property
    def rate(self) -> float | None:
        """Items a second: as measured in this run, at first in earlier ones too; None where nothing is known."""
        weight = min(self.earlier_s, EARLIER_S)
        items, seconds = float(self.measured_items), self.measured_s + weight
        if weight:
            items += self.earlier_items / self.earlier_s * weight * self.workers
        return items / seconds if seconds > 0 and items > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """The time until its end at that rate; None while nothing is known of it."""
        if self.ended or not self.left:
            return 0.0
        return self.left / self.rate if self.rate else None


@dataclass
class RunState:
    """A run of a command, from its beginning to now."""

    run: str = ""
    command: str = ""
    version: str = ""
    place: str = ""  # the store, or the folder of a training run
    host: str = ""
    pid: int = 0
    pid_started: str = ""  # by the system's count, so that a later process of the same number is not taken for it
    began: float = 0.0
    updated: float = 0.0
    outcome: str = RUNNING
    error: str = ""
    snapshot: int = 0  # the last one that it committed
    snapshots: int = 0
    phases: list[PhaseState] = field(default_factory=list)
    upcoming: list[str] = field(default_factory=list)  # phases that are known to follow
    values: dict[str, float] = field(default_factory=dict)  # of training: the newest value of each of its figures

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def from_json(data: Any, where: str) -> RunState:
        """What `to_json` gave; ValueError names what is not."""
        state = structure(RunState, data, where)
        if state.outcome not in OUTCOMES:
            raise ValueError(f"{where}: outcome {state.outcome!r:.40}; expected one of {', '.join(OUTCOMES)}")
        return state

    @property
    def phase(self) -> PhaseState | None:
        """The phase that it is in; None before the first and after the last."""
        return next((phase for phase in reversed(self.phases) if not phase.ended), None)

    def is_alive(self) -> bool | None:
        """Whether its process runs; None where that is another machine's to say."""
        if self.outcome != RUNNING:
            return False
        if self.host != socket.gethostname():
            return None
        return process_started(self.pid) == self.pid_started if self.pid_started else _is_there(self.pid)


def process_started(pid: int) -> str:
    """When a process of this machine started, as the system counts; "" without one, or where it does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

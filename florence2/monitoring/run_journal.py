"""The journal of a run: every event goes through it, so that state, log, metrics and time left say the same.

Sinks get each event as a line, or the state every few seconds. One that cannot be written is told of, and tried again
with what comes next: a run of days does not end because of its log, nor is it silent for ever because of a bad minute.
"""

from __future__ import annotations

import copy
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from florence2.monitoring.run_state import ENDED, RUNNING, PhaseState, RunState, process_started

TRAINING = "training"  # the phase whose items are steps
EVERY_S = 5.0  # between two looks of a sink at the state
STAMP = "%Y%m%dT%H%M%SZ"

# event -> what its line says, beside `time`, `run` and `event`
EVENTS: dict[str, dict[str, type]] = {
    "run_started": {"command": str, "place": str, "version": str, "host": str, "pid": int},
    "phase_started": {"phase": str, "total": int, "workers": int, "operator": str},
    "unit_committed": {
        "phase": str,
        "unit": str,
        "items": int,
        "fragments": int,
        "rows": int,
        "seconds": float,
        "parts": dict,
    },
    "items_failed": {"phase": str, "unit": str, "reasons": dict},
    "job_retried": {"phase": str, "cause": str, "items": int, "detail": str},
    "quarantined": {"phase": str, "items": int},
    "given_up": {"phase": str, "detail": str},
    "phase_ended": {"phase": str, "items": int, "found": int, "failed": int, "seconds": float},
    "snapshot_committed": {"snapshot": int, "fragments": int},
    "begun_again": {"detail": str},
    "training_step": {"phase": str, "step": int, "values": dict},
    "message": {"text": str},
    "run_ended": {"outcome": str, "error": str, "seconds": float},
}


class RunSink:
    """Whoever wants to know: override what is of interest."""

    def event(self, line: Mapping[str, Any]) -> None:
        """Something happened."""

    def state(self, state: RunState) -> None:
        """How it stands: at the beginning, every few seconds, and at the end."""

    def close(self) -> None:
        """The run has ended."""


class RunJournal:
    """Takes down what one run of a command does. Silent until `begin`, and without sinks."""

    def __init__(self, sinks: Sequence[RunSink] = (), on_message: Callable[[str], None] | None = None):
        self.on_message = on_message
        self._now = RunState()
        self._earlier: dict[str, tuple[float, float]] = {}
        self._sinks = list(sinks)
        self._failing: set[tuple[int, str]] = (
            set()
        )  # sinks that did not take what they were told last, and of what kind
        self._lock = threading.RLock()  # the ticker reads what the run writes
        self._publishing = threading.RLock()  # states go out in order; where that takes long, the run need not wait
        self._stop = threading.Event()
        self._began = self._phase_began = self._first_sign = 0.0
        self._first_done: int | None = None

    @property
    def begun(self) -> bool:
        """Whether the run has begun and not ended."""
        return bool(self._now.run) and self._now.outcome == RUNNING

    @property
    def now(self) -> RunState:
        """How the run stands."""
        return self._now

    def add(self, sink: RunSink) -> None:
        """One more that wants to know."""
        with self._lock:
            self._sinks.append(sink)

    def begin(
        self,
        command: str,
        place: str,
        version: str,
        earlier: Mapping[str, tuple[float, float]] | None = None,
        after: str = "",
    ) -> None:
        """The run begins; `earlier`: of an operator's earlier runs the items of one worker, and in how many seconds.

        Its id comes after that of the run `after`, whatever the clock says.
        """
        self._earlier = dict(earlier or {})
        self._began, began, pid = time.monotonic(), time.time(), os.getpid()
        run = f"{_stamp(began, after)}-{command}-{os.urandom(3).hex()}"
        self._now = RunState(run, command, version, place, socket.gethostname(), pid, process_started(pid), began)
        more = {"command": command, "place": place, "version": version, "host": self._now.host, "pid": pid}
        self._take("run_started", more, publish=True)
        self._stop = threading.Event()
        if self._sinks:
            threading.Thread(target=self._tick, args=(self._stop,), daemon=True).start()

    def end(self, outcome: str = ENDED, error: str = "") -> None:
        """The run is over; `outcome` says how. Nothing happens where it never began."""
        if not self.begun:
            return
        self._end_phase()
        self._stop.set()
        with self._lock:
            self._now.outcome, self._now.error = outcome, error
            seconds = time.monotonic() - self._began
        self._take("run_ended", {"outcome": outcome, "error": error, "seconds": seconds}, publish=True)
        self._tell("close")

    def phase(self, name: str, total: int, operator: str = "", workers: int = 1) -> None:
        """A phase begins, and the one before has ended; `operator`: under what its rate is kept for later runs."""
        if not self.begun:
            return
        self._end_phase()
        items, seconds = self._earlier.get(operator, (0.0, 0.0))
        with self._lock:
            self._phase_began, self._first_done = time.monotonic(), None
            state = PhaseState(name, total, operator, workers, earlier_items=items, earlier_s=seconds)
            self._now.phases.append(state)
            self._now.upcoming = [each for each in self._now.upcoming if each != name]
        self._take("phase_started", {"phase": name, "total": total, "workers": workers, "operator": operator})

    def _end_phase(self) -> None:
        with self._lock:
            phase = self._now.phase
            if phase is None:
                return
            phase.ended = True
        failed, seconds = sum(phase.failures.values()), time.monotonic() - self._phase_began
        counts = {"items": phase.done, "found": phase.found, "failed": failed, "seconds": seconds}
        self._take("phase_ended", {"phase": phase.name, **counts})

    def counted(self, done: int, found: int) -> None:
        """So many items of the phase are done by this run, and so many were done before."""
        with self._lock:
            phase, now = self._now.phase, time.monotonic()
            if phase is None:
                return
            phase.done, phase.found = done, found
            if not done:
                return
            if self._first_done is None:
                self._first_done, self._first_sign = done, now
            phase.measured_items, phase.measured_s = done - self._first_done, now - self._first_sign

    def unit(
        self, name: str, items: int, fragments: int, rows: int, seconds: float, parts: Mapping[str, float]
    ) -> None:
        """A job is done; `parts`: what its seconds went into, where that is known."""
        with self._lock:
            phase = self._now.phase
            if phase is None:
                return
            phase.fragments, phase.rows = phase.fragments + fragments, phase.rows + rows
            phase.busy_s += seconds
        about: dict[str, Any] = {"unit": name, "items": items, "fragments": fragments, "rows": rows, "seconds": seconds}
        about["parts"] = {part: round(value, 6) for part, value in parts.items()}
        self._take("unit_committed", {"phase": phase.name, **about})

    def failed(self, unit: str, reasons: Mapping[str, int]) -> None:
        """Items of a unit gave nothing, by reason."""
        with self._lock:
            phase = self._now.phase
            if phase is None or not reasons:
                return
            for reason, count in reasons.items():
                phase.failures[reason] = phase.failures.get(reason, 0) + count
        self._take("items_failed", {"phase": phase.name, "unit": unit, "reasons": dict(reasons)})

    def retried(self, cause: str, items: int, detail: str) -> None:
        """A job is given out again, as its worker was lost."""
        with self._lock:
            phase = self._now.phase
            if phase is None:
                return
            phase.retries[cause] = phase.retries.get(cause, 0) + 1
        self._take("job_retried", {"phase": phase.name, "cause": cause, "items": items, "detail": detail})

    def quarantined(self, items: int) -> None:
        """So many items of the phase are left alone."""
        phase = self._now.phase
        if phase is not None and items:
            phase.quarantined = items
            self._take("quarantined", {"phase": phase.name, "items": items})

    def given_up(self, why: str) -> None:
        """The phase is ended before its time."""
        phase = self._now.phase
        if phase is not None:
            phase.given_up = why
            self._take("given_up", {"phase": phase.name, "detail": why})

    def upcoming(self, names: Sequence[str]) -> None:
        """Phases that will follow."""
        if not self.begun:
            return
        with self._lock:
            self._now.upcoming = list(names)

    def snapshot(self, number: int, fragments: int) -> None:
        """A snapshot was committed."""
        if not self.begun:
            return
        with self._lock:
            self._now.snapshot, self._now.snapshots = number, self._now.snapshots + 1
        self._take("snapshot_committed", {"snapshot": number, "fragments": fragments}, publish=True)

    def begun_again(self, why: str) -> None:
        """The command starts over on the newest snapshot."""
        self._end_phase()
        self._take("begun_again", {"detail": why})

    def training_step(self, step: int, steps: int, values: Mapping[str, float]) -> None:
        """A step of training, counted from 1, and its figures; the first one begins the phase."""
        phase = self._now.phase
        if phase is None or phase.name != TRAINING or step <= phase.found + phase.done:  # another student
            self.phase(TRAINING, steps, TRAINING)
            phase = self._now.phase
            if phase is None:
                return
            phase.found = step - 1
        with self._lock:
            self._now.values.update(values)
        self.counted(step - phase.found, phase.found)
        self._take("training_step", {"phase": phase.name, "step": step, "values": dict(values)})

    def message(self, text: str) -> None:
        """A line that the user is shown, too."""
        self._take("message", {"text": text})

    def _take(self, event: str, more: Mapping[str, Any], publish: bool = False) -> None:
        if not self._now.run:
            return
        stamp = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": stamp, "run": self._now.run, "event": event, **more}
        with self._lock:
            self._tell("event", line)
        if publish:
            self._publish()

    def _publish(self, stop: threading.Event | None = None) -> None:
        with self._publishing:
            if stop is not None and stop.is_set():
                return  # the run has said its last
            with self._lock:
                self._now.updated = time.time()
                now = copy.deepcopy(self._now)
            self._tell("state", now)

    def _tell(self, kind: str, *what: Any) -> None:
        for sink in list(self._sinks):
            key = id(sink), kind
            try:
                getattr(sink, kind)(*what)
            except OSError as error:
                if key not in self._failing and self.on_message:
                    self.on_message(f"{error}; the run goes on and tries to write it again")
                self._failing.add(key)
            else:
                self._failing.discard(key)

    def _tick(self, stop: threading.Event) -> None:
        while not stop.wait(EVERY_S):
            self._publish(stop)


def _stamp(began: float, after: str) -> str:
    """When a run began, as its id says it: ids sort as runs followed one another, also where a clock was set back."""
    stamp = f"{datetime.fromtimestamp(began, timezone.utc):{STAMP}}"
    if stamp > after[: len(stamp)]:
        return stamp
    try:
        last = datetime.strptime(after[: len(stamp)], STAMP)
        return f"{last + timedelta(seconds=1):{STAMP}}"
    except (ValueError, OverflowError):  # no id of ours
        return stamp


NOT_TAKEN = RunJournal()  # of work that is no run of a command: it has not begun, and nothing is taken down

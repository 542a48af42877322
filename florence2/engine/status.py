"""How a store stands, read from outside: what each specialist has done of its pictures, and what its last run says.

Reads only: it takes no lock and writes nothing, so that it can be asked while a run goes on.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florence2.engine.execution.annotation_phase import PASSING, QUARANTINED_AFTER
from florence2.engine.inputs import UnitInputs
from florence2.engine.planning.dependencies import RERUN
from florence2.engine.run_records import run_states
from florence2.engine.selectors import ImageSelector, selector_from_json
from florence2.monitoring.run_state import RUNNING, PhaseState, RunState
from florence2.store import Fragment, Operator, Snapshot, Store, Unit, attempt_number, pending

SILENT_S = 60.0  # a run on another machine that gave no sign for so long may be gone


@dataclass(frozen=True)
class SpecialistStatus:
    """A specialist's pictures in the newest snapshot: those it has annotated, those that wait for it, and the rest."""

    name: str
    version: str
    round: int
    done: int
    due: int
    failed: int
    quarantined: int
    """Of the failed: those that failed in passing in so many runs that they are left alone."""


@dataclass(frozen=True)
class RunStatus:
    """A run of a command, as it last said that it stands."""

    state: RunState
    alive: bool | None
    """Whether its process runs; None where that is another machine's to say."""
    silent_s: float
    """Since it last said so."""

    @property
    def outcome(self) -> str:
        """running, ended, failed or interrupted: also one whose process is gone without a word."""
        return "interrupted" if self.state.outcome == RUNNING and self.alive is False else self.state.outcome

    @property
    def goes_on(self) -> bool:
        """Whether it is known to run, or has given a sign of late."""
        return self.outcome == RUNNING and (self.alive is True or self.silent_s <= SILENT_S)

    @property
    def seconds_left(self) -> float | None:
        """Of the phase that it is in, by now; None where that is not known, or it does not run."""
        phase = self.state.phase
        if self.outcome != RUNNING or phase is None or phase.seconds_left is None:
            return None
        return max(0.0, phase.seconds_left - self.silent_s)

    def to_json(self) -> dict[str, Any]:
        """As plain values, what follows from them too."""
        phases = [
            {**asdict(phase), "left": phase.left, "rate": phase.rate, "seconds_left": phase.seconds_left}
            for phase in self.state.phases
        ]
        more = {"outcome": self.outcome, "alive": self.alive, "silent_s": self.silent_s}
        return {**self.state.to_json(), **more, "seconds_left": self.seconds_left, "phases": phases}


@dataclass(frozen=True)
class StoreStatus:
    """How a store stands: its newest snapshot, its specialists, and the newest run of a command on it."""

    store: str
    snapshot: int
    phase: str
    pictures: dict[str, int]
    specialists: tuple[SpecialistStatus, ...]
    unnamed: int
    """Fragments that no snapshot names yet: of a run that goes on, or was interrupted."""
    run: RunStatus | None
    beside: tuple[RunStatus, ...] = ()
    """Earlier runs that go on beside it, oldest first."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        plain = {key: value for key, value in vars(self).items() if key not in ("specialists", "run", "beside")}
        runs = {"run": self.run and self.run.to_json(), "beside": [run.to_json() for run in self.beside]}
        return {**plain, "specialists": [asdict(s) for s in self.specialists], **runs}


def status(store: str | Path | Store) -> StoreStatus:
    """How a store stands; ValueError where it is none."""
    store = store if isinstance(store, Store) else Store(store)
    newest = store.snapshot()
    runs = [_run(state) for state in run_states(store)]
    return StoreStatus(
        str(store.root),
        newest.number,
        str(newest.phase.get("phase", "")) or ("undo" if newest.phase.get("undo") else ""),
        dict(store.image_statuses(newest.number)) if newest.number else {},
        tuple(_specialists(store, newest)),
        len(store.unreferenced("annotations", newest)),
        runs[-1] if runs else None,
        tuple(run for run in runs[:-1] if run.goes_on),
    )


def _run(state: RunState) -> RunStatus:
    silent = max(0.0, time.time() - state.updated)
    return RunStatus(state, state.is_alive(), silent)


def _specialists(store: Store, newest: Snapshot) -> list[SpecialistStatus]:
    live = [o for o in newest.operators if not o.replaced and o.kind in RERUN]
    if not live:
        return []
    failed: dict[str, dict[str, str]] = {o.run_id: {} for o in live}  # run -> picture -> why it failed
    for row in store.current_failures(newest.number):
        if row["run_id"] in failed:
            failed[row["run_id"]][row["image_id"]] = row["reason"]
    takes = {o.run_id: _selectors(store, newest, o) for o in live}
    counts = {o.run_id: Counter[str]() for o in live}
    fragments = _all_fragments(store, newest)
    paths = {fragment.path for fragment in fragments}
    over = {(f.run_id, unit) for f in fragments if f.table == "annotations" for unit in f.units}
    seen = set[str]()
    for unit in store.units(newest):
        for operator in live:
            run = operator.run_id
            good = _good(unit, takes[run])
            is_over = (run, unit.uid) in over
            if unit.uid in seen:  # a picture that became good later is work of its own
                is_over = pending.path("annotations", operator, UnitInputs(unit).uid(operator)) in paths
            bad = sum(name in failed[run] for name in good)
            counts[run].update({"done": len(good) - bad, "failed": bad} if is_over else {"due": len(good)})
        seen.add(unit.uid)
    return [_of(store, operator, counts[operator.run_id], failed[operator.run_id], fragments) for operator in live]


def _selectors(store: Store, newest: Snapshot, operator: Operator) -> list[ImageSelector] | None:
    """Which pictures a specialist takes: those of each of its starts, as it may have been given several folders."""
    starts = (store.run(operator.run_id) or {}).get("starts", [])
    facts = {json.dumps(start.get("takes"), sort_keys=True): start.get("takes") for start in starts}
    found = [selector_from_json(fact, lambda: store.units(newest)) for fact in facts.values()]
    return None if not found or None in found else [each for each in found if each is not None]


def _good(unit: Unit, takes: Sequence[ImageSelector] | None) -> list[str]:
    """The ids of a unit's pictures that are good now, of those that one of the selectors takes."""
    good = [sample for sample in unit.samples if sample.image.id not in unit.gone]
    return [sample.image.id for sample in good if takes is None or any(each(sample) for each in takes)]


def _of(
    store: Store, operator: Operator, counts: Counter[str], failed: Mapping[str, str], fragments: Sequence[Fragment]
) -> SpecialistStatus:
    passing = {name for name, reason in failed.items() if reason in PASSING}
    quarantined = len(_failed_often(store, fragments, operator.run_id) & passing) if passing else 0
    found = {name: counts[name] for name in ("done", "due", "failed")}
    return SpecialistStatus(operator.name, operator.version, operator.round, **found, quarantined=quarantined)


def _failed_often(store: Store, fragments: Sequence[Fragment], run_id: str) -> set[str]:
    """The pictures that an operator's last permitted attempt, or a later one, failed on."""
    of_run = [f for f in fragments if f.table == "failures" and f.run_id == run_id]
    often = [f for f in of_run if attempt_number(store.fragment_facts(f)) >= QUARANTINED_AFTER]
    return {failure.id for fragment in often for failure in store.failures(fragment)}


def _all_fragments(store: Store, newest: Snapshot) -> list[Fragment]:
    """The fragments of a snapshot, those whose rows lie in compacted files too."""
    out, number = list(newest.fragments), newest.compacts
    while number:
        earlier = store.snapshot(number)
        out += earlier.fragments
        number = earlier.compacts
    return out


def describe_run(run: RunStatus) -> str:
    """What became of a run, in words."""
    where = f"{run.state.host}, process {run.state.pid}"
    if run.outcome == RUNNING and run.alive is None:
        quiet = run.silent_s > SILENT_S
        return f"{'perhaps gone, no sign since' if quiet else 'running, last sign'} {run.silent_s:.0f} s ago ({where})"
    if run.outcome == RUNNING:
        return f"running ({where})"
    if run.state.outcome == RUNNING:
        return f"interrupted: its process is gone ({where}); the same command again goes on"
    if run.outcome == "failed":
        return f"failed: {run.state.error}"
    return "interrupted; the same command again goes on" if run.outcome == "interrupted" else "ended"


def describe_phase(phase: PhaseState) -> str:
    """What a phase has done, in words, without its time left."""
    out = f"{phase.found + phase.done} of {phase.total}"
    out += f" ({phase.found} found done)" if phase.found else ""
    failed = sum(phase.failures.values())
    if failed:
        words = ", ".join(f"{count} {reason}" for reason, count in phase.failures.items())
        out += f", {failed} failed ({words})"
    out += f", {phase.quarantined} left alone" if phase.quarantined else ""
    retries = sum(phase.retries.values())
    out += f", {retries} jobs tried again" if retries else ""
    return out + (f", {phase.given_up}" if phase.given_up else "")

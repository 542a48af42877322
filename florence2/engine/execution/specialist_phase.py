"""One specialist over the units of a store that lack its work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from florence2.engine.execution.annotation import SECONDS, AnnotateTask, UnitOutcome
from florence2.engine.execution.execution import Progress
from florence2.engine.execution.processes import InlineRunner, Job, ProcessRunner
from florence2.engine.operator import unit_id
from florence2.engine.planning.dependencies import Step
from florence2.engine.session import Session
from florence2.engine.specialists import absolute
from florence2.store import layout
from florence2.store.parquet import Fragment
from florence2.store.units import Unit


def run_specialist(
    session: Session,
    step: Step,
    pool: InlineRunner | ProcessRunner,
    max_pixels: int,
    progress: Progress | None = None,
    only: frozenset[str] | None = None,
) -> dict[str, float]:
    """Have one specialist annotate every unit that lacks its work; returns the seconds by what they went into.

    With `only`, none but the units whose fragments are named.
    """
    operator = step.operator
    facts = {
        "config": dict(step.specialist.config),
        "weights_sha256": step.specialist.weights_sha256,
        "reads": [read.run_id for read in step.reads],
        "max_pixels": max_pixels,
    }
    named = absolute(step.name) if step.name else ""
    session.start(operator, facts, {"with": named, "takes": step.selector.to_json() if step.selector else None})
    slots: dict[str, Sequence[Fragment]] = {}
    total = session.count(step.selector) if step.units is None else sum(len(unit.samples) for unit in step.due(session))
    done = 0
    seconds = dict.fromkeys(SECONDS, 0.0)

    def lacking() -> Iterator[Job]:
        nonlocal done
        for unit in step.due(session):
            uid = unit_id([sample.image.id for sample in unit.samples], operator.fingerprint, operator.round)
            task = _task(step, unit, uid, max_pixels)
            slots[uid] = ()
            if only is not None and only.isdisjoint((task.path, task.failures_path)):
                continue
            if _is_done(session, task):
                done += len(unit.samples)
                continue
            yield Job(uid, len(unit.samples), task)

    if progress:
        progress(operator.name, 0, total)
    at_once = 1 if step.specialist.spec.billed else 0  # one process keeps the service's rate and the budget
    for job, outcome in pool.run(lacking(), at_once):
        assert isinstance(outcome, UnitOutcome)
        slots[job.key] = outcome.fragments
        for name, value in outcome.seconds.items():
            seconds[name] += value
        done += job.size
        if progress:
            progress(operator.name, done, total)
    session.add(fragment for fragments in slots.values() for fragment in fragments)
    return seconds


def _task(step: Step, unit: Unit, uid: str, max_pixels: int) -> AnnotateTask:
    operator = step.operator
    runs = frozenset(read.run_id for read in step.reads)
    reads = [f for f in unit.group.fragments.get("annotations", ()) if not f.run_id or f.run_id in runs]
    return AnnotateTask(
        specialist=step.index,
        unit=unit.uid,
        samples=unit.samples,
        reads=tuple(reads) if runs else (),
        read_runs=runs,
        fingerprint=operator.fingerprint,
        run_id=operator.run_id,
        round=operator.round,
        path=layout.fragment("annotations", operator.round, operator.name, operator.version, uid),
        failures_path=layout.fragment("failures", operator.round, operator.name, operator.version, uid),
        max_pixels=max_pixels,
    )


def _is_done(session: Session, task: AnnotateTask) -> bool:
    """Whether a unit's annotations, and its failures where it had any, are there and whole."""
    named = session.names(task.failures_path)
    failures = session.done(task.failures_path, [task.unit], task.run_id)
    annotations = session.done(task.path, [task.unit], task.run_id)
    return annotations is not None and (failures is not None or not named)

"""The phases of the engine over a store: annotate by specialists, judge by filters. Each ends with one snapshot.

Knows which units lack whose work, not how processes do it, nor who reads whom (`engine/planning/dependencies.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.curation.judging import judge, supersede_replaced
from florence2.engine.curation.merging import MergeConfig, merge, merged_otherwise
from florence2.engine.execution.annotation import SECONDS, AnnotateTask, UnitOutcome
from florence2.engine.execution.processes import ATTEMPTS, InlineRunner, Job, ProcessRunner
from florence2.engine.execution.worker import WorkerContext, resolve_specialist
from florence2.engine.ingest import ingestion, url_lists
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.inspection import ImageCandidate, ImageRules, load_function
from florence2.engine.operator import Filter, Specialist, unit_id
from florence2.engine.planning.dependencies import Step, plan_steps, refuse_twins, stale_dependents, with_their_inputs
from florence2.engine.session import FolderSelector, Session, Unit, fragment_path
from florence2.engine.specialists import absolute
from florence2.records import Sample
from florence2.sources import files, hub_datasets
from florence2.sources.fetching import Fetching
from florence2.store import Store, is_store
from florence2.store.snapshots import Fragment

DEFAULT_WITH = ("rapidocr", "opencv")

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


def annotate(
    src: str | Path | Sequence[Sample],
    out: str | Path | None = None,
    with_: Sequence[str | Specialist] = DEFAULT_WITH,
    *,
    unit: int | None = None,
    workers: int | None = None,
    rules: ImageRules | None = None,
    lease_s: float | None = None,
    attempts: int = ATTEMPTS,
    device: str = "cpu",
    fetching: Fetching | None = None,
    dependents: bool = True,
    progress: Progress | None = None,
    on_message: Callable[[str], None] | None = None,
    seconds: dict[str, dict[str, float]] | None = None,
) -> Store:
    """Run specialists over the pictures of a folder, a tar, a table, a list of samples, or over a store's own.

    `hf:OWNER/NAME` is a data set of the hub; of a list of addresses, what `fetching` allows is fetched. Specialists are
    named as on the command line, or are objects. Run again, it finds what is done and goes on. What had read what they
    replace is run again, too, or named to `on_message` where it cannot be (`dependents`). `seconds` is filled with
    where the time of each specialist went (`annotation.SECONDS`, of all workers together).
    """
    execution = Execution(workers, lease_s, attempts, device, progress, on_message)
    names = [with_] if isinstance(with_, str) else list(with_)
    specialists = [resolve_specialist(name) for name in names]
    refuse_twins([specialist.spec.name for specialist in specialists])
    rules = rules or ImageRules()
    if rules.accept:
        load_function(rules.accept)
    store, source, listing, samples = _source(src, out, execution, fetching or Fetching())
    session = Session(store)
    pictures = len(listing) or sum(fragment.rows for fragment in session.base.of("images"))
    unit = ingestion.unit_for(pictures) if unit is None else unit
    with execution.pool(WorkerContext(store.root, names, device), pictures, unit) as pool:
        if listing:
            ingestion.ingest(session, source, listing, pool.run, unit, rules, progress, samples)
        selector = FolderSelector(os.path.abspath(source)) if listing and not samples else None
        asked: Sequence[tuple[str | Specialist, Specialist]] = list(zip(names, specialists))
        if dependents:
            asked = with_their_inputs(session, asked, selector)
        planned = plan_steps(session, asked, selectors=[selector] * len(asked))
        if len(asked) == len(names):
            _run(session, planned, execution, rules.max_pixels, seconds, pool)
    if len(asked) > len(names):
        _run(session, planned, execution, rules.max_pixels, seconds)
    made = [(step.operator, step.selector) for step in planned]
    more, left = stale_dependents(session, made, "" if dependents else "as asked for")
    given = [specialist.spec.name for specialist in specialists]
    again = [step.operator.name for step in (*planned, *more) if step.operator.name not in given]
    left += [f"run again, as what they read has changed: {', '.join(again)}"] if again else []
    for line in left if on_message else ():
        on_message(line)  # type: ignore[misc]
    _run(session, more, execution, rules.max_pixels, seconds)
    supersede_replaced(session, [*made, *((step.operator, step.selector) for step in more)])
    session.finish({"phase": "annotate", "round": 0})
    return store


def _run(
    session: Session,
    steps: Sequence[Step],
    execution: Execution,
    max_pixels: int,
    seconds: dict[str, dict[str, float]] | None,
    pool: InlineRunner | ProcessRunner | None = None,
) -> None:
    """Run specialists one after another, in a pool of their own where none is given."""
    if pool is None and steps:
        work = WorkerContext(session.store.root, [step.name or step.specialist for step in steps], execution.device)
        with execution.pool(work, session.count(), ingestion.UNIT) as own:
            return _run(session, steps, execution, max_pixels, seconds, own)
    for step in steps:
        assert pool is not None
        took = run_specialist(session, step, pool, max_pixels, execution.progress)
        if seconds is not None:
            seconds[step.operator.name] = took


def filter(
    store: str | Path | Store,
    rules: str | Path | Mapping[str, Any] | Sequence[Filter] | None = None,
    *,
    merging: MergeConfig | None = None,
    progress: Progress | None = None,
) -> Store:
    """Judge a store's annotations by the shipped rules, by those of a YAML file or mapping, or by filters given.

    With `merging`, sources that agree are then merged. The same rules over the same annotations add nothing.
    """
    store = store if isinstance(store, Store) else Store(store)
    session = Session(store)
    chain = chain_of(rules)
    round = judge(session, chain, progress)
    if merging is not None:
        if merged_otherwise(session, merging, round):
            round = judge(session, chain, progress, again=True)
        merge(session, merging, round, progress)
    session.finish({"phase": "filter" if merging is None else "merge", "round": round})
    return store


def chain_of(rules: str | Path | Mapping[str, Any] | Sequence[Filter] | None) -> list[Filter]:
    """Filters as given, or the chain that a YAML file or a mapping describes."""
    if rules is None or isinstance(rules, (str, Path, Mapping)):
        return list(open_chain(rules))
    return list(rules)


def _source(
    src: str | Path | Sequence[Sample], out: str | Path | None, execution: Execution, fetching: Fetching
) -> tuple[Store, Path, list[ImageCandidate], dict[str, Sample]]:
    """The store to write, and the pictures to take in: none where the store's own are meant."""
    if not isinstance(src, (str, Path)):
        samples = list(src)
        if out is None:
            raise ValueError("annotate: samples need `out`, the folder of the store")
        if not samples:
            raise ValueError("annotate: got an empty list of samples; expected at least one")
        root = Path(os.path.commonpath([os.path.dirname(os.path.abspath(files.path_of(s.image.uri))) for s in samples]))
        by_name = {ingestion.relative_name(sample.image, root): sample for sample in samples}
        return Store(out, create=True), root, ingestion.references(samples, root), by_name
    path = hub_datasets.download(str(src)) if hub_datasets.is_hub(src) else Path(src)
    if is_store(path):
        if out is not None and Path(out).resolve() != path.resolve():
            raise ValueError(f"{path}: is a store and is annotated in place; leave out {str(out)!r}")
        return Store(path), path, [], {}
    if out is None:
        raise ValueError(f"{path}: is not a store; name the store to write (out=, --out)")
    if url_lists.is_list(path):
        path = url_lists.fetch_list(path, fetching, execution.progress)
    listing, skipped = discover(path, leave_out=Path(out))
    if not listing:
        more = f"; {len(skipped)} other files, such as {skipped[0]}" if skipped else ""
        raise ValueError(f"{path}: no pictures found{more}; expected files such as .jpg or .png, in subfolders too")
    if skipped and execution.on_message:
        names = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        execution.on_message(f"skipped {len(skipped)} files that hold no pictures: {names}")
    failed = [found for found in listing if found.reason]
    if failed and execution.on_message:
        execution.on_message(f"{len(failed)} of {len(listing)} cannot be read, such as {failed[0].detail}")
    return Store(out, create=True), path, listing, {}


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
        path=fragment_path("annotations", operator.round, operator.name, operator.version, uid),
        failures_path=fragment_path("failures", operator.round, operator.name, operator.version, uid),
        max_pixels=max_pixels,
    )


def _is_done(session: Session, task: AnnotateTask) -> bool:
    """Whether a unit's annotations, and its failures where it had any, are there and whole."""
    named = session.names(task.failures_path)
    failures = session.done(task.failures_path, [task.unit], task.run_id)
    annotations = session.done(task.path, [task.unit], task.run_id)
    return annotations is not None and (failures is not None or not named)

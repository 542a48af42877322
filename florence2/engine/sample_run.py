"""A few pictures annotated aside, to know what all will cost: seconds, rows and bytes a picture of each specialist.

Everything is written to a temporary folder that is deleted; the store that is planned is only read.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2.engine.commands import annotate
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import Job, JobOutcome, Resources
from florence2.engine.execution.options import Execution
from florence2.engine.ingest.inspection import ImageRules
from florence2.engine.operator import Specialist
from florence2.engine.planning.rates import PhaseRates
from florence2.monitoring.run_journal import RunJournal, RunSink
from florence2.records import Sample
from florence2.store import Operator, Store, pending

INSPECTING = "inspecting"
WAIT_S = 1.0
SAMPLE = 16  # pictures; more where a specialist's batch is larger than half of them


@dataclass
class _Phase:
    """What was noted of a phase: the first job, which loads and warms up, apart from the others."""

    begun: float
    units: list[tuple[float, float, Mapping[str, Any]]]  # wall and processor time at its end, and its event


class _Noted(RunSink):
    """Notes when each job ended, by the wall and by the processors."""

    def __init__(self) -> None:
        self.phases: dict[str, _Phase] = {}

    def event(self, line: Mapping[str, Any]) -> None:
        now = time.perf_counter()
        if line["event"] == "phase_started":
            self.phases[line["phase"]] = _Phase(now, [])
        elif line["event"] == "unit_committed":
            self.phases[line["phase"]].units.append((now, _cpu_s(), line))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + children.ru_utime + children.ru_stime


def sample_of(items: Sequence[Any], size: int) -> list[Any]:
    """So many of the items, spread evenly over all of them."""
    if len(items) <= size:
        return list(items)
    return [items[(2 * n + 1) * len(items) // (2 * size)] for n in range(size)]


def sample_size(specialists: Sequence[Specialist], wanted: int = SAMPLE) -> int:
    """How many pictures show what a specialist costs: two batches at least, of which the first warms it up."""
    return max(wanted, *(2 * specialist.spec.batch_size for specialist in specialists), 2)


def measured_rates(
    samples: Sequence[Sample],
    specialists: Sequence[tuple[str | Specialist, Specialist]],
    rules: ImageRules | None = None,
    device: str = "auto",
    on_message: Callable[[str], None] | None = None,
) -> list[PhaseRates]:
    """What inspecting and each specialist cost on these pictures, one after another in this process."""
    noted, cpu_before = _Noted(), _cpu_s()
    half = max(1, len(samples) // 2)
    with tempfile.TemporaryDirectory(prefix="florence2-sample-") as folder:
        root = Path(folder) / "store"
        store = annotate(
            list(samples),
            root,
            [name for name, _ in specialists],
            unit=half,
            workers=0,
            rules=rules,
            device=device,
            on_message=on_message,
            journal=RunJournal([noted]),
        )
        out = [_inspecting(store, noted, len(samples), cpu_before)]
        operators = {operator.name: operator for operator in store.snapshot().operators}
        for _, specialist in specialists:
            name = specialist.spec.name
            if name not in operators or not noted.phases[name].units:
                raise ValueError(f"dry run: {name} got none of the {len(samples)} pictures tried; try more (--sample)")
            out.append(_annotating(store, noted, specialist, operators[name]))
    return out


@dataclass(frozen=True)
class _Wait:
    """A task that lasts as long as processes may be apart in starting, so that each of them is given one."""

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        time.sleep(WAIT_S)
        return JobOutcome()


def worker_start_s(workers: int) -> float:
    """Seconds until the last of so many processes of this machine is ready for work, before it loads anything."""
    jobs = [Job(f"start {number}", 1, _Wait()) for number in range(workers)]
    with tempfile.TemporaryDirectory(prefix="florence2-sample-") as folder:
        store = Store(Path(folder) / "store", create=True)
        begun = time.perf_counter()
        with Execution(workers=workers).runner(store.root) as runner:
            for _ in runner.run(jobs, Resources("start")):
                pass
            return max(0.0, time.perf_counter() - begun - WAIT_S)


def _inspecting(store: Store, noted: _Noted, pictures: int, cpu_before: float) -> PhaseRates:
    phase = noted.phases[INSPECTING]
    busy = sum(line["seconds"] for *_, line in phase.units)
    of_images = store.snapshot().of("images")
    owner, taken = store.snapshot().operators[0], [row for each in of_images for row in store.image_rows(each)]
    fixed, row_bytes = _marginal(lambda some: len(pending.images_of(owner, "u", some).to_bytes()), taken, len)
    cpu = max(0.0, phase.units[-1][1] - cpu_before) / pictures
    return PhaseRates(
        "inspect",
        "inspect",
        f"measured: {pictures} pictures",
        seconds=busy / pictures,
        cpu_s=min(cpu, busy / pictures),
        driver_s=_commit_s(store),
        rows=1,
        row_bytes=row_bytes,
        fragment_bytes=fixed,
    )


def _annotating(store: Store, noted: _Noted, specialist: Specialist, operator: Operator) -> PhaseRates:
    spec, phase = specialist.spec, noted.phases[specialist.spec.name]
    first, *warm = phase.units
    first_end, first_cpu, first_line = first
    counted = warm or [first]
    pictures = sum(line["items"] for *_, line in counted)
    paced_s = sum(line["seconds"] for *_, line in counted) / pictures * first_line["items"]
    parts = {name: sum(line["parts"].get(name, 0.0) for *_, line in counted) for name in first_line["parts"]}
    cpu = max(0.0, counted[-1][1] - first_cpu) / pictures if warm else parts.get("annotate", 0.0) / pictures
    fragments = [f for f in store.snapshot().fragments if f.run_id == operator.run_id]
    fixed, row_bytes = _bytes(store, operator)
    rows = sum(fragment.rows for fragment in fragments)
    everything = sum(line["items"] for *_, line in phase.units)
    return PhaseRates(
        spec.name,
        "annotate",
        f"measured: {pictures} pictures",
        seconds=parts.get("annotate", 0.0) / pictures,
        decode_s=parts.get("decode", 0.0) / pictures,
        cpu_s=cpu,
        job_s=(parts.get("write", 0.0) + parts.get("rest", 0.0)) / len(counted),
        load_s=max(0.0, first_end - phase.begun - paced_s),  # with what the first job takes longer than others
        batch=spec.batch_size,
        rows=rows / everything,
        row_bytes=row_bytes,
        fragment_bytes=fixed,
        gpus=spec.num_gpus,
        cpus=spec.num_cpus,
    )


def _bytes(store: Store, operator: Operator) -> tuple[float, float]:
    """Of a fragment of an operator without rows, and of a row in a large one."""
    samples = [s for unit in store.units() for s in store.annotations(unit, {operator.run_id})]

    def size(some: Sequence[Sample]) -> int:
        return len(pending.annotations_of(operator, "u", "u", some).to_bytes())

    return _marginal(size, samples, lambda some: sum(len(sample.items()) for sample in some))


def _marginal(
    size: Callable[[Sequence[Any]], int], items: Sequence[Any], rows: Callable[[Sequence[Any]], int]
) -> tuple[float, float]:
    """Bytes without rows, and of a row: from half of the items and all of them, as the first rows cost more."""
    half = items[: len(items) // 2]
    empty, some, all_ = float(size([])), size(half), size(items)
    few, many = rows(half), rows(items)
    if not many:
        return empty, 0.0
    row = (all_ - some) / (many - few) if many > few and all_ > some else (all_ - empty) / many
    return max(empty, all_ - row * many), row


def _commit_s(store: Store) -> float:
    """Seconds to commit a small fragment: what the process that was started does for each new unit."""
    operator = store.snapshot().operators[0]
    begun = time.perf_counter()
    store.put_all([pending.images_of(operator, "sample-run", [])])
    return time.perf_counter() - begun

"""What a command would take before anything is spent: `annotate --dry-run`. Writes nothing to the store.

A few pictures are annotated aside (`sample_run`), or rates that earlier runs on the store measured are taken; what
follows from them for all pictures is the plan's arithmetic (`planning/simulation.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from florence2 import arguments
from florence2.engine.execution.context import resolve_specialist
from florence2.engine.execution.devices import accelerators
from florence2.engine.ingest import ingestion, url_lists
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.inspection import ImageRules
from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import Specialist
from florence2.engine.planning.dependencies import Step, plan_steps
from florence2.engine.planning.rates import PhaseRates, Rates, only_annotating
from florence2.engine.planning.simulation import FREE, Machines, PhaseEstimate, Prices, phase_estimate
from florence2.engine.run_records import earlier_paces
from florence2.engine.sample_run import measured_rates, sample_of, sample_size, worker_start_s
from florence2.engine.selectors import FolderSelector, ImageSelector
from florence2.engine.session import Session
from florence2.monitoring.run_journal import EVERY_S
from florence2.object_store import is_object_url, root_of
from florence2.records import Sample
from florence2.sources import files, hub_datasets
from florence2.store import Store, is_store, pending

OF_A_COMMAND = 10  # objects: its runs, its snapshot, the link of the chain; how it stands is one more every few seconds
ENOUGH_S = 60.0  # of earlier runs, to be taken in place of a sample


@dataclass(frozen=True)
class RunEstimate:
    """What a command would do, take, leave and cost."""

    source: str
    pictures: int
    sample: int
    due: dict[str, int]
    """Pictures that wait, by phase."""
    rates: Rates
    phases: tuple[PhaseEstimate, ...]
    seconds: float
    fragments: int
    bytes: float
    requests: int
    cost: float
    cost_month: float

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "rates": self.rates.to_json()}


def estimate_annotate(
    src: str | Path,
    out: str | Path | None,
    with_: Sequence[str | Specialist],
    *,
    unit: int | None = None,
    workers: int | None = None,
    rules: ImageRules | None = None,
    device: str = "auto",
    sample: int = 16,
    price_per_hour: float = 0.0,
    prices: Prices = FREE,
    on_message: Callable[[str], None] | None = None,
) -> RunEstimate:
    """What `annotate` with the same arguments would take on so many workers of this machine.

    `price_per_hour` is that of all of it together. ValueError where a dry run would cost: billed specialists, pictures
    that are still to be fetched.
    """
    sample = arguments.whole("sample", sample, least=1)
    named = [(name, resolve_specialist(name)) for name in with_]
    billed = [specialist.spec.name for _, specialist in named if specialist.spec.billed]
    if billed:
        raise ValueError(f"dry run: {billed[0]} is billed and would be asked about the sample; leave it out of --with")
    price_per_hour = arguments.at_least_zero("price_per_hour", price_per_hour)
    samples, store, new, selector = _pictures(src, out)
    tried = sample_of(samples, sample_size([specialist for _, specialist in named], sample))
    phases = measured_rates(tried, named, rules, device, on_message)
    due = {phases[0].name: new, **dict.fromkeys((phase.name for phase in phases[1:]), new)}
    if store is not None:
        session, paces = Session(store), earlier_paces(store)
        for place, step in enumerate(plan_steps(session, named, selectors=[selector] * len(named)), 1):
            phases[place] = _as_before(phases[place], paces.get(step.operator.run_id))
            due[phases[place].name] += _undone(session, step)
    cpus = arguments.processors()
    wanted = any(specialist.spec.num_gpus > 0 for _, specialist in named)
    gpus = len(accelerators(device)) if wanted else 0
    machines = Machines(gpus, cpus, 1 if workers == 0 else workers or cpus)
    unit = ingestion.unit_for(len(samples)) if unit is None else arguments.whole("unit", unit, least=1)
    rates = replace(only_annotating(phases), worker_start_s=worker_start_s(machines.workers) if workers != 0 else 0.0)
    found, clock = list[PhaseEstimate](), rates.worker_start_s
    for phase in phases:
        if due[phase.name]:
            found.append(phase_estimate(phase, due[phase.name], unit, machines, 0, clock, prices, rates.driver_job_s))
            clock += found[-1].seconds
    fragments = sum(phase.fragments for phase in found)
    clock += rates.command_s if found else 0.0
    size = sum(phase.bytes for phase in found) + fragments * rates.entry_bytes
    requests = sum(phase.requests for phase in found) + math.ceil(clock / EVERY_S) + OF_A_COMMAND
    cost = clock / 3600 * price_per_hour + requests / 1000 * prices.per_1000_puts
    month = size / 1e9 * prices.gb_month
    return RunEstimate(
        str(src), len(samples), len(tried), due, rates, tuple(found), clock, fragments, size, requests, cost, month
    )


def _pictures(src: str | Path, out: str | Path | None) -> tuple[list[Sample], Store | None, int, ImageSelector | None]:
    """The pictures that are meant, the store that they are or will be in, where there is one already, how many of them
    it lacks, and which of its own are meant (None: all)."""
    src = arguments.path("src", src)
    if hub_datasets.is_hub(str(src)):
        raise ValueError(f"{src}: a dry run downloads nothing; name a folder of pictures")
    path = root_of(src)
    if is_store(path):
        store = Store(path)
        own = [sample for unit in store.units() for sample in unit.samples if sample.image.id not in unit.gone]
        return own, store, 0, None
    if not is_object_url(path) and url_lists.is_list(path):
        raise ValueError(f"{path}: a dry run fetches nothing; name a folder of pictures")
    listing, _ = discover(path, leave_out=root_of(out) if out else None)
    found = [Sample(each.relative, each.ref()) for each in listing if not each.reason]
    if not found:
        raise ValueError(f"{path}: no pictures found; expected files such as .jpg or .png, in subfolders too")
    if not (out and is_store(out)):
        return found, None, len(found), None
    known, store = ingestion.KnownImages(), Store(out)
    for row in store.images():
        known.add(row)
    new = sum(not known.has(each) for each in listing if not each.reason)
    return found, store, new, FolderSelector(files.absolute_of(path))


def _undone(session: Session, step: Step) -> int:
    """How many of the store's pictures wait for a specialist: those of units that it has not been over as it is now."""
    return sum(
        sum(sample.image.id not in unit.gone for sample in unit.samples)
        for unit in step.due(session)
        if not session.names(pending.path("annotations", step.operator, UnitInputs(unit).uid(step.operator)))
    )


def _as_before(phase: PhaseRates, pace: tuple[float, float] | None) -> PhaseRates:
    """The phase with the pace of earlier runs on the store, which saw more pictures, where they lasted long enough."""
    items, seconds = pace or (0.0, 0.0)
    if seconds < ENOUGH_S or not items:
        return phase
    basis = f"measured: {seconds:.0f} s of earlier runs on the store"
    return replace(phase, basis=basis, seconds=seconds / items, decode_s=0.0, cpu_s=0.0, job_s=0.0)

"""How long a plan takes and what it leaves, by the engine's own way of handing out work.

Analytic, and not event by event: within a phase jobs are alike and independent and are drawn by whichever worker is
free, and phases follow one another, so that a phase's end follows from sums; there is nothing left to draw lots for.
What follows is compared with runs by `benchmarks/plan_check.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from florence2 import arguments
from florence2.engine.execution.annotation import DECODERS
from florence2.engine.execution.handout import PIECE_S, SMALL_S
from florence2.engine.planning.rates import PhaseRates, Rates

HOUR = 3600.0
MONTH_H = 730.0


@dataclass(frozen=True)
class Machines:
    """What a plan has: GPUs, processors, and how many workers at the most (0: as many as fit)."""

    gpus: int = 0
    cpus: int = 1
    workers: int = 0

    def workers_of(self, phase: PhaseRates) -> int:
        """How many workers of a phase there are at once."""
        fit = self.cpus / phase.cpus if phase.cpus else float(self.cpus)
        if phase.gpus and self.gpus:
            fit = self.gpus / phase.gpus
        return max(1, min(int(fit), self.workers or int(fit)))


@dataclass(frozen=True)
class Prices:
    """What machines and storage cost."""

    gpu_hour: float = 0.0
    cpu_hour: float = 0.0
    gb_month: float = 0.0
    per_1000_puts: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            arguments.at_least_zero(f"price_per_{name.removeprefix('per_')}", value)


FREE = Prices()


@dataclass(frozen=True)
class PhaseEstimate:
    """What one phase will take and leave."""

    name: str
    round: int
    basis: str
    workers: int
    jobs: int
    begins_s: float
    seconds: float
    gpu_hours: float
    cpu_hours: float
    fragments: int
    bytes: float
    requests: int
    """That write: fragments, and what each job leaves of its own."""
    cost: float
    limit: str
    """What sets its pace: gpu, operator, decoding, processors or driver."""

    @property
    def jobs_a_second(self) -> float:
        """Of all workers together."""
        return self.jobs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class PlanEstimate:
    """A whole plan."""

    images: int
    unit: int
    machines: Machines
    phases: tuple[PhaseEstimate, ...]
    seconds: float
    """From beginning to end."""
    fragments: int
    fragment_bytes: float
    snapshot_bytes: float
    """Of the last one."""
    snapshots_bytes: float
    """Of all of them: one a command."""
    storage_cost_month: float

    @property
    def gpu_hours(self) -> float:
        """Of all phases."""
        return sum(phase.gpu_hours for phase in self.phases)

    @property
    def cpu_hours(self) -> float:
        """Of all phases."""
        return sum(phase.cpu_hours for phase in self.phases)

    @property
    def bytes(self) -> float:
        """Of the store."""
        return self.fragment_bytes + self.snapshots_bytes

    @property
    def cost(self) -> float:
        """Of machines and requests; storage is paid by the month."""
        return sum(phase.cost for phase in self.phases)


def simulate(
    rates: Rates, images: int, unit: int, machines: Machines, rounds: int = 0, prices: Prices = FREE
) -> PlanEstimate:
    """The plan for so many pictures in units of so many, with so many rounds of refinement."""
    phases = list[PhaseEstimate]()
    fragments, written, snapshot_bytes, snapshots_bytes, clock = 0, 0.0, 0.0, 0.0, 0.0
    planned = list(_in_order(rates, rounds))
    for place, (round, phase) in enumerate(planned):
        if place == 0 or _command(*planned[place - 1]) != _command(round, phase):
            clock += rates.worker_start_s  # a command's workers stay for all its phases
        estimate = phase_estimate(phase, images, unit, machines, round, clock, prices, rates.driver_job_s)
        phases.append(estimate)
        clock += estimate.seconds
        fragments, written = fragments + estimate.fragments, written + estimate.bytes
        if place + 1 == len(planned) or _command(*planned[place + 1]) != _command(round, phase):
            snapshot_bytes = fragments * rates.entry_bytes
            snapshots_bytes += snapshot_bytes
            clock += rates.command_s + fragments * rates.entry_read_s
    month = (written + snapshots_bytes) / 1e9 * prices.gb_month
    return PlanEstimate(
        images, unit, machines, tuple(phases), clock, fragments, written, snapshot_bytes, snapshots_bytes, month
    )


def _command(round: int, phase: PhaseRates) -> tuple[int, bool]:
    """Of which command a phase is: annotate, then filter; each round is one command. A command ends with a snapshot."""
    return round, round == 0 and phase.kind in ("filter", "merge")


def _in_order(rates: Rates, rounds: int) -> Iterator[tuple[int, PhaseRates]]:
    yield from ((0, phase) for phase in rates.once)
    for round in range(1, rounds + 1):
        yield from ((round, phase) for phase in rates.each_round)


def phase_estimate(
    phase: PhaseRates,
    images: int,
    unit: int,
    machines: Machines,
    round: int = 0,
    begins_s: float = 0.0,
    prices: Prices = FREE,
    driver_job_s: float = 0.0,
) -> PhaseEstimate:
    """One phase over all pictures."""
    workers = machines.workers_of(phase)
    units = math.ceil(images / unit)
    picture_s = max(phase.seconds, phase.decode_s / DECODERS)
    piece, jobs = _pieces(phase, images, unit, picture_s)
    started_s = phase.job_s + min(phase.batch, piece) * phase.decode_s / DECODERS
    if piece == unit and unit * picture_s <= SMALL_S:  # whole units, of which the last is one worker's alone
        full = math.ceil(units / workers)
        busy_s = full * started_s + min(images, full * unit) * picture_s
    else:  # pieces become small towards the end
        busy_s = (jobs * started_s + images * picture_s) / workers
    own = "decoding" if phase.decode_s / DECODERS > phase.seconds else "gpu" if phase.gpus else "operator"
    driver_s = units * phase.driver_s + jobs * driver_job_s
    bounds = {own: busy_s, "processors": images * phase.cpu_s / machines.cpus, "driver": driver_s}
    limit = max(bounds, key=lambda name: bounds[name])
    seconds = phase.load_s + bounds[limit]
    gpu_hours = seconds * workers * phase.gpus / HOUR if machines.gpus else 0.0
    cpu_hours = seconds * (machines.cpus if not phase.gpus else 0) / HOUR
    fragments = math.ceil(units * phase.fragments)
    rows = images * phase.rows
    requests = fragments + jobs * (1 if piece == unit else 2)  # each job leaves a line of its journal, and its piece
    put_cost = requests / 1000 * prices.per_1000_puts
    cost = gpu_hours * prices.gpu_hour + cpu_hours * prices.cpu_hour + put_cost
    written = rows * phase.row_bytes + fragments * phase.fragment_bytes
    return PhaseEstimate(
        phase.name, round, phase.basis, workers, jobs, begins_s, seconds, gpu_hours, cpu_hours, fragments, written,
        requests, cost, limit,
    )  # fmt: skip


def _pieces(phase: PhaseRates, images: int, unit: int, picture_s: float) -> tuple[int, int]:
    """How many pictures are handed out at once, and how many jobs these are."""
    if phase.kind != "annotate" or unit * picture_s <= SMALL_S:
        return unit, math.ceil(images / unit)
    batches = max(1, int(PIECE_S / picture_s // phase.batch))
    piece = min(unit, batches * phase.batch)
    return piece, math.ceil(images / unit) * math.ceil(unit / piece)

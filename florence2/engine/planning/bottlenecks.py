"""What breaks first in a plan: each limit that grows with it, what it comes to, and what helps."""

from __future__ import annotations

from dataclasses import dataclass

from florence2.engine.execution.annotation import DECODERS
from florence2.engine.planning.rates import Rates
from florence2.engine.planning.simulation import PlanEstimate

MEMORY_GB = 16.0  # of the process that was started
READ_S = 60.0  # to read a snapshot, which every command does first
STORE_PUTS, STORE_GETS = 3500.0, 5500.0  # a second and prefix, as S3 states them
REQUESTS = 6.0  # a job: what it reads, its journal, its fragments
NETWORK_GBIT = 100.0  # of all machines together
KEYS, LISTS = 1000, 10.0  # that one request lists; requests a second, one after another


@dataclass(frozen=True)
class Bottleneck:
    """A limit, what the plan comes to, in the same unit, and what helps."""

    name: str
    value: float
    limit: float
    unit: str
    remedy: str

    @property
    def share(self) -> float:
        """Of the limit; from 1 on it is reached."""
        return self.value / self.limit

    def line(self) -> str:
        """In words."""
        held = f"{100 * self.share:.3g} % of the limit, {self.limit:,.3g}"
        verdict = f"reached, {self.limit:,.3g}: {self.remedy}" if self.share > 0.999 else held
        return f"{self.name:24} {self.value:12,.3g} {self.unit:12} {verdict}"


def bottlenecks(plan: PlanEstimate, rates: Rates) -> list[Bottleneck]:
    """All of them, the one that breaks first at the top."""
    larger = f"a larger --unit than {plan.unit}, or several stores"
    busiest = max((phase.jobs_a_second for phase in plan.phases), default=0.0)
    pictures = max(
        (plan.images / phase.seconds for phase, of in zip(plan.phases, _rates_of(plan, rates)) if of), default=0.0
    )
    memory = plan.fragments * rates.entry_memory / 1e9
    found = [
        Bottleneck("snapshot read", plan.fragments * rates.entry_read_s, READ_S, "s a command", larger),
        Bottleneck("driver's memory", memory, MEMORY_GB, "GB", larger),
        Bottleneck("jobs handed out", busiest, _most(rates.driver_job_s), "a second", larger),
        Bottleneck("requests to the store", busiest * REQUESTS, STORE_PUTS, "a second", f"{larger}, more prefixes"),
        Bottleneck("listing of fragments", plan.fragments / KEYS / LISTS, READ_S, "s a command", larger),
        Bottleneck(
            "network for pictures",
            pictures * rates.picture_bytes * 8 / 1e9,
            NETWORK_GBIT,
            "Gbit/s",
            "pictures nearer to the machines, or several specialists on a decoded picture",
        ),
    ]
    return sorted(found, key=lambda each: -each.share)


def _most(seconds: float) -> float:
    """How many a second, where each takes so long; where that is nothing, more than anybody has."""
    return 1 / seconds if seconds > 1e-9 else 1e9


def _rates_of(plan: PlanEstimate, rates: Rates) -> list[bool]:
    """Of each phase of a plan whether it reads pictures."""
    reads = {phase.name: phase.decode_s / DECODERS > 0 for phase in rates.phases}
    return [reads[phase.name] for phase in plan.phases]

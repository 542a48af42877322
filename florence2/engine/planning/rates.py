"""What work costs, as a file of rates: seconds, bytes and rows a picture, each with where it was measured or assumed.

`florence2 annotate --dry-run --write-rates FILE` measures them, `florence2 plan --rates FILE` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from florence2 import arguments
from florence2.atomic_files import check_replaceable, write_atomic
from florence2.structuring import parse_json, structure

KINDS = ("inspect", "annotate", "filter", "merge", "train")
DEFAULT = Path(__file__).parent / "default_rates.json"
BEGINNING = '{\n "rates": "florence2"'  # of a file that we may write over


@dataclass(frozen=True)
class PhaseRates:
    """What one phase costs. Seconds are of one worker; items are pictures, of training the pairs that are learnt."""

    name: str
    kind: str = "annotate"
    basis: str = ""  # "measured: where", or "assumed: from what"
    seconds: float = 0.0  # an item, in the operator itself
    decode_s: float = 0.0  # an item, read and decoded in threads beside it
    cpu_s: float = 0.0  # an item, of processors, all threads together
    job_s: float = 0.0  # a job: what it reads, and writes
    load_s: float = 0.0  # a worker, until it is ready
    driver_s: float = 0.0  # a unit, by the process that was started, alone
    batch: int = 8
    rows: float = 0.0  # an item
    row_bytes: float = 0.0
    fragments: float = 1.0  # a unit
    fragment_bytes: float = 0.0  # of one without rows
    gpus: float = 0.0  # a worker
    cpus: float = 1.0  # a worker

    @property
    def is_measured(self) -> bool:
        """Whether somebody measured it."""
        return self.basis.startswith("measured")


@dataclass(frozen=True)
class Rates:
    """The phases of a plan: what is run once, and what each round of refinement runs again."""

    once: tuple[PhaseRates, ...]
    each_round: tuple[PhaseRates, ...] = ()
    worker_start_s: float = 1.5  # a process, before it loads anything
    command_s: float = 0.5  # a command: planning, its snapshot
    driver_job_s: float = 0.005  # a job, of the one process that hands out all of them
    entry_bytes: float = 240.0  # of a fragment in a snapshot
    entry_memory: float = 1500.0  # of it in the memory of the process that was started
    entry_read_s: float = 1e-5  # until it is in memory
    entry_basis: str = ""
    picture_bytes: float = 120e3  # of a file
    picture_basis: str = ""

    def __post_init__(self) -> None:
        for phase in self.phases:
            if phase.kind not in KINDS:
                raise ValueError(f"rates of {phase.name}: kind {phase.kind!r:.40}; expected one of {', '.join(KINDS)}")
            if phase.batch < 1:
                raise ValueError(f"rates of {phase.name}: batch: expected a whole number from 1 on, got {phase.batch}")
        for of in (self, *self.phases):
            where = f"rates of {of.name}: " if isinstance(of, PhaseRates) else "rates: "
            for key, value in vars(of).items():
                if isinstance(value, (int, float)):
                    arguments.at_least_zero(f"{where}{key}", value)

    @property
    def phases(self) -> tuple[PhaseRates, ...]:
        """All of them."""
        return (*self.once, *self.each_round)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"rates": "florence2", **asdict(self)}


def read_rates(path: str | Path | None = None) -> Rates:
    """The rates of a file, those that come with the package unless named; ValueError names what is wrong with it."""
    path = Path(path or DEFAULT)
    data = parse_json(path.read_bytes())
    if not isinstance(data, dict) or data.pop("rates", "") != "florence2":
        raise ValueError(f"{path}: is no file of rates; florence2 annotate ... --dry-run --write-rates FILE writes one")
    return structure(Rates, data, str(path))


def write_rates(path: str | Path, rates: Rates) -> None:
    """Write them, over a file of rates but no other."""
    check_replaceable(path, BEGINNING.encode(), "rates that were written before")
    write_atomic(path, json.dumps(rates.to_json(), indent=1) + "\n")


def only_annotating(phases: Sequence[PhaseRates]) -> Rates:
    """Rates of a command that annotates, the package's own for what is not of its phases."""
    own = read_rates()
    return Rates(tuple(phases), (), **{key: getattr(own, key) for key in MACHINE})


MACHINE = (
    "worker_start_s", "command_s", "driver_job_s", "entry_bytes", "entry_memory", "entry_read_s", "entry_basis",
    "picture_bytes", "picture_basis",
)  # fmt: skip

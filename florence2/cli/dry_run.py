"""What `annotate --dry-run` prints, and its options."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from florence2.cli.progress import duration

if TYPE_CHECKING:
    from florence2.engine.estimating import RunEstimate


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """The options of a dry run."""
    group = parser.add_argument_group("dry run")
    group.add_argument(
        "--dry-run", action="store_true", help="try a few pictures, print what all would take and cost; write nothing"
    )
    group.add_argument("--sample", type=int, default=16, metavar="N", help="pictures tried (16, or two batches)")
    group.add_argument("--write-rates", metavar="FILE", help="keep what was measured, for florence2 plan --rates")
    group.add_argument("--price-per-hour", type=float, default=0.0, metavar="P", help="of the machine")
    group.add_argument("--price-per-gb-month", type=float, default=0.0, metavar="P", help="of where the store lies")
    group.add_argument("--price-per-1000-puts", type=float, default=0.0, metavar="P", help="of requests that write")


def show(found: RunEstimate, write_rates_to: str | None, as_json: bool) -> None:
    """Print an estimate, and keep its rates where that is wanted."""
    if write_rates_to:
        from florence2.engine.planning.rates import write_rates

        write_rates(write_rates_to, found.rates)
    print(json.dumps(found.to_json()) if as_json else "\n".join(lines(found)))


def lines(found: RunEstimate) -> list[str]:
    """An estimate in words."""
    width = max([len("phase"), *(len(name) for name in found.due)])
    rates = {phase.name: phase for phase in found.rates.once}
    out = [
        f"{found.source}: {found.pictures} pictures, {found.sample} of them tried; nothing was written to a store",
        f"{'phase':{width}} {'due':>10} {'s a picture':>12} {'rows':>6} {'workers':>8} {'time':>14}  set by     basis",
    ]
    for phase in found.phases:
        of = rates[phase.name]
        out.append(
            f"{phase.name:{width}} {found.due[phase.name]:>10} {of.seconds:>12.4f} {of.rows:>6.1f} {phase.workers:>8} "
            f"{duration(phase.seconds):>14}  {phase.limit:10} {phase.basis}"
        )
    out += [f"{name:{width}} {0:>10}  nothing to do" for name, due in found.due.items() if not due]
    out.append(f"time      about {duration(found.seconds)}")
    out.append(f"storage   about {size(found.bytes)} in {found.fragments} fragments, {found.cost_month:.2f} a month")
    out.append(f"cost      about {found.cost:.2f}, with {found.requests} requests that write")
    return out


def size(count: float) -> str:
    """Bytes in words: 812 B, 4.1 MB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:.0f} B"

"""florence2 plan: what a data set of this size would take: GPU-hours, storage, cost, the schedule, what breaks first.

Without --rates it plans the Florence-2 paper's own phases. Each line says what it rests on: what was measured on the
machine that made this package's rates, or assumed from arithmetic; of your own specialists `florence2 annotate ...
--dry-run --write-rates FILE` measures them. docs/scale.md says how far estimates were off."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from florence2.cli.dry_run import size
from florence2.cli.progress import duration

if TYPE_CHECKING:
    from florence2.engine.planning.simulation import PlanEstimate


MOST_IMAGES, MOST_ROUNDS = 1e15, 1000  # beyond any data set there is


def main(argv: Sequence[str]) -> int:
    """Parse, simulate, print."""
    args = _parser().parse_args(argv)
    from florence2 import arguments
    from florence2.engine.ingest.ingestion import unit_for
    from florence2.engine.planning.bottlenecks import bottlenecks
    from florence2.engine.planning.rates import read_rates
    from florence2.engine.planning.simulation import Machines, Prices, simulate

    if not (1 <= args.images <= MOST_IMAGES and args.images == int(args.images)):
        raise ValueError(f"--images {args.images:g}: expected a whole number from 1 to {MOST_IMAGES:g}, such as 126e6")
    images = int(args.images)
    gpus = arguments.whole("--gpus", args.gpus, least=0)
    cpus = arguments.whole("--cpus", args.cpus if args.cpus is not None else max(2, 8 * gpus), least=1)
    unit = unit_for(images) if args.unit is None else arguments.whole("--unit", args.unit, least=1)
    rounds = arguments.whole("--rounds", args.rounds, least=0, most=MOST_ROUNDS)
    rates = read_rates(args.rates)
    if not gpus and (wanted := [phase.name for phase in rates.phases if phase.gpus]):
        raise ValueError(f"--gpus 0: the rates of {wanted[0]} are those of a GPU; name --gpus, or --rates of your own")
    if few := [phase for phase in rates.phases if phase.gpus > gpus]:
        raise ValueError(f"--gpus {gpus}: a worker of {few[0].name} takes {few[0].gpus:g}; name as many at least")
    prices = Prices(args.price_per_gpu_hour, args.price_per_cpu_hour, args.price_per_gb_month, args.price_per_1000_puts)
    plan = simulate(rates, images, unit, Machines(gpus, cpus), rounds if rates.each_round else 0, prices)
    limits = bottlenecks(plan, rates)
    if args.json:
        print(json.dumps({**to_json(plan), "bottlenecks": [{**asdict(each), "share": each.share} for each in limits]}))
        return 0
    print("\n".join([*lines(plan), "", "what breaks first:", *(each.line() for each in limits)]))
    print(f"\na fragment in a snapshot: {rates.entry_basis}; pictures: {rates.picture_basis}")
    return 0


def to_json(plan: PlanEstimate) -> dict[str, object]:
    """A plan as plain values, its sums too."""
    sums = {"gpu_hours": plan.gpu_hours, "cpu_hours": plan.cpu_hours}
    return {**asdict(plan), **sums, "bytes": plan.bytes, "cost": plan.cost}


def lines(plan: PlanEstimate) -> list[str]:
    """The schedule, and its sums, in words."""
    machines = f"{plan.machines.gpus} GPUs, {plan.machines.cpus} processors"
    out = [
        f"{plan.images:,} pictures in units of {plan.unit}, on {machines}",
        f"{'round':5} {'phase':14} {'begins':>10} {'takes':>14} {'GPU-hours':>11} {'CPU-hours':>11} {'fragments':>11} "
        f"{'size':>8} {'cost':>11}  {'set by':10} basis",
    ]
    for p in plan.phases:
        out.append(
            f"{p.round:<5} {p.name:14} {duration(p.begins_s):>10} {duration(p.seconds):>14} {p.gpu_hours:>11,.0f} "
            f"{p.cpu_hours:>11,.0f} {p.fragments:>11,} {size(p.bytes):>8} {p.cost:>11,.0f}  {p.limit:10} {p.basis}"
        )
    assumed = sum(p.gpu_hours for p in plan.phases if not p.basis.startswith("measured"))
    share = f", {100 * assumed / plan.gpu_hours:.0f} % of them by assumed rates" if plan.gpu_hours else ""
    return [
        *out,
        f"time      {duration(plan.seconds)}",
        f"GPU-hours {plan.gpu_hours:,.0f}{share}; CPU-hours {plan.cpu_hours:,.0f}",
        f"storage   {size(plan.bytes)}: {plan.fragments:,} fragments of {size(plan.fragment_bytes)}, snapshots of "
        f"{size(plan.snapshots_bytes)}; {plan.storage_cost_month:,.2f} a month",
        f"cost      {plan.cost:,.2f}",
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "florence2 plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=float, default=126e6, metavar="N", help="pictures (126e6)")
    parser.add_argument("--gpus", type=int, default=64, metavar="N", help="GPUs (64)")
    parser.add_argument("--cpus", type=int, metavar="N", help="processors (8 a GPU)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds of refinement (2)")
    parser.add_argument("--unit", type=int, metavar="N", help="pictures in a unit of work (as annotate would choose)")
    parser.add_argument("--rates", metavar="FILE", help="rates of your own, as a dry run wrote them")
    parser.add_argument("--price-per-gpu-hour", type=float, default=0.0, metavar="P")
    parser.add_argument("--price-per-cpu-hour", type=float, default=0.0, metavar="P")
    parser.add_argument("--price-per-gb-month", type=float, default=0.0, metavar="P")
    parser.add_argument("--price-per-1000-puts", type=float, default=0.0, metavar="P")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser

"""Side by side: two or more calls in alternating order, their times, ratios and share of the machine's floor. A module.

A row whose quartiles lie over 20 % apart is printed as not measurable here. Times are wall seconds, with processor
seconds beside them: where others use the machine, the latter tell more.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from florence2.model import tiers

SPREAD = 0.2


@dataclass
class Times:
    """Wall and processor seconds of one call, run after run."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self, call: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        found = call()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return found

    @property
    def steady(self) -> bool:
        if len(self.wall) < 3:
            return False
        low, _, high = statistics.quantiles(self.wall, n=4)
        return high <= (1 + SPREAD) * low


def arguments(description: str, pairs: int = 5) -> argparse.ArgumentParser:
    """What every speed benchmark takes."""
    out = argparse.ArgumentParser(description=description.splitlines()[0])
    out.add_argument("--quick", action="store_true", help="small pictures, few tokens, few pairs: under two minutes")
    out.add_argument("--pairs", type=int, default=pairs, metavar="N", help=f"alternating runs (default: {pairs})")
    out.add_argument("--threads", type=int, default=2, metavar="N", help="of torch (default: 2)")
    return out


def alternate(calls: Mapping[str, Callable[[], Any]], pairs: int) -> dict[str, Times]:
    """Each call once to warm up, then all in turn, the order reversed every other time."""
    times = {name: Times() for name in calls}
    for call in calls.values():
        call()
    for number in range(pairs):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            times[name].run(calls[name])
    return times


def ratio(theirs: Times, ours: Times) -> float:
    """How many times as fast ours is: the median over pairs."""
    return statistics.median(a / b for a, b in zip(theirs.wall, ours.wall))


def cpu_ratio(theirs: Times, ours: Times) -> float:
    """The same in processor seconds."""
    return statistics.median(a / b for a, b in zip(theirs.cpu, ours.cpu))


class Table:
    """Rows of ours beside theirs, printed as they come; a JSON line last."""

    def __init__(self, benchmark: str, args: argparse.Namespace) -> None:
        self.result: dict[str, Any] = {"benchmark": benchmark, "threads": args.threads, "quick": args.quick}
        print(f"{'':<34}{'theirs':>10}{'ours, min':>11}{'median':>9}{'ratio':>8}{'in cpu':>8}{'of floor':>10}  error")

    def row(self, key: str, name: str, theirs: Times, ours: Times, floor: float | None = None, error: str = "") -> None:
        found = ratio(theirs, ours)
        share = f"{100 * floor / min(ours.wall):.0f} %" if floor else ""
        note = "" if theirs.steady and ours.steady else "  not measurable here"
        times = f"{statistics.median(theirs.wall):>9.3f}s{min(ours.wall):>10.3f}s{statistics.median(ours.wall):>8.3f}s"
        ratios = f"{found:>8.2f}{cpu_ratio(theirs, ours):>8.2f}"
        print(f"{name:<34}{times}{ratios}{share:>10}  {error}{note}", flush=True)
        self.result[f"ratio_{key}"] = round(found, 3)
        self.result[f"cpu_ratio_{key}"] = round(cpu_ratio(theirs, ours), 3)
        if floor:
            self.result[f"floor_{key}"] = round(floor / min(ours.wall), 3)
        if note:
            self.result.setdefault("not_measurable", []).append(key)

    def note(self, key: str, value: Any) -> None:
        self.result[key] = value

    def end(self) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"peak memory {peak:.0f} MB, both models in it")
        print(json.dumps({**self.result, "peak_mb": round(peak)}))


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> str:
    """Largest absolute and relative rms difference."""
    ours, theirs = ours.double(), theirs.double()
    rms = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
    return f"max abs {float((ours - theirs).abs().max()):.1e}, rms {float(rms):.1e}"


class Floor:
    """What the best product of a type, reordered included, takes at the least: from products timed in this run."""

    def __init__(self, threads: int) -> None:
        kinds = ["float32", "float32 reordered", "bfloat16", "bfloat16 reordered", "int8"]
        self.found = tiers.measure(kinds, threads, again=True)
        self.work = 2e-9 * tiers.SHAPE[0] * tiers.SHAPE[1]  # GFLOP a row

    def rate(self, tier: str, rows: str) -> float:
        """GFLOP/s of the best product of so many rows."""
        kinds = [kind for kind in self.found.kinds if kind.split()[0] == tier]
        return max(self.work * tiers.ROWS[rows] / (1e-3 * self.found.ms(kind, rows)) for kind in kinds)

    def seconds(self, tier: str, many: float, step: float = 0.0, rows: str = "one") -> float:
        """Of `many` GFLOP in large products, and `step` GFLOP in products of a decoding step's rows."""
        return many / self.rate(tier, "many") + step / self.rate(tier, rows)

    def told(self) -> str:
        rows = [f"{t} {self.rate(t, 'many'):.0f}" for t in ("float32", "bfloat16", "int8")]
        return f"best products of 577 rows, GFLOP/s: {', '.join(rows)}"

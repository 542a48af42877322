"""florence2 status: how a store stands and what its last run has done: while it goes on, or since.

Reads only. Of each specialist: pictures that it has annotated, and that wait for it, in the newest snapshot. What a run
has done since then stands below, with its rate and the time left."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from florence2.engine.status import RunStatus, StoreStatus


def main(argv: Sequence[str]) -> int:
    """Parse, read, print."""
    parser = argparse.ArgumentParser(
        "florence2 status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="the store's folder, or s3://BUCKET/PREFIX")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    from florence2.engine.status import status

    found = status(args.store)
    if args.json:
        print(json.dumps(found.to_json()))
        return 0
    ended = f"snapshot {found.snapshot} ({found.phase})" if found.snapshot else "no snapshot yet"
    pictures = ", ".join(f"{count} {name}" for name, count in sorted(found.pictures.items()))
    print(f"{found.store}: {ended}" + (f"; pictures: {pictures}" if pictures else ""))
    if found.specialists:
        width = max(len(f"{s.name}@{s.version}") for s in found.specialists)
        print(f"{'':{width}} {'done':>10} {'due':>10} {'failed':>10} {'left alone':>10}")
        for s in found.specialists:
            name = f"{s.name}@{s.version}"
            print(f"{name:{width}} {s.done:>10} {s.due:>10} {s.failed:>10} {s.quarantined:>10}")
    if found.unnamed:
        print(f"{found.unnamed} fragments of annotations are in no snapshot yet")
    for line in run_lines(found):
        print(line)
    return 0


def run_lines(found: StoreStatus) -> list[str]:
    """What is to be said of the newest run, and of others that go on beside it."""
    if found.run is None:
        return ["no run has been taken down here"]
    return [line for run in (*found.beside, found.run) for line in _lines_of(run)]


def _lines_of(run: RunStatus) -> list[str]:
    from florence2.cli.progress import duration
    from florence2.engine.status import describe_phase, describe_run

    state = run.state
    began = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(state.began))
    lasted = duration(max(0.0, state.updated - state.began))
    lines = [f"{state.command}, begun {began}, {lasted}: {describe_run(run)}"]
    for phase in state.phases:
        line = f"  {phase.name}: {describe_phase(phase)}"
        if phase is state.phase and phase.rate:
            line += f"; {phase.rate:.3g} a second on {phase.workers} worker{'s' if phase.workers != 1 else ''}"
            line += f", {duration(run.seconds_left)} left" if run.seconds_left is not None else ""
        lines.append(line)
    lines += [f"  then: {', '.join(state.upcoming)}"] if state.upcoming and run.outcome == "running" else []
    return lines

"""florence2 demo: specialists, filters, a student, its refinement and a report, on pictures made here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence2.cli.terminal import raw


def main(argv: Sequence[str]) -> int:
    """Parse, run, print the table; last, alone on its line, the path of the report."""
    parser = argparse.ArgumentParser("florence2 demo", description=__doc__)
    parser.add_argument("--out", default="demo_out", help="the folder it writes (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small form in under a minute; its numbers mean little")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    args = parser.parse_args(argv)
    from florence2 import demo
    from florence2.cli.progress import ProgressBars

    with ProgressBars(args.json) as bars:
        outcome = demo.demo(args.out, demo.QUICK if args.quick else demo.DemoConfig(), bars.on_message, bars)
    if args.json:
        rows = [{**asdict(row), "effect": row.effect} for row in outcome.rows]
        claims = [{**asdict(one), "verdict": one.verdict} for one in outcome.claims]
        print(json.dumps({"rows": rows, "claims": claims, "rounds": outcome.rounds, "report": str(outcome.page)}))
        return 0
    _print(outcome, demo.GROUPS)
    print("\nDoes this run show it?")
    for one in outcome.claims:
        print(f"  {one.line()}")
    print(f"\n{outcome.seconds:.0f} s. Now on your own pictures: florence2 annotate my_photos --out my_store; "
          f'the official weights: florence2.load("{demo.OFFICIAL}")')  # fmt: skip
    print(Path(outcome.page).resolve())
    return 0


def _print(outcome: Any, groups: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Right name and IoU 0.5, on drawn pictures (precision recall F1)", title_justify="left")
    for name in ("phase", *groups, "text", "kept", "not kept", "effect on F1"):
        table.add_column(
            name, no_wrap=name in groups, justify="left" if name in ("phase", "not kept", "effect on F1") else "right"
        )
    for row in outcome.rows:
        scores = (" ".join(f"{row.scores[g][m]:.2f}" for m in ("precision", "recall", "F1")) for g in groups)
        not_kept = ", ".join(f"{reason} {count:,}" for reason, count in row.not_kept.items())
        text = "" if row.text_accuracy is None else f"{row.text_accuracy:.2f}"
        kept = "" if row.kept is None else f"{row.kept:,}"
        table.add_row(row.name, *scores, text, kept, not_kept, row.effect)
    console = Console(file=raw(sys.stdout), highlight=False)
    Console(file=raw(sys.stdout), width=max(console.width, 132), highlight=False).print(table)

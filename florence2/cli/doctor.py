"""florence2 doctor CKPT: what a checkpoint is, and whether it is whole."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

EXAMPLES = """examples:
  florence2 doctor nano
  florence2 doctor my_fine_tune --json
  florence2 doctor microsoft/Florence-2-base --adapter my_lora
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 doctor",
        description="Open a checkpoint, say what it is, and let it speak. Exit code 1 where a problem was found.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("source", metavar="CKPT", help="nano, a folder of any layout, an adapter's folder, or a hub id")
    out.add_argument("--adapter", metavar="FOLDER", help="a peft folder to merge into CKPT")
    out.add_argument("--revision", help="of a hub id")
    out.add_argument("--json", action="store_true", help="one JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command; 1 where the checkpoint has a problem."""
    args = parser().parse_args(argv)
    from florence2.predictor.doctor import examine

    report = examine(args.source, args.revision, args.adapter)
    if args.json:
        print(json.dumps(dataclasses.asdict(report)))
        return bool(report.problems)
    print(f"{report.source}: Florence-2, {report.size} size, {report.layout} layout")
    for name, value in report.facts.items():
        if value is not None:
            print(f"  {name.replace('_', ' '):<27}{_plain(value)}")
    for note in report.notes:
        print(f"  note: {note}")
    for problem in report.problems:
        print(f"  PROBLEM: {problem}")
    print("whole, and it answers" if not report.problems else f"{len(report.problems)} problem(s)")
    return bool(report.problems)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

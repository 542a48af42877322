"""florence2 calibrate: make a model's scores probabilities of being right, on labelled data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  florence2 calibrate my_model --data labelled --split val --task OD
  florence2 calibrate nano --data scenes:1000 --out my_calibration.json

The maps go to calibration.json beside the weights, where florence2.load finds them (for nano and hub ids name a file
with --out, and give it to load(calibration=FILE)); tasks that are in it already stay. Beside it calibration.svg shows
how often items are right, over their score, before and after. Use data that the model was not trained on.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 calibrate",
        description="Fit, for each task, a map from scores to the share of answers that are right.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("model", metavar="MODEL", help="what florence2.load takes: a folder, nano, a hub id")
    out.add_argument("--data", required=True, metavar="D", help="a data set in any known format, a store, scenes:COUNT")
    out.add_argument("--task", action="append", default=[], metavar="T", help="only this task (may be repeated)")
    out.add_argument("--out", type=Path, metavar="FILE", help="where to write (default: beside the weights)")
    out.add_argument("--split", metavar="S", help="a part of the data: train, val or test")
    out.add_argument("--format", metavar="F", help="the data's format, if its files do not show it")
    out.add_argument("--limit", type=int, metavar="N", help="at most so many pictures")
    out.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    out.add_argument("--json", action="store_true", help="print what was fitted as one JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    from florence2.atomic_files import write_atomic
    from florence2.drawing.reliability_plot import reliability_svg
    from florence2.evaluation.calibrate import calibrate

    path, results = calibrate(
        args.model,
        args.data,
        args.out,
        tasks=args.task,
        split=args.split,
        format=args.format,
        limit=args.limit,
        device=args.device,
        report=lambda line: print(line, file=sys.stderr if args.json else sys.stdout),
    )
    fitted = [result for result in results if result.score_map is not None]
    rows = [
        (
            f"{r.task}, {r.items} items",
            [(b.score, b.right, b.items) for b in r.before],
            [(b.score, b.right, b.items) for b in r.after],
        )
        for r in fitted
    ]
    picture = path.with_suffix(".svg")
    write_atomic(picture, reliability_svg(rows))
    if args.json:
        maps = {result.task: result.score_map.to_json() for result in fitted if result.score_map is not None}
        left_out = {result.task: result.why for result in results if result.score_map is None}
        print(json.dumps({"file": str(path), "picture": str(picture), "tasks": maps, "left_out": left_out}))
    else:
        print(f"{path}\n{picture}")
    return 0

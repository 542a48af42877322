"""florence2 quantize: measure the quicker tiers of a checkpoint, and keep those that are good enough."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

EXAMPLES = """examples:
  florence2 quantize nano --data scenes:200 --task OD --out nano_quick
  florence2 quantize my_model --data coco --split test --out my_model_quick

OUT is the checkpoint with tiers.json beside its weights: florence2.load(OUT, speed="fast") takes the quickest tier that
passed. A tier is refused where a task's main metric may be over 2 % worse than float32's (the paired interval), or
where under 99 % of tokens agree when both are given the same answers. Exit code 1: no tier passed.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 quantize",
        description="Measure bfloat16 and int8 beside float32 on your data, and keep what is good enough.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("model", metavar="CKPT", help="what florence2.load takes: nano, a folder, a hub id")
    out.add_argument("--data", required=True, metavar="D", help="a data set in any known format, a store, scenes:COUNT")
    out.add_argument("--out", required=True, type=Path, metavar="Q", help="the folder of the measured checkpoint")
    out.add_argument("--task", action="append", default=[], metavar="T", help="only this task (may be repeated)")
    out.add_argument("--tiers", default="bfloat16,int8", metavar="A,B", help="what is tried (default: bfloat16,int8)")
    out.add_argument("--split", metavar="S", help="a part of the data: train or test")
    out.add_argument("--format", metavar="F", help="the data's format, if its files do not show it")
    out.add_argument("--limit", type=int, metavar="N", help="at most so many pictures")
    out.add_argument("--json", action="store_true", help="print what was decided as one JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    from florence2.evaluation.tier_gate import quantize

    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(message)s")
    found = quantize(
        args.model,
        args.data,
        args.out,
        tasks=args.task,
        split=args.split,
        format=args.format,
        limit=args.limit,
        wanted=args.tiers.split(","),
        report=lambda line: print(line, file=sys.stderr),
    )
    if args.json:
        print(json.dumps({tier: asdict(verdict) for tier, verdict in found.items()}, ensure_ascii=False))
    else:
        for tier, verdict in found.items():
            print(f"{tier}: {'passed' if verdict.passed else 'refused'}: {verdict.why}")
        print(args.out / "tiers.json")
    return 0 if any(verdict.passed for verdict in found.values()) else 1

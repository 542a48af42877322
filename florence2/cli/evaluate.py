"""florence2 evaluate: score a model, a specialist or a file of predictions on a data set."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from florence2.cli.progress import ProgressBars

EXAMPLES = """examples:
  florence2 evaluate --model nano --data scenes:500 --task OD --out runs/nano-od
  florence2 evaluate --model rapidocr --data receipts --task OCR_WITH_REGION --split test --out runs/ocr
  florence2 evaluate --predictions theirs.jsonl --data coco/instances_val2017.json --task OD --out runs/theirs
  florence2 evaluate --model my_model --data coco --protocol coco-detection --out runs/coco

--model is what florence2.load takes (nano, a folder, a hub id) or a specialist's name (rapidocr, opencv, card.yaml,
file.py:Class). Answers go to OUT/predictions.jsonl, scores to OUT/scores.json; the same command again goes on where it
stopped. Beside each score is the same model's on a grey picture. `--protocol list` prints the known benchmarks.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 evaluate",
        description="Score a model, a specialist or a file of predictions on a data set.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = out.add_mutually_exclusive_group()
    what.add_argument("--model", metavar="M", help="a model or a specialist")
    what.add_argument("--predictions", type=Path, metavar="FILE", help="score this file; no model is loaded")
    out.add_argument("--data", metavar="D", help="a data set in any known format, a store, or scenes:COUNT")
    out.add_argument("--task", metavar="T", help="a task's name, such as OD or DocVQA")
    out.add_argument("--out", type=Path, metavar="DIR", help="the folder of the run")
    out.add_argument("--protocol", metavar="NAME", help="a benchmark's own reader, split, task and metric")
    out.add_argument("--images", type=Path, metavar="DIR", help="where the pictures are, if not beside the data")
    out.add_argument("--split", metavar="S", help="a part of the data: train, val or test")
    out.add_argument("--format", metavar="F", help="the data's format, if its files do not show it")
    out.add_argument("--limit", type=int, metavar="N", help="at most so many pictures")
    out.add_argument("--batch-size", type=int, default=8, metavar="N", help="asks at a time (default: 8)")
    out.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    out.add_argument(
        "--resamples", type=int, metavar="N", help="bootstrap resamples (default: 500, fewer of many asks)"
    )
    out.add_argument("--tasks", metavar="CKPT", help="the checkpoint whose own table has the task (default: that of M)")
    out.add_argument("--no-grey", action="store_true", help="leave out the control on a grey picture")
    out.add_argument("--json", action="store_true", help="print the scores as one JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    from florence2 import evaluate
    from florence2.evaluation.protocols import listing
    from florence2.evaluation.score import table

    if args.protocol == "list":
        print(listing())
        return 0
    missing = [f"--{n}" for n in ("data", "out") if getattr(args, n) is None]
    missing += ["--task"] if args.task is None and args.protocol is None else []
    missing += ["--model or --predictions"] if args.model is None and args.predictions is None else []
    if missing:
        print(f"florence2 evaluate: expected {', '.join(missing)}; see florence2 evaluate --help", file=sys.stderr)
        return 2
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    same = ("data", "task", "out", "protocol", "split", "format", "images", "limit", "device", "batch_size", "tasks")
    with ProgressBars() as bars:
        scores = evaluate(
            args.model,
            **{name: getattr(args, name) for name in same},
            predictions=args.predictions,
            grey=not args.no_grey,
            resamples=args.resamples,
            progress=lambda done, total: bars("evaluate", done, total),
        )
    print(json.dumps(scores, ensure_ascii=False) if args.json else f"{table(scores)}\n{args.out / 'scores.json'}")
    return 0

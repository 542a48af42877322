"""florence2 export: write a store's current view in a foreign format, and say what that format cannot hold."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Parse, export, print what was written and what was lost."""
    parser = argparse.ArgumentParser("florence2 export", description=__doc__)
    parser.add_argument("store", help="the store's folder")
    parser.add_argument("--to", required=True, choices=("coco", "voc", "yolo", "jsonl", "labelstudio"))
    parser.add_argument("--out", required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--snapshot", type=int, metavar="N", help="an earlier state of the store (the newest)")
    parser.add_argument(
        "--all", action="store_true", help="jsonl only: rejected and superseded items too, with verdicts"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    if args.all and args.to != "jsonl":
        raise ValueError(f"--all: {args.to} cannot hold verdicts; use --to jsonl")
    from florence2.engine.export import export_labels

    written, lost = export_labels(args.store, args.to, args.out, args.snapshot, "all" if args.all else "current")
    if args.json:
        print(json.dumps({"out": args.out, "samples": written, "lost": dict(sorted(lost.items()))}))
        return 0
    print(f"{args.out}: {written} pictures")
    if lost:
        print(f"{args.to} cannot hold: " + ", ".join(f"{count} {what}" for what, count in sorted(lost.items())))
    return 0

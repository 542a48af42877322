"""florence2 import: bring existing annotations into a store; human, then imported labels outrank what models say."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Parse, import, print the counts."""
    parser = argparse.ArgumentParser("florence2 import", description=__doc__)
    parser.add_argument(
        "source",
        help="a data set: COCO, LVIS, Objects365, Open Images, VOC, YOLO, Label Studio, JSON Lines, SROIE, ICDAR...",
    )
    parser.add_argument("--out", required=True, metavar="STORE", help="the store to write, or to add to")
    parser.add_argument("--format", help="its format, where its files do not show it")
    parser.add_argument("--images", metavar="DIR", help="where the pictures are, when not beside the labels")
    parser.add_argument("--split", help="one part of it: train, val, test")
    parser.add_argument("--skip-bad", action="store_true", help="leave out records that cannot be read (data check)")
    parser.add_argument(
        "--reviewed",
        action="store_true",
        help="SRC is an export of STORE (labelstudio, coco) that a person went over: what it lacks was deleted",
    )
    parser.add_argument("--unit", type=int, metavar="N", help="pictures in a unit of work (64; of very many up to 512)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a core); 0: in this process")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    args = parser.parse_args(argv)
    from florence2.cli.annotate import describe
    from florence2.cli.progress import ProgressBars
    from florence2.engine.commands import import_labels

    with ProgressBars(args.quiet) as bars:
        store = import_labels(
            args.source,
            args.out,
            args.format,
            images=args.images,
            split=args.split,
            unit=args.unit,
            workers=args.workers,
            skip_bad=args.skip_bad,
            reviewed=args.reviewed,
            progress=bars,
            on_message=bars.on_message if not args.quiet else lambda line: print(line, file=sys.stderr),
        )
    counts, reasons = store.counts(), store.reasons()
    if args.json:
        print(json.dumps({"store": str(store.root), **counts, "reasons": reasons}))
    else:
        print(describe(counts, reasons))
        print(f"{store.root}: snapshot {counts['snapshot']}; next: florence2 annotate {store.root}")
    return 0

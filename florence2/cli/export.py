"""florence2 export: write a store's current view in a foreign format, and say what that format cannot hold."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

FORMATS = ("coco", "voc", "yolo", "jsonl", "labelstudio", "cvat")
EPILOG = """Pictures are copied into DIR (JSON Lines refers to them where they lie); mapping.json says where each came
from.
The same command again goes on where it was interrupted."""


def main(argv: Sequence[str]) -> int:
    """Parse, export, print what was written and what was lost."""
    args = _parser().parse_args(argv)
    from florence2.engine.export import export_labels

    written, lost = export_labels(
        args.store,
        args.to,
        args.out,
        args.snapshot,
        "all" if args.all else "current",
        scores=args.scores,
        link=args.link,
        split=_shares(args.split),
        yolo=args.yolo or "",
        image_prefix=args.image_prefix or "",
        on_message=lambda line: print(line, file=sys.stderr),
    )
    if args.json:
        print(json.dumps({"out": args.out, "samples": written, "lost": dict(sorted(lost.items()))}))
        return 0
    print(f"{args.out}: {written} pictures")
    if lost:
        print(f"{args.to} cannot hold: " + ", ".join(f"{count} {what}" for what, count in sorted(lost.items())))
    return 0


def _shares(text: str | None) -> tuple[float, ...]:
    """Per cent of train, val and test."""
    try:
        return tuple(float(part) for part in text.split("/")) if text else ()
    except ValueError:
        raise ValueError(f"--split {text}: expected three numbers that make 100, such as 80/10/10") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "florence2 export", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="the store's folder")
    parser.add_argument("--to", required=True, choices=FORMATS)
    parser.add_argument("--out", required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--snapshot", type=int, metavar="N", help="an earlier state of the store (the newest)")
    parser.add_argument(
        "--all", action="store_true", help="jsonl only: rejected and superseded items too, with verdicts"
    )
    parser.add_argument(
        "--scores", action="store_true", help="coco, yolo: write scores (jsonl and labelstudio always do)"
    )
    parser.add_argument("--link", action="store_true", help="hard links to the pictures in place of copies")
    parser.add_argument(
        "--split", metavar="A/B/C", help="part the set: per cent for train, val and test, by the pictures' names"
    )
    parser.add_argument(
        "--yolo", choices=("boxes", "outlines"), help="what YOLO's rows hold (outlines where every object has one)"
    )
    parser.add_argument("--image-prefix", metavar="URL", help="labelstudio: what comes before a picture's name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser

"""florence2 report STORE|RUN --out page.html: a page of charts and pictures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

EXAMPLES = """examples:
  florence2 report my_store --out report.html
  florence2 report my_store --out report.html --pictures 60
  florence2 report my_store --out changes.html --rounds 0 2
  florence2 report runs/nano --out training.html
  florence2 report runs/coco-tuned --beside runs/coco --out compared.html
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 report",
        description="Write one self-contained HTML page about a store (what was kept and rejected, why, pictures) "
        "or about the folder of an evaluation or a training.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("path", type=Path, metavar="STORE|RUN", help="a store, or the folder of a run")
    out.add_argument("--out", type=Path, required=True, metavar="PAGE", help="the page to write, such as page.html")
    out.add_argument("--beside", type=Path, metavar="RUN", help="a second evaluation, to compare with")
    out.add_argument(
        "--rounds",
        type=int,
        nargs=2,
        metavar="N",
        help="of a store: what changed between two rounds of refinement, and why; 0 is before the first",
    )
    out.add_argument("--pictures", type=int, default=24, metavar="N", help="at most so many pictures (default: 24)")
    out.add_argument("--json", action="store_true", help="print the page's path as a JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    from florence2.reporting import report

    page = report(args.path, args.out, args.pictures, beside=args.beside, rounds=args.rounds and tuple(args.rounds))
    print(json.dumps({"page": str(page)}) if args.json else page)
    return 0

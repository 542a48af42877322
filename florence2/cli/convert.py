"""florence2 convert SRC DST --to LAYOUT: a checkpoint, or an adapter, in another layout; read back and compared."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence

LAYOUTS = ("microsoft", "transformers", "florence2")
EXAMPLES = """examples:
  florence2 convert microsoft/Florence-2-base base --to transformers
  florence2 convert my_run my_model --to microsoft
  florence2 convert florence-community/Florence-2-base merged --to florence2 --adapter my_lora
  florence2 convert my_lora other_lora --to microsoft      (an adapter's own folder stays an adapter)
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    out = argparse.ArgumentParser(
        prog="florence2 convert",
        description="Save a checkpoint in another layout. Nothing is lost: what was written is read back and compared.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("source", metavar="SRC", help="nano, a folder of any layout, an adapter's folder, or a hub id")
    out.add_argument("folder", metavar="DST", help="a new or empty folder")
    out.add_argument("--to", required=True, choices=LAYOUTS, help="the layout to write")
    out.add_argument("--adapter", metavar="FOLDER", help="a peft folder to merge into SRC")
    out.add_argument("--revision", help="of a hub id")
    out.add_argument("--json", action="store_true", help="one JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    from florence2.predictor.convert import convert

    done = convert(args.source, args.folder, args.to, args.revision, args.adapter)
    if args.json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        print(
            f"{done.folder}: {done.layout} layout, {done.dtype}; {done.tensors} tensors read back and found bit-equal "
            f"on all {done.rows} rows that the tokenizer names"
        )
    return 0

"""florence2 review: write the pictures worth a person's minute for Label Studio, those worth most first."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

EPILOG = """\
examples:
  florence2 review my_store --out tasks.json --limit 50
  florence2 import corrected.json --out my_store --reviewed      # what a person changed, added or deleted comes back

A picture's worth is the number of its annotations that are probably to be corrected: objects that sources dispute,
scores near the threshold that kept or rejected them, and a little for rare labels. Pictures that a person went over
are left out. tasks.xml beside the tasks is the labelling config. In Label Studio the pictures come from local storage
with / as its root, or with --image-prefix from a server of yours: of the folder that holds all pictures of the store.
"""


def parser() -> argparse.ArgumentParser:
    out = argparse.ArgumentParser(
        "florence2 review", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("store", help="the store's folder")
    out.add_argument("--out", required=True, metavar="TASKS.json", help="the file to write")
    out.add_argument("--limit", type=int, metavar="N", help="at most so many pictures (all)")
    out.add_argument(
        "--image-prefix",
        default="",
        metavar="URL",
        help="what comes before a picture's path under the folder that holds them all",
    )
    out.add_argument("--json", action="store_true", help="print one JSON object")
    return out


def main(argv: Sequence[str]) -> int:
    """Run the command."""
    args = parser().parse_args(argv)
    from florence2.engine.review_tasks import write_review

    found = write_review(args.store, args.out, args.limit, args.image_prefix, lambda line: print(line, file=sys.stderr))
    if args.json:
        rows = [{"image_id": one.image_id, "worth": round(one.worth, 4), **one.parts} for one in found]
        print(json.dumps({"out": args.out, "pictures": rows}))
        return 0
    total = sum(one.worth for one in found)
    print(f"{args.out}: {len(found)} pictures, worth {total:.1f} corrections; the first {found[0].worth:.1f}")
    return 0

"""florence2 relocate: say where a store's pictures lie now."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Parse, move the references, say how many."""
    parser = argparse.ArgumentParser(
        "florence2 relocate",
        description="Say that the pictures that lay below one folder lie below another now. No file is touched; the "
        "bytes are compared when the store is annotated next. A folder given to annotate under a new path is found by "
        "itself.",
    )
    parser.add_argument("store", help="the store's folder")
    parser.add_argument("old", metavar="FROM", help="the folder, or the archive, that the store knows")
    parser.add_argument("new", metavar="TO", help="where it is now")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    from florence2.engine.commands import relocate

    count = relocate(args.store, args.old, args.new, on_message=lambda line: print(line, file=sys.stderr))
    if args.json:
        print(json.dumps({"store": args.store, "pictures": count}))
    else:
        print(f"{args.store}: {count} pictures lie below {os.path.abspath(args.new)} now")
    return 0

"""florence2 verify: find damaged or missing fragments of a store; --repair makes them again from runs/."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from florence2.cli.trusting import add_trust, trusted


def main(argv: Sequence[str]) -> int:
    """Parse, verify, perhaps repair, name what is left; 1 where anything is."""
    parser = argparse.ArgumentParser("florence2 verify", description=__doc__)
    parser.add_argument("store", help="the store's folder")
    parser.add_argument("--repair", action="store_true", help="run again what wrote the damaged fragments")
    parser.add_argument(
        "--with", dest="with_", default="", metavar="A,B", help="specialists for --repair, where named anew"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes for --repair (one a core)")
    add_trust(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    from florence2.cli.progress import ProgressBars
    from florence2.engine.planning.repair import repair
    from florence2.store import Store

    store = Store(args.store)
    trusted(args, args.store, lambda line: print(line, file=sys.stderr))
    damaged = store.verify()
    found = [(damage.path, damage.cause) for damage in damaged]
    if args.repair and damaged:
        with ProgressBars() as bars:
            names = [name.strip() for name in args.with_.split(",") if name.strip()]
            damaged = repair(store, damaged, names, workers=args.workers, progress=bars, on_message=bars.on_message)
    left = [(damage.path, damage.cause) for damage in damaged]
    if args.json:
        print(json.dumps({"store": str(store.root), "damaged": found, "left": left}))
    else:
        for path, cause in found:
            print(f"{path}: {cause}" + ("" if (path, cause) in left or not args.repair else ", made again"))
        fragments = len(store.snapshot().fragments)
        print(
            f"{store.root}: {len(left)} damaged or missing of {fragments} fragments" if left else f"{store.root}: whole"
        )
    return 1 if left else 0

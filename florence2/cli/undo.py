"""florence2 undo: step a store back to an earlier snapshot, by a new one that holds what that one held."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Parse, step back, print the store's current snapshot."""
    parser = argparse.ArgumentParser(
        "florence2 undo",
        description="Step a store back by a new snapshot that holds what an earlier one held; nothing is removed. "
        "Where the newest snapshot is damaged or missing, this goes back to the newest that is whole.",
    )
    parser.add_argument("store", help="the store's folder")
    parser.add_argument("--to", type=int, metavar="N", help="the snapshot to go back to (the one before the newest)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    from florence2.store import Store

    store = Store(args.store)
    made = store.undo(args.to)
    if args.json:
        print(json.dumps({"store": str(store.root), "snapshot": made.number, "holds": made.phase["undo"]}))
    else:
        print(f"{store.root}: snapshot {made.number} holds what snapshot {made.phase['undo']} held")
    return 0

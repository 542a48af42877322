"""florence2 filter: judge the annotations of a store; every verdict is kept with its rule, value and threshold."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Parse, judge, print the counts."""
    parser = argparse.ArgumentParser("florence2 filter", description=__doc__)
    parser.add_argument("store", help="the store's folder")
    parser.add_argument("--rules", metavar="FILE.yaml", help="settings that differ from the defaults (see --show)")
    parser.add_argument("--show", action="store_true", help="print the rules as they would judge, as YAML, and stop")
    parser.add_argument(
        "--merge", nargs="?", const="", metavar="FILE.yaml",
        help="then merge sources that agree; settings that differ: iou, conflict_iou, unconfirmed_below, synonyms, ...",
    )  # fmt: skip
    parser.add_argument("--tune", metavar="LABELLED", help="fit thresholds to a labelled data set, judge nothing")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a core); 0: in this process")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    args = parser.parse_args(argv)
    from florence2.cli.annotate import describe
    from florence2.cli.progress import ProgressBars
    from florence2.engine.commands import filter
    from florence2.engine.curation.filters.rules import open_chain, to_yaml
    from florence2.engine.curation.merging import MergeConfig, settings

    if args.show:
        print(to_yaml(open_chain(args.rules)), end="")
        return 0
    if args.tune:
        return tune(args.store, args.tune, args.rules, args.json)
    merging = None if args.merge is None else settings(args.merge) if args.merge else MergeConfig()
    with ProgressBars(args.quiet) as bars:
        store = filter(
            args.store, args.rules, merging=merging, workers=args.workers, progress=bars, on_message=bars.on_message
        )
    counts, reasons = store.counts(), store.reasons()
    if args.json:
        print(json.dumps({"store": str(store.root), **counts, "reasons": reasons}))
    else:
        print(describe(counts, reasons))
        print(f"{store.root}: snapshot {counts['snapshot']}; next: florence2 refine {store.root} --rounds 1")
    return 0


def tune(store: str, labelled: str, rules: str | None, as_json: bool) -> int:
    """Print each rule's curve against a labelled set, and the settings it suggests."""
    from dataclasses import asdict

    import yaml

    from florence2 import sources
    from florence2.engine.curation import tuning
    from florence2.engine.curation.filters.rules import open_chain
    from florence2.store import Store

    chain = open_chain(rules)
    curves = tuning.tune(Store(store).samples(view="all"), sources.open(labelled), chain)
    if as_json:
        for curve in curves:
            print(json.dumps(asdict(curve)))
        return 0
    print(tuning.to_text(curves))
    changes = tuning.suggestions(curves, chain)
    print("\nsuggested (--rules FILE.yaml):" if changes else "\nno value is better by two points of F1")
    if changes:
        print(yaml.safe_dump(changes, sort_keys=False), end="")
    return 0

"""florence2 filter: judge the annotations of a store; every verdict is kept with its rule, value and threshold."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from florence2.cli.journaling import add_journal, journal_of
from florence2.cli.runners import add_runner, runner_of
from florence2.cli.trusting import add_trust, trusted

if TYPE_CHECKING:
    from florence2.engine.curation.merging import MergeConfig
    from florence2.store import Store

FITTED = "# fitted by florence2 filter --tune"  # the first line of what --write writes


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
    parser.add_argument("--tune", metavar="LABELLED", help="fit rules to a labelled data set, judge nothing")
    parser.add_argument("--write", metavar="FILE.yaml", help="with --tune: write the fitted rules, for --rules")
    add_runner(parser, "processes (one a core); 0: in this process")
    add_trust(parser)
    add_journal(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    args = parser.parse_args(argv)
    from florence2.cli.annotate import describe
    from florence2.cli.progress import ProgressBars
    from florence2.engine.commands import filter
    from florence2.engine.curation.filters.rules import open_chain, to_yaml
    from florence2.engine.curation.merging import MergeConfig, settings
    from florence2.refinement.rounds import done_rounds
    from florence2.refinement.stopping import stop_of

    if args.show:
        print(to_yaml(open_chain(args.rules)), end="")
        return 0
    if args.tune:
        return tune(args.store, args.tune, args.rules, args.write, args.json)
    if args.write:
        raise ValueError("--write: names the file for fitted rules; it goes with --tune LABELLED")
    merging = None if args.merge is None else settings(args.merge) if args.merge else MergeConfig()
    with ProgressBars(args.quiet) as bars:
        trusted(args, args.store, bars.on_message)
        bars.journal = journal_of(args.log, args.metrics, bars.on_message)
        told: dict[str, Any] = {"progress": bars, "on_message": bars.on_message, "journal": bars.journal}
        store = filter(args.store, args.rules, merging=merging, **runner_of(args), **told)
    counts, reasons = store.counts(), store.reasons()
    if args.json:
        print(json.dumps({"store": str(store.root), **counts, "reasons": reasons}))
    else:
        print(describe(counts, reasons))
        for line in proposals(store, merging):
            print(line)
        newest = store.snapshot()
        more = f"next: florence2 refine {store.root} --rounds {done_rounds(newest) + 1}"
        why = stop_of(newest)
        print(f"{store.root}: snapshot {counts['snapshot']}; {f'refinement stopped: {why}' if why else more}")
    return 0


def proposals(store: Store, merging: MergeConfig | None) -> list[str]:
    """Lines that name likely synonyms, after merging."""
    from florence2.engine.curation.synonyms import likely_synonyms

    found = [] if merging is None else likely_synonyms(store.samples(view="all"), merging.synonyms)
    if not found:
        return []
    groups = ", ".join(f"[{', '.join(json.dumps(label, ensure_ascii=False) for label in f.labels)}]" for f in found)
    return [f"likely synonyms, {each}" for each in found] + [f"to merge them (--merge FILE.yaml): synonyms: [{groups}]"]


def tune(store: str, labelled: str, rules: str | None, write: str | None, as_json: bool) -> int:
    """Print each rule's curve against a labelled set, then what fitting them together brings, and the rules' YAML."""
    from dataclasses import asdict

    import yaml

    from florence2 import sources
    from florence2.atomic_files import check_replaceable, write_atomic
    from florence2.engine.curation import fitting, tuning
    from florence2.engine.curation.filters.rules import open_chain
    from florence2.store import Store

    if write:
        check_replaceable(write, FITTED.encode(), "rules that were fitted before")
    chain, truths = open_chain(rules), list(sources.open(labelled))
    samples = list(Store(store).samples(view="all"))
    curves = tuning.tune(samples, truths, chain)
    found = fitting.fit(samples, truths, chain)
    text = yaml.safe_dump(dict(found.changes), sort_keys=False)
    if as_json:
        for curve in curves:
            print(json.dumps(asdict(curve)))
        print(json.dumps({"fit": asdict(found)}))
    else:
        print("each rule alone:", tuning.to_text(curves), "", found.to_text(), sep="\n")
        if found.refused or not found.changes:
            print("no change is suggested: " + (found.refused or "none raises F1 on both parts of the fitted pictures"))
        else:
            print(f"\nfitted rules (--rules FILE.yaml):\n{text}", end="")
    if write and found.changes:
        write_atomic(write, f"{FITTED}\n{text}")
    elif write:
        print(f"{write}: not written, as nothing is suggested", file=sys.stderr)
    return 0

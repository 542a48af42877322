"""florence2 refine: train a student on what a store keeps, let it annotate what it has not seen, judge, merge; again.

N is the number of rounds in all: rounds that the store has had are not done again, an interrupted one goes on."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence2.cli.trusting import add_trust, trusted


def main(argv: Sequence[str]) -> int:
    """Parse, refine, print each round."""
    args = _parser().parse_args(argv)
    from florence2.cli.progress import ProgressBars
    from florence2.formats import label_names
    from florence2.refinement import refine
    from florence2.refinement.rounds import MERGING

    with ProgressBars(args.quiet) as bars:
        trusted(args, args.store, bars.on_message)

        def show(done: Any) -> None:
            if args.json:
                plain = {
                    "round": done.number,
                    "snapshot": done.snapshot,
                    "students": [asdict(s) for s in done.students],
                }
                print(json.dumps({**plain, "changes": done.changes.to_json()}), flush=True)
            else:
                print("\n".join(done.lines()), flush=True)

        rounds = refine(
            args.store,
            args.rounds,
            args.folds,
            args.start,
            recipe=recipe_of(args.recipe, args.set),
            tasks=[name.strip() for name in args.tasks.split(",")] if args.tasks else (),
            labels=label_names.of_option(args.labels) if args.labels else (),
            rules=args.rules,
            merging=None if args.no_merge else MERGING,
            seed=args.seed,
            from_previous=not args.from_scratch,
            workers=args.workers,
            device=args.device,
            progress=bars,
            on_round=show,
        )
    if not rounds and not args.json:
        print(f"{args.store}: has had {args.rounds} rounds already; ask for more with --rounds {args.rounds + 1}")
    return 0


def recipe_of(path: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """Keys of train for the student: those of a YAML file, then those of KEY=VALUE settings."""
    from florence2.formats import documents

    recipe: dict[str, Any] = documents.read_settings(Path(path)) if path else {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting!r}: expected KEY=VALUE, such as steps=300")
        recipe[key] = documents.parse_setting(value, f"--set {setting}")
    wrong = sorted(set(recipe) & {"model", "out", "seed"})
    if wrong:
        raise ValueError(f"recipe: {wrong[0]} is set by the command itself (--start, --seed); leave it out")
    return recipe


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "florence2 refine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", help="the store's folder, annotated")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="rounds in all (1)")
    parser.add_argument(
        "--folds", type=int, default=2, metavar="K", help="parts, each annotated by the others' student (2)"
    )
    parser.add_argument("--start", default="nano", metavar="MODEL", help="what the first students start from (nano)")
    parser.add_argument("--from-scratch", action="store_true", help="later students start from MODEL too")
    parser.add_argument("--recipe", metavar="FILE.yaml", help="keys of train for the students")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one key of train: steps=300")
    parser.add_argument(
        "--tasks", metavar="T,...", help="what students learn and are asked (what the kept annotations can train)"
    )
    parser.add_argument(
        "--labels", metavar="A,B|FILE", help="names of objects, or a file of them (those that kept annotations have)"
    )
    parser.add_argument("--rules", metavar="FILE.yaml", help="filter rules (those the store was last judged by)")
    parser.add_argument("--no-merge", action="store_true", help="leave sources side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, metavar="N", help="processes that annotate (one a core)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    add_trust(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a round")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser

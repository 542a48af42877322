"""florence2 refine: train a student on what a store keeps, let it annotate what it has not seen, judge, merge; again.

N is the most rounds in all: rounds that the store has had are not done again, an interrupted one goes on, and it stops
earlier where answers no longer agree better with the labels of pictures that are kept out of training (--holdout)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence2.cli.journaling import add_journal, journal_of
from florence2.cli.runners import add_runner, runner_of
from florence2.cli.trusting import add_trust, trusted


def main(argv: Sequence[str]) -> int:
    """Parse, refine, print each round."""
    args = _parser().parse_args(argv)
    from florence2.cli.progress import ProgressBars
    from florence2.formats import label_names
    from florence2.refinement import refine
    from florence2.refinement.rounds import MERGING, done_rounds
    from florence2.store import Store

    with ProgressBars(args.quiet) as bars:
        trusted(args, args.store, bars.on_message)
        bars.journal = journal_of(args.log, args.metrics, bars.on_message)
        had = done_rounds(Store(args.store).snapshot())

        def show(done: Any) -> None:
            if args.json:
                plain = {
                    "round": done.number,
                    "snapshot": done.snapshot,
                    "students": [asdict(s) for s in done.students],
                }
                held = done.agreement
                measured = {"agreement": held and {"pictures": held.pictures, "value": held.value, **held.by_kind}}
                more = {"changes": done.changes.to_json(), **measured, "stopped": done.stopped}
                print(json.dumps({**plain, **more}), flush=True)
            else:
                print("\n".join(done.lines()), flush=True)

        rounds = refine(
            args.store,
            args.rounds,
            args.folds,
            args.start,
            recipe=recipe_of(args.recipe, args.set),
            tasks=() if args.tasks is None else _tasks_of(args.tasks),
            labels=() if args.labels is None else label_names.of_option(args.labels),
            rules=args.rules,
            merging=None if args.no_merge else MERGING,
            seed=args.seed,
            from_previous=not args.from_scratch,
            replay=args.replay,
            holdout=args.holdout,
            views=args.views,
            **runner_of(args),
            device=args.device,
            progress=bars,
            on_round=show,
            on_message=bars.on_message,
            journal=bars.journal,
        )
    if not rounds and not args.json:
        print(_why_nothing(args.store, args.rounds, had))
    return 0


def _why_nothing(store: str, rounds: int, had: int) -> str:
    """Why no round was done: refinement stopped, or there were so many; `had` when the command began."""
    from florence2.refinement.rounds import done_rounds
    from florence2.refinement.stopping import stop_of
    from florence2.store import Store

    newest = Store(store).snapshot()
    done = done_rounds(newest)
    meanwhile = " by another command meanwhile" if had < min(done, rounds) else ""
    if (why := stop_of(newest)) and done < rounds:
        return (
            f"{store}: stopped after round {done}{meanwhile}: {why}; go on in spite of it with --holdout 0, or go "
            "back to an earlier round with florence2 undo"
        )
    already = f", the last{meanwhile}" if meanwhile else " already"
    return (
        f"{store}: has had {done} {'round' if done == 1 else 'rounds'}{already}; ask for more with --rounds {done + 1}"
    )


def _tasks_of(given: str) -> list[str]:
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise ValueError(f"--tasks {given!r}: expected names of tasks, such as OD,CAPTION")
    return names


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
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="most rounds in all (1)")
    parser.add_argument(
        "--folds", type=int, default=2, metavar="K", help="parts, each annotated by the others' student (2)"
    )
    parser.add_argument(
        "--start", metavar="MODEL", help="what the first students start from (that of the rounds before, else nano)"
    )
    parser.add_argument("--from-scratch", action="store_true", help="students of later rounds start from MODEL too")
    parser.add_argument(
        "--replay",
        default="own",
        metavar="DATA",
        help="data shown beside the labels so that students do not forget what their start knew: a path, none, or own, "
        "the start's own where they are known (own)",
    )
    parser.add_argument(
        "--holdout",
        type=float,
        metavar="SHARE",
        help="share of the pictures that no student is trained on; refinement stops with the first round whose answers "
        "agree no better with their labels (0.1; 0: none, nothing stops)",
    )
    parser.add_argument(
        "--views",
        action="store_true",
        help="look for objects in four views of each picture: better labels, at four times the cost of annotating",
    )
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
    add_runner(parser, "processes that annotate (one a core)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 (default: auto, a GPU if there is one)")
    add_trust(parser)
    add_journal(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a round")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser

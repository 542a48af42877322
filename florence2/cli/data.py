"""florence2 data check|show|duplicates|stats: what is wrong with a data set, what a model sees of it, what it holds."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from florence2.codec.tasks import Task
    from florence2.codec.tokenizer import Tokenizer
    from florence2.formats.problems import ReadProblems
    from florence2.predictor.checkpoints import FoundCheckpoint
    from florence2.records import Sample
    from florence2.training.examples import Limits, TaskMixture


def main(argv: Sequence[str]) -> int:
    """Parse and do one of the four; duplicates and stats read the whole set, whatever its tasks."""
    if argv and argv[0] in ("duplicates", "stats"):
        from florence2.cli import data_stats

        return data_stats.main(argv)
    parser = _parser()
    args = parser.parse_args(argv)
    if args.action == "show" and not args.task:
        parser.error("show: expected --task T, such as --task OD")

    from florence2 import sources
    from florence2.codec.tasks import task_of
    from florence2.formats.problems import ReadProblems
    from florence2.predictor import checkpoints

    found = checkpoints.find(args.model)
    tokenizer, table = found.tokenizer(), found.tasks()
    tasks = [task_of(args.task, table)] if args.task else list(table.values())
    unread = ReadProblems(skip=True) if args.action == "check" else None
    samples = sources.open(args.path, args.split, args.format, args.limit, args.images, unread, table)
    if unread is not None:
        from florence2.training.examples import TaskMixture
        from florence2.training.setup import limits_of

        limits = limits_of(found.checkpoint().config, args.max_target)
        table = {task.token: task for task in tasks}
        return check(samples, TaskMixture(dict.fromkeys(table, 1.0), table), tokenizer, limits, args.json, unread)
    return show(samples, tasks[0], tokenizer, found, args.json, args.draw)


def check(
    samples: Iterator[Sample],
    tasks: TaskMixture,
    tokenizer: Tokenizer,
    limits: Limits,
    as_json: bool,
    unread: ReadProblems,
) -> int:
    """Print every problem; valid parts that were left out are listed beside them."""
    from florence2.training.check import problems

    counts: Counter[str] = Counter()
    for problem in problems(samples, tasks, tokenizer, limits, unread):
        counts[problem.reason] += 1
        print(json.dumps(vars(problem)) if as_json else f"{problem.id or '-'}: {problem.reason}: {problem.detail}")
    for line in unread.notes():
        print(line, file=sys.stderr)
    if not as_json:
        print(", ".join(f"{n} {reason}" for reason, n in sorted(counts.items())) or "no problem found")
    return 1 if counts else 0


def show(
    samples: Iterator[Sample], task: Task, tokenizer: Tokenizer, found: FoundCheckpoint, as_json: bool, out: str | None
) -> int:
    from florence2.pixels import encode
    from florence2.training.check import drawn, pairs

    size_wh = found.checkpoint().config.image_size_wh if out else (0, 0)
    shown = 0
    for number, pair in enumerate(pairs(samples, task, tokenizer)):
        row = pair.row()
        if out:
            Path(out).mkdir(parents=True, exist_ok=True)
            row["drawn"] = str(Path(out) / f"{number:05d}.png")
            Path(row["drawn"]).write_bytes(encode(drawn(pair, size_wh)))
        print(json.dumps(row, ensure_ascii=False) if as_json else _plain(row))
        shown += 1
    if not shown:
        print(f"florence2 data: no sample holds anything that {task.name} could be trained on", file=sys.stderr)
    return 0 if shown else 1


def _plain(row: dict[str, Any]) -> str:
    drawn = f"\n  drawn   {row['drawn']}" if "drawn" in row else ""
    return f"{row['id']}  {row['image']}\n  prompt  {row['prompt']}\n  target  {row['target']}{drawn}"


def _parser() -> argparse.ArgumentParser:
    more = "duplicates PATH [PATH ...] and stats PATH take no task: see florence2 data duplicates --help"
    parser = argparse.ArgumentParser(prog="florence2 data", description=__doc__, epilog=more)
    parser.add_argument("action", choices=("check", "show"))
    parser.add_argument("path", metavar="PATH", help="a folder in a known format, a .jsonl, a store, or scenes:COUNT")
    parser.add_argument(
        "--task", metavar="T", help="a task's name, such as OD (check: default all that the data can train)"
    )
    parser.add_argument("--model", default="nano", help="whose tokenizer and picture size count (default: nano)")
    parser.add_argument("--split", choices=("train", "val", "test"))
    parser.add_argument("--format", help="the data's format where its files do not show it")
    parser.add_argument("--images", help="the pictures' folder where they are not beside the annotations")
    parser.add_argument("--limit", type=int, metavar="N", help="read the first N samples only")
    parser.add_argument(
        "--max-target", type=int, metavar="N", help="longest target in tokens (check; default: what the model holds)"
    )
    parser.add_argument("--draw", metavar="DIR", help="write what the model sees, the target drawn on it (show)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    return parser

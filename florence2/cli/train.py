"""florence2 train: read a config, train, print the live line and what came out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence2.cli.journaling import add_journal, journal_of
from florence2.cli.terminal import raw

if TYPE_CHECKING:
    from florence2.monitoring.run_journal import RunJournal


def main(argv: Sequence[str]) -> int:
    args, overrides = _parser().parse_known_args(argv)
    if args.help_keys:
        print(_parser().format_help() + "\n" + help_of_keys())
        return 0
    if not args.config and not overrides:
        _parser().error("expected --config, or keys of one: --model=nano --data.0.path=FOLDER --out=FOLDER")

    from florence2.training import read_config, train

    config = read_config(args.config, overrides)
    if args.dry_run:
        from florence2.training.dry_run import dry_run

        plan = dry_run(config, args.draw, args.restart)
        print(json.dumps(plan.to_json()) if args.json else plan)
        return 0
    show = Live(args.json)
    with written_down(args, config, show) as progress:
        result = train(config, progress=progress, restart=args.restart, on_message=show.message)
        if result.interrupted and show.journal is not None:  # the other ranks keep none
            show.journal.end("interrupted")
    show.end()
    if not prints_progress():
        return 130 if result.interrupted else 0
    if args.json:
        print(json.dumps(vars(result)))
    else:
        print(f"{result.folder}: {result.steps} steps in {result.seconds:.0f} s")
        print(
            f"loss {result.loss_before:.3f} before, {result.loss_after:.3f} after; weights {result.weights_sha256[:16]}"
        )
    if result.stopped == "patience":
        print("stopped: no better evaluation for `patience` of them; OUT/best holds the best", file=sys.stderr)
    if result.left_out:
        file = Path(result.folder) / "left_out.jsonl"
        print(f"left out: {result.left_out}" + (f"; each in {file}" if file.is_file() else ""), file=sys.stderr)
    if result.interrupted:
        print(f"interrupted after step {result.steps}; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


@contextmanager
def written_down(args: argparse.Namespace, config: Any, show: Live) -> Iterator[Callable[[dict[str, Any]], None]]:
    """The run in its journal, of the rank that prints; yields what takes each metrics line."""
    if not prints_progress():
        yield show
        return
    from florence2 import __version__

    journal = show.journal = journal_of(args.log, args.metrics, show.message)
    journal.begin("train", str(config.out), __version__)

    def step(line: dict[str, Any]) -> None:
        shown = ("loss", "lr", "tokens", "data_seconds")
        values: dict[str, float] = {key: float(line[key]) for key in shown if key in line}
        journal.training_step(line["step"], line["steps"], values)
        show(line)

    try:
        yield step
    except KeyboardInterrupt:
        journal.end("interrupted")
        raise
    except BaseException as error:
        journal.end("failed", str(error) or type(error).__name__)
        raise
    journal.end()


def prints_progress() -> bool:
    """Whether this process is the one of several that prints."""
    import os

    return os.environ.get("RANK", "0") == "0"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence2 train",
        description="Train a model as a config says, or keys alone. The same command again goes on where it stopped.",
        epilog="Any key can be changed: --steps=500 --lr=1e-4 --data.0.path=FOLDER. Shipped recipes open by bare name. "
        "Several ranks: torchrun --nproc-per-node N -m florence2 train --config FILE.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", dest="help_keys", action="store_true", help="this, and every key of a config")
    parser.add_argument("--config", metavar="FILE", help="a YAML file, or a shipped recipe such as nano")
    parser.add_argument("--json", action="store_true", help="print each metrics line and, last, the result as JSON")
    parser.add_argument("--restart", action="store_true", help="move the run in OUT aside and begin anew")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, the first batch and an estimate; stop")
    add_journal(parser)
    parser.add_argument("--draw", metavar="FOLDER", help="with --dry-run: draw the first batch into this folder")
    return parser


def help_of_keys() -> str:
    """Every key of a config with its default and its sentence."""
    from florence2.training import config

    lines = ["keys of a config (default):"]
    for title, kind in (
        ("", config.TrainConfig),
        ("data[] and validation[]", config.DataSource),
        ("lora", config.LoraConfig),
        ("optimizer", config.OptimizerConfig),
        ("groups[]", config.ParameterGroup),
        ("init", config.InitConfig),
        ("best", config.BestConfig),
    ):
        lines += [f"\n{title}:"] if title else []
        for name, default, text in config.described(kind):
            lines.append(f"  {name} ({default})".ljust(34) + f" {text}")
    return "\n".join(lines)


class Live:
    """One line that is written over: step, loss, tokens a second, share of time waited for data, time left."""

    def __init__(self, as_json: bool) -> None:
        self.as_json, self.quiet = as_json, not prints_progress()
        self.started, self.tokens, self.waited, self.first, self.loss = 0.0, 0, 0.0, 0, 0.0
        self.open = False
        self.journal: RunJournal | None = None

    def __call__(self, line: dict[str, Any]) -> None:
        if self.quiet:
            return
        if self.as_json:
            print(json.dumps(line), flush=True)
            return
        if not self.started:  # with its first step: data may have been examined for long before it
            self.started, self.first = time.monotonic() - line["seconds"], line["step"] - 1
        self.tokens += line["tokens"]
        self.waited += line["data_seconds"]
        if line["tokens"]:
            self.loss = line["loss"] if not self.loss else 0.95 * self.loss + 0.05 * line["loss"]
        seconds = time.monotonic() - self.started
        left = seconds / (line["step"] - self.first) * (line["steps"] - line["step"])
        text = f"step {line['step']}/{line['steps']}  loss {self.loss:.3f}  {self.tokens / seconds:.0f} tokens/s  "
        text += f"data {100 * self.waited / seconds:.0f} %  {left / 60:.1f} min left"
        if sys.stderr.isatty():
            print(f"\r{text:<100}", end="", file=raw(sys.stderr), flush=True)
            self.open = True
        elif line["step"] % 100 == 0:
            print(text, file=sys.stderr, flush=True)

    def message(self, text: str) -> None:
        """A line of its own."""
        self.end()
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.open:
            print(file=sys.stderr)
            self.open = False

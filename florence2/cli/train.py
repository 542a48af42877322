"""florence2 train: read a config, train, print the live line and what came out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from florence2.cli.terminal import raw


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="florence2 train",
        description="Train a model as a YAML config says. The same command again goes on where it stopped.",
        epilog="Any key can be changed: --steps=500 --lr=1e-4 --data.0.path=FOLDER. Shipped recipes open by bare name.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML file, or a shipped recipe such as nano")
    parser.add_argument("--json", action="store_true", help="print each metrics line and, last, the result as JSON")
    args, overrides = parser.parse_known_args(argv)

    from florence2.training import read_config, train

    config = read_config(args.config, overrides)
    show = LiveLine(config.steps, args.json)
    result = train(config, progress=show)
    show.end()
    if args.json:
        print(json.dumps(vars(result)))
    else:
        print(f"{result.folder}: {result.steps} steps in {result.seconds:.0f} s")
        print(
            f"loss {result.loss_before:.3f} before, {result.loss_after:.3f} after; weights {result.weights_sha256[:16]}"
        )
    if result.interrupted:
        print(f"interrupted after step {result.steps}; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


class LiveLine:
    """One line that is written over: step, loss, pictures a second, time left."""

    def __init__(self, steps: int, as_json: bool) -> None:
        self.steps, self.as_json = steps, as_json
        self.started, self.pictures, self.first, self.loss = time.monotonic(), 0, 0, 0.0

    def __call__(self, line: dict[str, Any]) -> None:
        if self.as_json:
            print(json.dumps(line), flush=True)
            return
        self.first = self.first or line["step"] - 1
        self.pictures += line["pictures"]
        self.loss = line["loss"] if not self.loss else 0.95 * self.loss + 0.05 * line["loss"]
        seconds = time.monotonic() - self.started
        left = seconds / (line["step"] - self.first) * (self.steps - line["step"])
        text = f"step {line['step']}/{self.steps}  loss {self.loss:.3f}  {self.pictures / seconds:.1f} pictures/s  "
        text += f"{left / 60:.1f} min left"
        if sys.stderr.isatty():
            print(f"\r{text:<78}", end="", file=raw(sys.stderr), flush=True)
        elif line["step"] % 100 == 0:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if not self.as_json and sys.stderr.isatty():
            print(file=sys.stderr)

"""One progress bar on stderr for whatever takes over two seconds; nothing where stderr is no terminal but a line now
and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from florence2.cli.terminal import printable, raw

if TYPE_CHECKING:
    from florence2.monitoring.run_journal import RunJournal

SHOW_AFTER_S = 2.0
LINE_EVERY_S = 30.0


class ProgressBars:
    """Shows the stages of a command: call it with (stage, done, total). Use it as a context manager.

    Of a run that has a `journal` the rate and the time left are the journal's, which knows earlier runs, too.
    """

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.journal: RunJournal | None = None
        self._began = self._printed = time.monotonic()
        self._progress: Any = None  # rich's, imported when there is something to show
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.quiet or (self._progress is None and now - self._began < SHOW_AFTER_S):
            return
        if not sys.stderr.isatty():
            if now - self._printed > LINE_EVERY_S:
                self._printed = now
                print(f"{stage}: {done} of {total}{self._pace(stage)}", file=sys.stderr, flush=True)
            return
        self._draw(stage, done, total)

    def on_message(self, line: str) -> None:
        """A remark on stderr, above the bar."""
        if self._progress is not None:
            self._progress.console.print(printable(line), highlight=False, markup=False)
        elif not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def _pace(self, stage: str) -> str:
        """The rate and the time left, where they are known."""
        phase = self.journal.now.phase if self.journal else None
        if phase is None or phase.name != stage or phase.rate is None:
            return ""
        return f", {phase.rate:.3g} a second, {duration(phase.seconds_left)} left"

    def _draw(self, stage: str, done: int, total: int) -> None:
        from rich import progress
        from rich.console import Console

        if self._progress is None:
            self._progress = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("{task.fields[pace]}"),
                console=Console(file=raw(sys.stderr)),
            )
            self._progress.start()
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total, pace="")
        self._progress.update(self._tasks[stage], completed=done, total=total, pace=self._pace(stage).lstrip(", "))


def duration(seconds: float | None) -> str:
    """A time in words of two units: 41 s, 3 min 20 s, 5 h 12 min, 3 d 4 h; "unknown" without one."""
    if seconds is None:
        return "unknown"
    whole = max(0, round(seconds))
    for size, name, small_size, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{whole} s"

"""What the commands that run long share: a log of events, and metrics."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from florence2.monitoring.run_journal import RunJournal


def add_journal(parser: argparse.ArgumentParser) -> None:
    """The options that name where a run is written down; docs/operations.md describes both forms."""
    parser.add_argument("--log", metavar="FILE", help="append each event as a line of JSON")
    parser.add_argument(
        "--metrics", metavar="PORT|FILE.prom", help="for Prometheus: answer on 127.0.0.1:PORT, or keep a textfile"
    )


def journal_of(log: str | None, metrics: str | None, on_message: Callable[[str], None] | None = None) -> RunJournal:
    """The journal of this run, written to where the options say."""
    from florence2.monitoring.exposition import metrics_sink
    from florence2.monitoring.run_journal import RunJournal
    from florence2.monitoring.run_log import RunLog

    sinks = [*([metrics_sink(metrics)] if metrics else []), *([RunLog(log)] if log else [])]
    return RunJournal(sinks, on_message)

"""A run's events as a file of JSON Lines, one event a line; docs/operations.md describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence2.monitoring.run_journal import RunSink


class RunLog(RunSink):
    """Appends to a file, so that it holds the runs of a command that was interrupted and went on."""

    def __init__(self, path: str | Path):
        self._file = open(path, "a", encoding="utf-8", buffering=1)

    def event(self, line: Mapping[str, Any]) -> None:
        """Write it, whole, so that whoever follows the file sees it at once."""
        rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in line.items()}
        self._file.write(json.dumps(rounded, ensure_ascii=True) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

"""SIGTERM and Ctrl-C from the first moment of a command on: remembered, whatever is being imported or started."""

from __future__ import annotations

import signal
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Whether the process was asked to end; as a context, the handlers before it come back at its end."""

    def __init__(self) -> None:
        self.came = False
        self._stop: Callable[[], None] = lambda: None
        self._before = {sig: signal.signal(sig, self._hear) for sig in SIGNALS}

    def then(self, stop: Callable[[], None]) -> None:
        """Have `stop` called when a signal comes, or now where one has come."""
        self._stop = stop
        if self.came:
            stop()

    def _hear(self, *_: object) -> None:
        self.came = True
        self._stop()

    def __enter__(self) -> StopSignal:
        return self

    def __exit__(self, *error: object) -> None:
        for sig, handler in self._before.items():
            signal.signal(sig, handler)

"""A run of a command, taken down in the store that it works on: for `status`, and for the rates of later runs."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from florence2 import __version__
from florence2.monitoring.run_journal import RunJournal, RunSink
from florence2.monitoring.run_state import FAILED, INTERRUPTED, RunState
from florence2.store import Store

P = ParamSpec("P")
R = TypeVar("R")


class _InStore(RunSink):
    def __init__(self, store: Store):
        self.store = store

    def state(self, state: RunState) -> None:
        self.store.keep_run_state(state.run, state.to_json())


def recorded(command: Callable[P, R]) -> Callable[P, R]:
    """A command whose run is taken down in its `journal`, which it begins when it knows its store (`begin_run`).

    Whatever ends the command ends the run; within another command's run it is a part of that.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        journal = cast(RunJournal, kwargs.get("journal") or RunJournal())
        if journal.begun:
            return command(*args, **kwargs)
        more: dict[str, Any] = {**kwargs, "journal": journal}
        try:
            out = command(*args, **more)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            journal.end(INTERRUPTED)
            raise
        except BaseException as error:
            journal.end(FAILED, str(error) or type(error).__name__)
            raise
        journal.end()
        return out

    return run


def begin_run(journal: RunJournal | None, store: Store, command: str) -> RunJournal:
    """The journal, begun and taken down in the store unless it is already."""
    journal = journal or RunJournal()
    if not journal.begun:
        journal.add(_InStore(store))
        states = run_states(store)
        journal.begin(command, str(store.root), __version__, _paces(states), states[-1].run if states else "")
        store.forget_old_run_states()
    return journal


def run_states(store: Store) -> list[RunState]:
    """How the newest runs on a store stood when they last said so, oldest first; what is none is passed over."""
    out = []
    for found in store.run_states():
        try:
            out.append(RunState.from_json(found, str(store.root)))
        except ValueError:  # of another version, or a stranger's
            pass
    return out


def earlier_paces(store: Store) -> dict[str, tuple[float, float]]:
    """By operator what one worker has done of its work in earlier runs on a store, and in how many seconds."""
    return _paces(run_states(store))


def _paces(states: Sequence[RunState]) -> dict[str, tuple[float, float]]:
    items, seconds = defaultdict[str, float](float), defaultdict[str, float](float)
    for state in states:
        for phase in state.phases:
            if phase.measured_items and not phase.given_up:
                items[phase.operator] += phase.measured_items / max(1, phase.workers)
                seconds[phase.operator] += phase.measured_s
    return {operator: (items[operator], seconds[operator]) for operator in items}

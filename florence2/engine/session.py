"""What one command adds to a store: finds the work that is done already, collects the rest, ends with one snapshot.

A fragment is taken as done when it is what the snapshot says it is, or, if no snapshot names it (an interrupted command
left it), when it can be read through. A damaged one is quarantined and made again under its name.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar

from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import OperatorInput
from florence2.engine.selectors import ImageSelector
from florence2.monitoring.run_journal import NOT_TAKEN, RunJournal
from florence2.records import Sample
from florence2.store import TABLES, Fragment, Missing, Operator, Snapshot, StaleBase, Store, Unit, extended, is_further

REOPEN, RECOMPUTED = "reopen", "recomputed"  # operators that reverse verdicts
HUMAN = "human"  # the rule of a person's verdicts, and the kind of who brings them: no later round undoes them
PICTURES = "pictures"  # and the one that writes what became of pictures
ASKED_AGAIN = "asked_again"  # its name where specialists were run on newly kept items
ANNOTATORS = ("specialist", "simulated", "model", "import", "human", "merge")  # kinds that write annotations


P = ParamSpec("P")
R = TypeVar("R")


def retry_when_stale(command: Callable[P, R]) -> Callable[P, R]:
    """A command that ends with a snapshot: where another one ended meanwhile, it is run again on the new snapshot.

    So that of two commands at once the result is that of the two one after the other. What it did already is found. A
    fragment that is missing is searched for again, too: the other one may have moved it away as unreferenced. One that
    is overtaken again and again, as beside people who correct all day, makes the others wait at last.
    """

    @functools.wraps(command)
    def retried(*args: P.args, **kwargs: P.kwargs) -> R:
        journal = kwargs.get("journal")
        missed, leftovers = False, list[tuple[Store, tuple[str, ...]]]()
        while True:
            turn = leftovers[-1][0].turn_after(len(leftovers)) if leftovers else nullcontext()
            try:
                with turn:
                    out = command(*args, **kwargs)
            except StaleBase as stale:
                missed = False
                leftovers.append((stale.store, stale.fragments))
                if isinstance(journal, RunJournal):
                    journal.begun_again(str(stale))
            except Missing:
                if missed:
                    raise
                missed = True
            else:
                for store, paths in leftovers:
                    store.discard_unnamed(paths)
                return out

    return retried


class Session:
    """One command's view of a store: the snapshot it started from and what it has added since."""

    def __init__(self, store: Store, base: Snapshot | None = None, journal: RunJournal = NOT_TAKEN):
        store.delete_temporary()
        self.store, self.journal = store, journal
        self.base = store.snapshot() if base is None else base
        self.fragments: list[Fragment] = []
        self.operators: dict[str, Operator] = {operator.run_id: operator for operator in self.base.operators}
        self._named = {fragment.path: fragment for fragment in self.base.fragments}
        self._compacted = self._covered()

    def _covered(self) -> dict[str, Fragment]:
        """Fragments whose rows the base holds in compacted files."""
        out: dict[str, Fragment] = {}
        number = self.base.compacts
        while number:
            earlier = self.store.snapshot(number)
            out.update({fragment.path: fragment for fragment in earlier.fragments})
            number = earlier.compacts
        return out

    def done(self, path: str, units: Iterable[str], run_id: str) -> Fragment | None:
        """The fragment at `path` if it is there and whole; noted as part of this command's snapshot."""
        if path in self._compacted:
            return self._compacted[path]
        known = self._named.get(path)
        if known is not None:
            if not self.store.cause_of_damage(known):
                return known
            self.store.quarantine(path)
            return None
        if not self.store.has(path):
            return None
        try:
            fragment = self.store.fragment(path, tuple(units), run_id)
        except ValueError:
            self.store.quarantine(path)
            return None
        self.fragments.append(fragment)
        return fragment

    def discard(self, fragment: Fragment) -> bool:
        """Quarantine a fragment that was found done and is not to be used; False where a snapshot names it."""
        if fragment.path in self.ever_named:
            return False
        self.fragments.remove(fragment)
        self.store.quarantine(fragment.path)
        return True

    def withdraw(self, run_id: str) -> None:
        """Leave out of the snapshot what this command did of a run, unless the base knows the run: it is half done."""
        if all(operator.run_id != run_id for operator in self.base.operators):
            self.operators.pop(run_id, None)
            self.fragments = [fragment for fragment in self.fragments if fragment.run_id != run_id]

    @functools.cached_property
    def ever_named(self) -> frozenset[str]:
        """The fragments of all snapshots that there were when this command first asked."""
        found = (self.store.snapshot(number) for number in self.store.snapshots())
        return frozenset(fragment.path for snapshot in found for fragment in snapshot.fragments)

    def add(self, fragments: Iterable[Fragment]) -> None:
        """Note fragments that this command made."""
        self.fragments += fragments

    def current(self) -> Snapshot:
        """The base with all that was added so far."""
        return extended(self.base, self._in_order(), self.operators.values())

    def _in_order(self) -> list[Fragment]:
        """What was added, by table, operator and unit: the same whatever finished first."""
        images = [f for f in (*self.base.of("images"), *self.fragments) if f.table == "images"]
        place = {unit: n for n, unit in enumerate(dict.fromkeys(u for f in images for u in f.units))}
        turn = {run: n for n, run in enumerate(self.operators)}
        return sorted(
            self.fragments,
            key=lambda f: (
                TABLES.index(f.table),
                turn.get(f.run_id, -1),
                min(place.get(u, -1) for u in f.units),
                f.path,
            ),
        )

    def units(self, selector: ImageSelector | None = None) -> Iterator[Unit]:
        """Every unit of the store with its good pictures (those taken), in the order they came in; none is empty."""
        return (unit for unit in (each.selected(selector) for each in self.all_units()) if unit.samples)

    def count(self, selector: ImageSelector | None = None) -> int:
        """How many good pictures there are (of those taken)."""
        return self.store.count_images(self.current(), selector)

    def all_units(self) -> Iterator[Unit]:
        """Every unit, those without a good picture too."""
        return self.store.units(self.current())

    def inputs(self, unit: Unit, runs: Iterable[str], maker: Operator, seq: int) -> UnitInputs:
        """A unit as an operator sees it: the annotations of `runs`, and the verdicts before (its round, seq)."""
        earlier = [run for run in self.operators if self._precedes(run, maker)]
        return UnitInputs.of(unit, list(runs), earlier, (maker.round, seq))

    def samples(self, unit: Unit, runs: Iterable[str], maker: Operator, seq: int) -> list[Sample]:
        """The samples of `inputs`."""
        return self.inputs(unit, runs, maker, seq).load(self.store)

    def _precedes(self, run: str, maker: Operator) -> bool:
        """Whether a run's verdicts may be older than an operator's: in a round filters, then merging, then the rest."""
        other, order = self.operators[run], {"filter": 0, "merge": 1, RECOMPUTED: 2, PICTURES: 2, HUMAN: 2}
        turn, own = ((o.round, order.get(o.kind, -1)) for o in (other, maker))
        return turn < own or (turn == own == (maker.round, 2) and run != maker.run_id)

    @functools.cached_property
    def last_verdict(self) -> tuple[int, int] | None:
        """Round and seq of the newest verdict that this command started from; None where there is none."""
        return last_verdict(self.store, self.base, self.newest_round("decisions"))

    def of_run(self, run_id: str) -> dict[str, list[Fragment]]:
        """The annotations' fragments of a run by unit, those whose rows lie in compacted files too."""
        out: dict[str, list[Fragment]] = {}
        for fragment in {f.path: f for f in (*self.base.fragments, *self._compacted.values())}.values():
            if fragment.run_id == run_id and fragment.table == "annotations":
                for unit in fragment.units:
                    out.setdefault(unit, []).append(fragment)
        return out

    def further_attempts(self, runs: Collection[str]) -> list[str]:
        """The fragments of these runs' annotations of pictures that had failed before."""
        return sorted({fragment.path for of_unit in self.further_by_unit(runs).values() for fragment in of_unit})

    def further_by_unit(self, runs: Collection[str]) -> dict[str, list[Fragment]]:
        """Of each unit the fragments of these runs' annotations of pictures that had failed before, by path."""
        found: dict[tuple[str, str], dict[str, Fragment]] = {}
        for fragment in (*self.base.fragments, *self._compacted.values(), *self.fragments):
            if fragment.table == "annotations" and fragment.run_id in runs:
                for unit in fragment.units:
                    found.setdefault((fragment.run_id, unit), {})[fragment.path] = fragment
        out: dict[str, list[Fragment]] = {}
        for (_, unit), fragments in found.items():
            further = (f for f in fragments.values() if len(fragments) > 1 and is_further(self.store.fragment_facts(f)))
            out.setdefault(unit, []).extend(further)
        return {unit: sorted(fragments, key=lambda f: f.path) for unit, fragments in out.items() if fragments}

    def live(self) -> list[Operator]:
        """The operators whose annotations are not replaced, in the order they came."""
        return [o for o in self.operators.values() if not o.replaced and o.kind in ANNOTATORS]

    def names(self, path: str) -> bool:
        """Whether the snapshot this command started from names a fragment."""
        return path in self._named or path in self._compacted

    def newest_round(self, table: str) -> int:
        """The highest round of a table's fragments, -1 where there are none."""
        rounds = [f.round for f in (*self.base.of(table), *self._compacted.values()) if f.table == table]
        return max(rounds, default=-1)

    def start(self, operator: Operator, facts: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Enter an operator, and this start of it in runs/."""
        self.operators[operator.run_id] = operator
        about = {"operator": dataclasses.asdict(operator), **facts}
        self.store.record_run(operator.run_id, about, {**where_and_when(), **inputs})

    def all_done(self, paths: Iterable[tuple[str, Operator]], unit: Unit) -> bool:
        """Whether all of these fragments about a unit are there and whole; each is checked."""
        return all([self.done(path, [unit.uid], operator.run_id) for path, operator in paths])

    def finish(self, phase: Mapping[str, Any] | None = None) -> Snapshot:
        """Write the snapshot that ends the command; StaleBase where another ended meanwhile (`retry_when_stale`)."""
        try:
            made = self.store.save(self.base, self._in_order(), self.operators.values(), phase)
        except StaleBase:  # what reads annotations has seen them as they stood before the other one
            self.store.discard_unnamed([fragment.path for fragment in self.fragments if self._reads_others(fragment)])
            raise
        if made.number != self.base.number:
            self.journal.snapshot(made.number, len(made.fragments))
        return made

    def _reads_others(self, fragment: Fragment) -> bool:
        return fragment.table == "annotations" and bool((self.store.run(fragment.run_id) or {}).get("reads"))


def last_verdict(store: Store, snapshot: Snapshot, round: int) -> tuple[int, int] | None:
    """The newest verdict of a snapshot whose newest round of verdicts this is."""
    seq = store.newest_seq(round, snapshot) if round >= 0 else -1
    return (round, seq) if seq >= 0 else None


def mark_at(store: Store, path: str) -> tuple[int, int] | None:
    """The newest verdict when the command began that first made a fragment."""
    snapshot = _first_naming(store, path)
    if snapshot is None:
        return None
    return Session(store, store.snapshot(snapshot.parent) if snapshot.parent else Snapshot()).last_verdict


def further_at(store: Store, path: str, runs: Collection[str], unit: str) -> list[Fragment]:
    """The further attempts of these runs at a unit's pictures that there were when a fragment was first named."""
    snapshot = _first_naming(store, path)
    return [] if snapshot is None else Session(store, snapshot).further_by_unit(runs).get(unit, [])


def _first_naming(store: Store, path: str) -> Snapshot | None:
    for number in store.snapshots():
        snapshot = store.snapshot(number)
        if any(fragment.path == path for fragment in snapshot.fragments):
            return snapshot
    return None


def inputs_of(operators: Iterable[Operator]) -> list[OperatorInput]:
    """What an operator that reads these runs takes into its fingerprint."""
    return [OperatorInput(operator.fingerprint, operator.round) for operator in operators]


def where_and_when() -> dict[str, Any]:
    """The facts of a start that must stay out of fragments."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
    }

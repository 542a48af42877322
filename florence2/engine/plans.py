"""What is to be run: each specialist's fingerprint, whose annotations it reads, and what a change of one reaches.

Knows operators and their runs; reads no annotation and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence2.engine.ledger import Ledger, Takes, Unit, reading
from florence2.engine.operator import Specialist, fingerprint, run_id, satisfies
from florence2.engine.verdicts import replacements
from florence2.engine.work import opened
from florence2.store.snapshots import Operator

RERUN = ("specialist", "simulated", "model")  # kinds of operators that can be run again


@dataclass(frozen=True)
class Planned:
    """A specialist's place in a plan: its operator entry, and which live operators it reads."""

    index: int
    name: str  # as given on the command line; "" for an object
    specialist: Specialist
    operator: Operator
    reads: tuple[Operator, ...] = ()
    takes: Takes | None = None  # of the pictures; None: all
    units: frozenset[str] | None = None  # of the images; None: all

    def due(self, ledger: Ledger) -> Iterator[Unit]:
        """The units it works on, each with the pictures it takes."""
        return (unit for unit in ledger.units(self.takes) if self.units is None or unit.uid in self.units)


def plan(
    ledger: Ledger,
    specialists: Sequence[tuple[str | Specialist, Specialist]],
    round: int = 0,
    takes: Sequence[Takes | None] = (),
) -> list[Planned]:
    """Each specialist's fingerprint, and what it reads: those before it, and the store's that are not asked for now.

    Of the store's, those count that say something of the pictures it takes.
    """
    asked = {specialist.spec.name for _, specialist in specialists}
    earlier = [o for o in ledger.live() if o.kind != "merge" and o.round <= round]
    earlier = [o for o in earlier if o.name not in asked or o.round < round]
    inputs = read_by(ledger)
    out: list[Planned] = []
    for index, (name, specialist) in enumerate(specialists):
        spec = specialist.spec
        chosen = takes[index] if takes else None
        before = [
            o for o in earlier if o.round < round or spec.name not in inputs[o.run_id]
        ]  # nobody reads his readers
        seen = [*_about(ledger, before, chosen), *(step.operator for step in out)]
        reads = tuple(o for o in seen if spec.requires and satisfies(o.produces, spec.requires))
        operator = operator_of(specialist, reads, round)
        out.append(Planned(index, name if isinstance(name, str) else "", specialist, operator, reads, chosen))
    return out


def operator_of(specialist: Specialist, reads: Sequence[Operator], round: int) -> Operator:
    """The operator that a specialist is when it reads these."""
    spec, made_by = specialist.spec, fingerprint(specialist, reading(reads))
    produces = tuple(sorted(spec.produces))
    return Operator(run_id(made_by, round), spec.name, spec.version, made_by, round, spec.source_kind, produces)


def read_by(ledger: Ledger) -> dict[str, set[str]]:
    """For each run the names of those whose annotations went into it, at any remove."""
    names: dict[str, set[str]] = {}

    def of(run: str) -> set[str]:
        if run not in names:
            names[run] = set()  # a run that names itself, in a damaged record, ends here
            for read in _reads(ledger, run):
                if read in ledger.operators:
                    names[run] |= {ledger.operators[read].name, *of(read)}
        return names[run]

    return {run: of(run) for run in ledger.operators}


Made = tuple[Operator, Takes | None]  # what was run now, and over which pictures


def after(ledger: Ledger, made: Sequence[Made], unless: str = "") -> tuple[list[Planned], list[str]]:
    """Operators of the store whose input was replaced, each as it is to be run again; a line for each that cannot be.

    With a reason in `unless` all of them are named and none is run.
    """
    new, takes = _heirs(ledger, made)
    steps: list[Planned] = []
    left: list[str] = []
    asked = {operator.run_id for operator, _ in made}
    for old in ledger.live():
        stale = [run for run in _reads(ledger, old.run_id) if run in new]
        if not stale or old.run_id in asked or old.run_id in new or old.kind not in RERUN:
            continue
        reads = dict.fromkeys(new.get(run) or ledger.operators[run] for run in _reads(ledger, old.run_id))
        name, why = _again(ledger, old, unless)
        if why:
            changed = ", ".join(dict.fromkeys(ledger.operators[run].name for run in stale))
            left.append(f"{old.name}: what it read of {changed} has changed, and it was not run again: {why}")
            continue
        specialist = opened(name)
        chosen = next((takes[run] for run in stale if run in takes), None)
        operator = operator_of(specialist, list(reads), old.round)
        steps.append(Planned(len(steps), name, specialist, operator, tuple(reads), chosen, _covered(ledger, old)))
        new[old.run_id], takes[old.run_id] = operator, chosen
    return steps, left


def with_their_inputs(
    ledger: Ledger, specialists: Sequence[tuple[str | Specialist, Specialist]], takes: Takes | None
) -> list[tuple[str | Specialist, Specialist]]:
    """The specialists to run; before one that reads an operator whose own input they replace, that operator."""
    planned = plan(ledger, specialists, takes=[takes] * len(specialists))
    steps, _ = after(ledger, [(step.operator, step.takes) for step in planned])
    out: list[tuple[str | Specialist, Specialist]] = []
    for pair, step in zip(specialists, planned):
        read = {operator.name for operator in step.reads}
        steps, before = [s for s in steps if s.operator.name not in read], [s for s in steps if s.operator.name in read]
        out += [*((s.name, s.specialist) for s in before), pair]
    return out


def _heirs(ledger: Ledger, made: Sequence[Made]) -> tuple[dict[str, Operator], dict[str, Takes | None]]:
    """Each run that was replaced, now or before, with what stands in for it, and over which pictures it does."""
    new: dict[str, Operator] = {}
    for old in ledger.operators.values():
        if old.replaced:
            for heir in ledger.live():  # the newest of its name
                if (heir.kind, heir.name, heir.round) == (old.kind, old.name, old.round):
                    new[old.run_id] = heir
    takes = replacements(ledger, made)
    for run in takes:
        old = ledger.operators[run]
        new[run] = next(o for o, _ in made if (o.kind, o.name, o.round) == (old.kind, old.name, old.round))
    return new, takes


def _again(ledger: Ledger, old: Operator, unless: str) -> tuple[str, str]:
    """The name by which an operator opens again, or why it is not run."""
    name = names_of(ledger.store.run(old.run_id))[-1:]
    if not name:
        return "", "it was given as an object; annotate with it again"
    command = f"florence2 annotate {ledger.store.root} --with {name[0]}"
    if unless:
        return "", f"{unless}; {command}"
    try:
        specialist = opened(name[0])
    except (ValueError, OSError) as error:
        return "", f"{error}; then {command}"
    if specialist.spec.name != old.name:
        return "", f"{name[0]} is {specialist.spec.name} now; {command}"
    return name[0], f"it is billed; {command}" if specialist.spec.billed else ""


def names_of(run: Mapping[str, Any] | None) -> list[str]:
    """The names that a run's specialist was given by, the newest last."""
    found = [start.get("with") or run.get("with") for start in run["starts"]] if run else []
    return [name for name in found if name]


def _reads(ledger: Ledger, run: str) -> list[str]:
    return list((ledger.store.run(run) or {}).get("reads") or ())


def _covered(ledger: Ledger, old: Operator) -> frozenset[str]:
    """The units that an operator has been over."""
    return frozenset(
        unit.uid
        for unit in ledger.units()
        if any(
            f.run_id in (old.run_id, "") and unit.uid in f.units for f in unit.group.fragments.get("annotations", ())
        )
    )


def _about(ledger: Ledger, operators: list[Operator], takes: Takes | None) -> list[Operator]:
    """The operators that have said something of the pictures taken."""
    if takes is None or not operators:
        return operators
    runs = {f.run_id for unit in ledger.units(takes) for f in unit.group.fragments.get("annotations", ())}
    return [o for o in operators if o.run_id in runs or "" in runs]  # "": compacted, of whoever it was


def refuse_twins(names: Sequence[str]) -> None:
    """One name is one operator: a second would replace the first."""
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise ValueError(
            f"annotate: two specialists are called {twice[0]!r}, and one would replace the other; "
            "give one of them a name of its own in a card (name: ...)"
        )

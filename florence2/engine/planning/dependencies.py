"""What is to be run: each specialist's fingerprint, whose annotations it reads, and what a change of one reaches.

Knows operators and their runs; reads no annotation and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence2.engine import trust
from florence2.engine.execution.context import resolve_specialist
from florence2.engine.operator import Specialist, fingerprint, run_id, satisfies
from florence2.engine.planning.superseding import replacements
from florence2.engine.selectors import ImageSelector
from florence2.engine.session import Session, inputs_of
from florence2.store import Operator, Unit

RERUN = ("specialist", "simulated", "model")  # kinds of operators that can be run again


@dataclass(frozen=True)
class Step:
    """A specialist's place in a plan: its operator entry, and which live operators it reads."""

    name: str  # as given on the command line; "" for an object
    specialist: Specialist
    operator: Operator
    reads: tuple[Operator, ...] = ()
    selector: ImageSelector | None = None  # of the pictures; None: all
    units: frozenset[str] | None = None  # of the images; None: all

    def due(self, session: Session) -> Iterator[Unit]:
        """The units it works on, each with the pictures it takes."""
        return (unit for unit in session.units(self.selector) if self.units is None or unit.uid in self.units)


def plan_steps(
    session: Session,
    specialists: Sequence[tuple[str | Specialist, Specialist]],
    round: int = 0,
    selectors: Sequence[ImageSelector | None] = (),
) -> list[Step]:
    """Each specialist's fingerprint, and what it reads: those before it, and the store's that are not asked for now.

    Of the store's, those count that annotated pictures it takes.
    """
    asked = {specialist.spec.name for _, specialist in specialists}
    earlier = [o for o in session.live() if o.kind != "merge" and o.round <= round]
    earlier = [o for o in earlier if o.name not in asked or o.round < round]
    inputs = read_by(session)
    out: list[Step] = []
    for index, (name, specialist) in enumerate(specialists):
        spec = specialist.spec
        chosen = selectors[index] if selectors else None
        before = [
            o for o in earlier if o.round < round or spec.name not in inputs[o.run_id]
        ]  # no operator reads one that reads it
        seen = [*_about(session, before, chosen), *(step.operator for step in out)]
        reads = tuple(o for o in seen if spec.requires and satisfies(o.produces, spec.requires))
        operator = operator_of(specialist, reads, round)
        out.append(Step(name if isinstance(name, str) else "", specialist, operator, reads, chosen))
    return out


def operator_of(specialist: Specialist, reads: Sequence[Operator], round: int) -> Operator:
    """The operator that a specialist is when it reads these."""
    spec, made_by = specialist.spec, fingerprint(specialist, inputs_of(reads))
    produces = tuple(sorted(spec.produces))
    return Operator(run_id(made_by, round), spec.name, spec.version, made_by, round, spec.source_kind, produces)


def read_by(session: Session) -> dict[str, set[str]]:
    """For each run the names of those whose annotations went into it, at any remove."""
    names: dict[str, set[str]] = {}

    def of(run: str) -> set[str]:
        if run not in names:
            names[run] = set()  # a run that names itself, in a damaged record, ends here
            for read in _reads(session, run):
                if read in session.operators:
                    names[run] |= {session.operators[read].name, *of(read)}
        return names[run]

    return {run: of(run) for run in session.operators}


Made = tuple[Operator, ImageSelector | None]  # what was run now, and over which pictures


def stale_dependents(session: Session, made: Sequence[Made], unless: str = "") -> tuple[list[Step], list[str]]:
    """Operators of the store whose input was replaced, each as it is to be run again; a line for each that cannot be.

    With a reason in `unless` all of them are named and none is run.
    """
    new, selectors = _heirs(session, made)
    steps: list[Step] = []
    left: list[str] = []
    asked = {operator.run_id for operator, _ in made}
    for old in session.live():
        stale = [run for run in _reads(session, old.run_id) if run in new]
        if not stale or old.run_id in asked or old.run_id in new or old.kind not in RERUN:
            continue
        reads = dict.fromkeys(new.get(run) or session.operators[run] for run in _reads(session, old.run_id))
        name, why = _again(session, old, unless)
        if why:
            changed = ", ".join(dict.fromkeys(session.operators[run].name for run in stale))
            left.append(f"{old.name}: what it read of {changed} has changed, and it was not run again: {why}")
            continue
        with trust.named_by(session.store.root):
            specialist = resolve_specialist(name)
        chosen = next((selectors[run] for run in stale if run in selectors), None)
        operator = operator_of(specialist, list(reads), old.round)
        steps.append(Step(name, specialist, operator, tuple(reads), chosen, _covered(session, old)))
        new[old.run_id], selectors[old.run_id] = operator, chosen
    return steps, left


def with_their_inputs(
    session: Session, specialists: Sequence[tuple[str | Specialist, Specialist]], selector: ImageSelector | None
) -> list[tuple[str | Specialist, Specialist]]:
    """The specialists to run; before one that reads an operator whose own input they replace, that operator."""
    planned = plan_steps(session, specialists, selectors=[selector] * len(specialists))
    steps, _ = stale_dependents(session, [(step.operator, step.selector) for step in planned])
    out: list[tuple[str | Specialist, Specialist]] = []
    for pair, step in zip(specialists, planned):
        read = {operator.name for operator in step.reads}
        steps, before = [s for s in steps if s.operator.name not in read], [s for s in steps if s.operator.name in read]
        out += [*((s.name, s.specialist) for s in before), pair]
    return out


def _heirs(session: Session, made: Sequence[Made]) -> tuple[dict[str, Operator], dict[str, ImageSelector | None]]:
    """Each run that was replaced, now or before, with the run that replaces it, and for which pictures it does."""
    new: dict[str, Operator] = {}
    for old in session.operators.values():
        if old.replaced:
            for heir in session.live():  # the newest of its name
                if (heir.kind, heir.name, heir.round) == (old.kind, old.name, old.round):
                    new[old.run_id] = heir
    selectors = replacements(session, made)
    for run in selectors:
        old = session.operators[run]
        new[run] = next(o for o, _ in made if (o.kind, o.name, o.round) == (old.kind, old.name, old.round))
    return new, selectors


def _again(session: Session, old: Operator, unless: str) -> tuple[str, str]:
    """The name by which an operator opens again, or why it is not run."""
    name = names_of(session.store.run(old.run_id))[-1:]
    if not name:
        return "", "it was given as an object; annotate with it again"
    command = f"florence2 annotate {session.store.root} --with {name[0]}"
    if unless:
        return "", f"{unless}; {command}"
    try:
        with trust.named_by(session.store.root):
            specialist = resolve_specialist(name[0])
    except (ValueError, OSError) as error:
        return "", f"{error}; then {command}"
    if specialist.spec.name != old.name:
        return "", f"{name[0]} is {specialist.spec.name} now; {command}"
    return name[0], f"it is billed; {command}" if specialist.spec.billed else ""


def names_of(run: Mapping[str, Any] | None) -> list[str]:
    """The names that a run's specialist was given by, the newest last."""
    found = [start.get("with") or run.get("with") for start in run["starts"]] if run else []
    return [name for name in found if name]


def _reads(session: Session, run: str) -> list[str]:
    return list((session.store.run(run) or {}).get("reads") or ())


def _covered(session: Session, old: Operator) -> frozenset[str]:
    """The units that an operator has been over."""
    return frozenset(
        unit.uid
        for unit in session.units()
        if any(
            f.run_id in (old.run_id, "") and unit.uid in f.units for f in unit.group.fragments.get("annotations", ())
        )
    )


def _about(session: Session, operators: list[Operator], selector: ImageSelector | None) -> list[Operator]:
    """The operators that have annotated the pictures taken."""
    if selector is None or not operators:
        return operators
    runs = {f.run_id for unit in session.units(selector) for f in unit.group.fragments.get("annotations", ())}
    return [o for o in operators if o.run_id in runs or "" in runs]  # "": compacted, of whoever it was


def refuse_twins(names: Sequence[str]) -> None:
    """One name is one operator: a second would replace the first."""
    twice = [name for n, name in enumerate(names) if name in names[:n]]
    if twice:
        raise ValueError(
            f"annotate: two specialists are called {twice[0]!r}, and one would replace the other; "
            "give one of them a name of its own in a card (name: ...)"
        )

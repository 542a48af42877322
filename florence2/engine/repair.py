"""Making damaged fragments again, each under its name and to the byte, from what runs/ says of who wrote it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from florence2.engine import intake
from florence2.engine.ledger import Ledger, reading, takes_of
from florence2.engine.listing import find
from florence2.engine.merge import Merging, merge_units
from florence2.engine.operator import fingerprint
from florence2.engine.phases import Execution, Planned, run_specialist
from florence2.engine.pictures import ImageRules
from florence2.engine.verdicts import REOPEN, judge_units, recorded_chain, supersede_units
from florence2.engine.work import EngineWork, opened
from florence2.store import Store, upkeep
from florence2.store.snapshots import Operator, Snapshot
from florence2.store.upkeep import Damage


class Unrepairable(ValueError):
    """A fragment whose maker cannot be run again from here, and why."""


def repair(
    store: Store,
    damaged: Sequence[Damage],
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Damage]:
    """Run again what wrote the damaged fragments, and only for their units; returns what is damaged still."""
    for damage in damaged:
        if damage.fragment is None:  # no snapshot needs it: the next command makes it again
            upkeep.set_aside(store.root, damage.path)
    execution = Execution(workers=workers, progress=progress)
    for number in reversed(store.snapshots()):
        snapshot = store.snapshot(number)
        bad = [f for f in snapshot.fragments if upkeep.check(store.root, f)]
        if not bad:
            continue
        if any(fragment.path.startswith("compact/") for fragment in bad):
            _compact_again(store, snapshot)
            continue
        ledger = Ledger(store, snapshot)
        runs = {fragment.run_id for fragment in bad}
        for operator in snapshot.operators:
            if operator.run_id not in runs:
                continue
            try:
                _again(ledger, operator, execution)
            except Unrepairable as error:
                if say:
                    say(str(error))
    return store.verify()


def _again(ledger: Ledger, operator: Operator, execution: Execution) -> None:
    """Run one operator over the units that lack its work."""
    facts = ledger.store.run(operator.run_id)
    if facts is None:
        raise Unrepairable(f"{operator.name}: runs/{operator.run_id}.json is missing; run its command again")
    if operator.kind == "images":
        _take_in_again(ledger, facts, execution)
    elif operator.kind == "filter":
        _judge_again(ledger, operator, facts, execution)
    elif operator.kind == "merge":
        config = dict(facts["config"], synonyms=tuple(map(tuple, facts["config"]["synonyms"])))
        merge_units(ledger, Merging(**config), operator, _of(ledger, facts["reads"]), facts["seq"], execution.progress)
    elif operator.kind == "recomputed":
        replaced = {run: takes_of(fact) for run, fact in facts["replaced"].items()}
        supersede_units(ledger, operator, replaced, set(facts["returned"]), facts["seq"])
    else:
        _annotate_again(ledger, operator, facts, execution)


def _take_in_again(ledger: Ledger, facts: dict[str, Any], execution: Execution) -> None:
    rules = ImageRules(**facts["rules"])
    work = EngineWork(ledger.store.root)
    for source in dict.fromkeys(start["source"] for start in facts["starts"]):
        path = Path(source)
        if not path.exists():
            raise Unrepairable(f"images: the pictures' folder {source} is gone; put it back and verify again")
        listing, _ = find(path, leave_out=ledger.store.root)
        with execution.pool(work, len(listing), 64) as pool:
            intake.take_in(ledger, path, listing, pool.run, 64, rules, execution.progress, only_planned=True)


def _annotate_again(ledger: Ledger, operator: Operator, facts: dict[str, Any], execution: Execution) -> None:
    name = facts.get("with")
    if not name:
        raise Unrepairable(f"{operator.name}: was given as an object; run the same annotate again")
    try:
        specialist = opened(name)
    except (ValueError, OSError) as error:
        raise Unrepairable(f"{operator.name}: {error}") from None
    reads = _of(ledger, facts["reads"])
    if fingerprint(specialist, reading(reads)) != operator.fingerprint:
        raise Unrepairable(f"{operator.name}: is no longer what it was (version, settings or weights); annotate again")
    step = Planned(0, name, specialist, operator, tuple(reads), takes_of(facts["takes"]))
    pictures = sum(fragment.rows for fragment in ledger.base.of("images"))
    with execution.pool(EngineWork(ledger.store.root, [name], execution.device), pictures, 64) as pool:
        run_specialist(ledger, step, pool, facts["max_pixels"], execution.progress)


def _judge_again(ledger: Ledger, operator: Operator, facts: dict[str, Any], execution: Execution) -> None:
    """Judge again by the whole chain of the round; where a fragment is whole it is left as it is."""
    chain = [o for o in ledger.base.operators if o.kind == "filter" and o.round == operator.round]
    try:
        filters = {item.spec.name: item for item in recorded_chain(ledger, operator.round)}
    except ValueError as error:
        raise Unrepairable(f"{operator.name}: {error}") from None
    for each in chain:
        if each.name != REOPEN and each.version != filters[each.name].spec.version:
            raise Unrepairable(f"{each.name}: is another version now than {each.version}; run filter again")
    judge_units(ledger, [(o, filters.get(o.name)) for o in chain], facts["reads"], execution.progress)


def _compact_again(store: Store, snapshot: Snapshot) -> None:
    base = store.snapshot(snapshot.compacts)
    upkeep.compacted(store.root, base, snapshot.phase.get("rows", upkeep.COMPACT_ROWS))


def _of(ledger: Ledger, runs: Sequence[str]) -> list[Operator]:
    by_run = {operator.run_id: operator for operator in ledger.base.operators}
    return [by_run[run] for run in runs if run in by_run]

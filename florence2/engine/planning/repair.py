"""Making damaged fragments again, each under its name and to the byte, from what runs/ says of who wrote it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florence2.engine import trust
from florence2.engine.curation.judging import judge_units, recorded_chain
from florence2.engine.curation.merging import MergeConfig, merge_units
from florence2.engine.execution.annotation_phase import run_specialist
from florence2.engine.execution.context import resolve_specialist
from florence2.engine.execution.jobs import Runner
from florence2.engine.execution.options import Execution, Progress
from florence2.engine.ingest import ingestion, revision
from florence2.engine.ingest.discovery import discover
from florence2.engine.ingest.inspection import ImageRules, rules_config
from florence2.engine.ingest.labelled_datasets import LabelledDataset, write_import
from florence2.engine.operator import Filter, Specialist, fingerprint
from florence2.engine.planning.dependencies import Step, names_of
from florence2.engine.planning.superseding import ReplacedRuns, supersede_units
from florence2.engine.selectors import selector_from_json
from florence2.engine.session import HUMAN, REOPEN, Session, inputs_of
from florence2.engine.user_code import load_function
from florence2.formats.problems import ReadProblems
from florence2.object_store import root_of
from florence2.store import Damage, Damaged, Fragment, Missing, Operator, Snapshot, Store

FOLLOWING = ("filter", "merge", "recomputed", revision.NAME, HUMAN)  # kinds that need nothing of how they were started


class Unrepairable(ValueError):
    """A fragment whose maker cannot be run again from here, and why."""


@dataclass(frozen=True)
class Makers:
    """Who may be run again besides those that runs/ names: specialists (names or objects), and rules of one's own."""

    specialists: Mapping[str, str | Specialist] = field(default_factory=dict)
    rules: Mapping[str, Filter] = field(default_factory=dict)


def repair(
    store: Store,
    damaged: Sequence[Damage],
    with_: Sequence[str | Specialist] = (),
    rules: Sequence[Filter] = (),
    *,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> list[Damage]:
    """Run again what wrote the damaged fragments, and only for their units; returns what is damaged still.

    Specialists and rules that were given as Python objects, and those that are billed, must be given again.
    """
    own_code: dict[str, Path] = {}
    with trust.noting(own_code):
        specialists = {resolve_specialist(s).spec.name: s for s in with_}
    trust.remember(store.root, own_code, on_message)
    makers = Makers(specialists, {rule.spec.name: rule for rule in rules})
    lost = {damage.snapshot for damage in damaged}
    given_up: list[Damage] = []
    for damage, why in store.mend_json([damage for damage in damaged if damage.is_json]):
        given_up.append(damage)
        on_message(why) if on_message else None
    for damage in damaged:
        if damage.fragment is None and not damage.is_json:
            store.quarantine(damage.path)  # no snapshot needs it: the next command makes it again
    execution = Execution(workers=workers, progress=progress)
    reported: set[str] = set()
    # by the first snapshot that names a fragment: it holds what its maker saw
    for snapshot in (store.snapshot(n) for n in store.snapshots() if n not in lost):
        bad = {f.path: f for f in snapshot.fragments if store.cause_of_damage(f)}
        if compacted := [f for f in bad.values() if f.is_compacted and not f.is_revised]:
            try:
                store.compact_again(snapshot, compacted)
            except (Missing, Damaged) as error:
                on_message(str(error)) if on_message else None
        session = _RepairSession(store, snapshot, {path: f.sha256 for path, f in bad.items()})
        for operator in snapshot.operators:
            paths = frozenset(path for path, fragment in bad.items() if fragment.run_id == operator.run_id)
            if not paths:
                continue
            try:
                _again(session, operator, paths, makers, execution)
                still = session.damaged(paths)
                why = f"{operator.name}: what its run makes now is not what it made then" if still else ""
            except (Unrepairable, Missing, Damaged) as error:
                why = str(error)
            if why and why not in reported and on_message:
                on_message(why)
            reported.add(why)
    left = store.verify()
    return left + [damage for damage in given_up if damage not in left]


class _RepairSession(Session):
    """A session in whose eyes all is done but the fragments to be restored, and that can write nothing else."""

    def __init__(self, store: Store, base: Snapshot, restoring: Mapping[str, str]):
        super().__init__(Store(store.root, restoring=restoring), base)
        self.restoring = restoring

    def _covered(self) -> dict[str, Fragment]:
        try:
            return super()._covered()
        except (Missing, Damaged):  # what was compacted can be made again without knowing of which fragments
            return {}

    def done(self, path: str, units: Iterable[str], run_id: str) -> Fragment | None:
        """None for what is to be restored, else the fragment as the snapshot names it."""
        if path in self.restoring:
            return None
        known = self._compacted.get(path) or self._named.get(path)
        return known or (Fragment(path, 0, "", tuple(units), run_id) if self.store.has(path) else None)

    def damaged(self, paths: Iterable[str]) -> bool:
        """Whether one of these is still not what the snapshot says."""
        return any(self.store.cause_of_damage(self._named[path]) for path in paths)


def _again(session: Session, operator: Operator, paths: frozenset[str], makers: Makers, execution: Execution) -> None:
    """Run one operator over the units that lack its work."""
    facts = session.store.run(operator.run_id)
    if facts is None:
        raise Unrepairable(f"{operator.name}: runs/{operator.run_id}.json is missing or damaged; run its command again")
    if not facts["starts"] and operator.kind not in FOLLOWING:
        lost = f"on what it was started is lost with runs/{operator.run_id}/"
        raise Unrepairable(f"{operator.name}: {lost}; run its command again")
    here = Execution(workers=0).runner(session.store.root, session.store.restoring)
    if operator.kind == "images":
        _take_in_again(session, facts, execution)
    elif operator.kind == "import" and any("source" in start for start in facts["starts"]):
        _import_again(session, here, operator, facts)
    elif operator.kind == HUMAN and (person := facts.get("person")):
        lost = f"{operator.name}: what {person} corrected on the page, which nothing can make again"
        raise Unrepairable(f"{lost}; put the file back from a copy of the store, or florence2 undo to before it")
    elif operator.kind == HUMAN:
        file = next((start["reviewed"] for start in facts["starts"][::-1] if "reviewed" in start), "FILE")
        command = f"florence2 import {file} --out {session.store.root} --reviewed"
        raise Unrepairable(f"{operator.name}: a person's word; {command} makes it again")
    elif operator.kind == "filter":
        _judge_again(session, here, operator, facts, makers, execution.progress)
    elif operator.kind == "merge":
        reads, config = _of(session, facts["reads"]), facts["config"]
        merging = config and MergeConfig(**dict(config, synonyms=tuple(map(tuple, config["synonyms"]))))
        merge_units(session, here, merging, operator, reads, facts["seq"], execution.progress)
    elif operator.kind == revision.NAME:
        revision.revise_again(session, operator, facts)
    elif operator.kind == "recomputed":
        replaced = {run: selector_from_json(fact, session.all_units) for run, fact in facts["replaced"].items()}
        change = ReplacedRuns(replaced, frozenset(facts["returned"]), facts.get("reads"))
        supersede_units(session, here, operator, change, facts["seq"])
    else:
        _annotate_again(session, operator, facts, paths, makers, execution)


def _take_in_again(session: Session, facts: dict[str, Any], execution: Execution) -> None:
    rules = _image_rules(session, facts)
    for start in {(start["source"], str(start.get("origin"))): start for start in facts["starts"]}.values():
        path, samples = root_of(start["source"]), None
        if origin := start.get("origin"):
            given = _given(origin)
            listing, samples = list(given.listing), given.by_name
        elif isinstance(path, Path) and not path.exists():
            raise Unrepairable(f"images: the pictures' folder {path} is gone; put it back and verify again")
        else:
            listing, _ = discover(path, leave_out=session.store.root)
        with execution.runner(session.store.root, session.store.restoring) as runner:
            ingestion.ingest(
                session, runner, path, listing, 64, rules, execution.progress, samples,
                only_planned=True, origin=origin,
            )  # fmt: skip


def _image_rules(session: Session, facts: dict[str, Any]) -> ImageRules:
    """The rules for pictures as they were, the user's own function among them, where it is what it was."""
    accept = next((start["accept"] for start in facts["starts"][::-1] if start.get("accept")), "")
    rules = ImageRules(**{**facts["rules"], "accept": accept})
    try:
        if accept:
            with trust.named_by(session.store.root):
                load_function(accept)
        same = rules_config(rules)["accept"] == facts["rules"].get("accept", "")
    except (ValueError, OSError) as error:
        raise Unrepairable(f"images: {error}") from None
    if not same:
        raise Unrepairable(
            f"images: the rule --accept {accept or facts['rules']['accept']} is not known here, or is no longer what "
            "it was; put its file back as it was"
        )
    return rules


def _import_again(session: Session, runner: Runner, operator: Operator, facts: dict[str, Any]) -> None:
    given = _given({"format": facts["format"], **facts["starts"][-1]})
    if given.operator().fingerprint != operator.fingerprint:
        raise Unrepairable(
            f"{operator.name}: {given.origin['source']} has changed since it was imported; import it again"
        )
    write_import(session, runner, operator, given)


def _given(origin: Mapping[str, str]) -> LabelledDataset:
    try:
        split, images = origin.get("split"), origin.get("images")
        problems = ReadProblems(skip=bool(origin.get("skip_bad")))
        return LabelledDataset.open(origin["source"], origin["format"], split or None, images or None, problems)
    except (ValueError, OSError) as error:
        raise Unrepairable(f"import: the data set {origin['source']} does not open as it did ({error})") from None


def _annotate_again(
    session: Session,
    operator: Operator,
    facts: dict[str, Any],
    paths: frozenset[str],
    makers: Makers,
    execution: Execution,
) -> None:
    reads = _of(session, facts["reads"])
    name = _maker(session, operator, facts, reads, makers)
    with trust.named_by(session.store.root):
        specialist = resolve_specialist(name)
    selector = {str(fact): fact for fact in (start.get("takes", facts.get("takes")) for start in facts["starts"])}
    with execution.runner(session.store.root, session.store.restoring) as runner:
        for fact in selector.values():
            step = Step("", specialist, operator, tuple(reads), selector_from_json(fact, session.all_units))
            run_specialist(session, step, runner, facts["max_pixels"], execution.progress, only=paths)


def _maker(
    session: Session, operator: Operator, facts: dict[str, Any], reads: Sequence[Operator], makers: Makers
) -> str | Specialist:
    """The specialist that wrote this, as it was; Unrepairable says why there is none."""
    given = makers.specialists.get(operator.name)
    names: list[str | Specialist] = [given] if given is not None else list(reversed(names_of(facts)))
    if not names:
        raise Unrepairable(
            f"{operator.name}: was given as an object; give it again: "
            "florence2.engine.planning.repair.repair(store, store.verify(), with_=[...]), or run that annotate again"
        )
    for name in names:
        try:
            with trust.named_by(session.store.root):
                specialist = resolve_specialist(name)
        except (ValueError, OSError) as error:
            why = str(error)
            continue
        if fingerprint(specialist, inputs_of(reads)) != operator.fingerprint:
            why = "is no longer what it was (version, settings or weights); annotate again"
        elif specialist.spec.billed and given is None:
            why = f"is billed; verify --repair --with {name} asks it again"
        else:
            return name
    raise Unrepairable(f"{operator.name}: {why}")


def _judge_again(
    session: Session,
    runner: Runner,
    operator: Operator,
    facts: dict[str, Any],
    makers: Makers,
    progress: Progress | None,
) -> None:
    """Judge again by the whole chain of the round; where a fragment is whole it is left as it is."""
    chain = [o for o in session.base.operators if o.kind == "filter" and o.round == operator.round]
    try:
        filters = {item.spec.name: item for item in recorded_chain(session, operator.round, makers.rules)}
    except ValueError as error:
        raise Unrepairable(
            f"{operator.name}: {error}: florence2.engine.planning.repair.repair(..., rules=[...])"
        ) from None
    for each in chain:
        run = session.store.run(each.run_id) or {}
        if each.name == REOPEN:
            continue
        if each.version != filters[each.name].spec.version or run.get("config") != _plain(filters[each.name].config):
            raise Unrepairable(f"{each.name}: is no longer what it was (version or settings); run filter again")
    judge_units(session, runner, [(o, filters.get(o.name)) for o in chain], facts["reads"], progress)


def _plain(config: Mapping[str, Any]) -> Any:
    """Settings as runs/ gives them back."""
    return json.loads(json.dumps(dict(config), default=str))


def _of(session: Session, runs: Sequence[str]) -> list[Operator]:
    by_run = {operator.run_id: operator for operator in session.base.operators}
    return [by_run[run] for run in runs if run in by_run]

"""Judging: a chain of filters over a store, and the verdict on rows that a new version replaces.

A round of judging starts afresh: what earlier rounds rejected is reset, then each rule in turn sees what is kept.
The same rules over the same annotations are the same round, and add nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from florence2.engine.curation.filters.rules import RULES, RuleFilter, open_chain
from florence2.engine.curation.filters.text_rules import parser_of
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.options import Progress
from florence2.engine.execution.phase import Count, complete
from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import Filter, OperatorInput, digest, fingerprint, run_id
from florence2.engine.session import ASKED_AGAIN, HUMAN, RECOMPUTED, REOPEN, Session, inputs_of
from florence2.records import Decision, Sample
from florence2.store import Operator, Store, pending


@dataclasses.dataclass(frozen=True)
class JudgeTask:
    """A unit to be judged by each operator's filter in turn (None: reset the earlier rejections)."""

    inputs: UnitInputs
    steps: tuple[tuple[Operator, Filter | None], ...]
    first_seq: int

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Judge, and commit a fragment a rule."""
        samples = self.inputs.load(store)
        current = [sample.current() for sample in samples]
        found = []
        for seq, (operator, item) in enumerate(self.steps, self.first_seq):
            rows: list[tuple[str, Decision]] = []
            if isinstance(item, RuleFilter):
                item.prepare(current)
            for n, sample in enumerate(samples):
                verdicts = _reopened(sample) if item is None else verdicts_of(item, current[n], _confirmed(sample))
                if not verdicts:
                    continue
                signed = [dataclasses.replace(d, rule=operator.name, round=operator.round, seq=seq) for d in verdicts]
                rows += [(sample.image.id, decision) for decision in signed]
                samples[n] = dataclasses.replace(sample, decisions=(*sample.decisions, *signed))
                current[n] = samples[n].current()
            found.append(pending.decisions_of(operator, self.inputs.uid(operator), self.inputs.unit.uid, rows))
        return JobOutcome(tuple(store.put_all(found)))


@dataclasses.dataclass(frozen=True)
class LoadParsers:
    """What judging by the shipped rules loads in every worker: their parsers, one text parsed by each."""

    names: tuple[str, ...]

    def __call__(self) -> None:
        for name in self.names:
            parser_of(name).read(["A cat."])

    @classmethod
    def of(cls, filters: Iterable[Filter | None]) -> LoadParsers | None:
        """None where no rule parses, or where a rule is a user's own: what that loads is not known."""
        rules = [item for item in filters if item is not None]
        names = dict.fromkeys(rule.config["parser"] for rule in rules if "parser" in rule.config)
        own = any(not isinstance(rule, RuleFilter) for rule in rules)
        return None if own or not names else cls(tuple(names))


def judge(
    session: Session, runner: Runner, filters: Sequence[Filter], progress: Progress | None = None, again: bool = False
) -> int:
    """Judge every unit by a chain of filters; returns the round of the verdicts, a new one where asked to `again`."""
    if not filters:
        raise ValueError("filter: got no rules; name at least one")
    distinct(filters)
    live = session.live()
    if not live:
        raise ValueError(f"{session.store.root}: has no annotations to judge; run florence2 annotate first")
    round, chain, reads = _round_of(session, filters, live, again)
    runs = [o.run_id for o in reads]
    steps = list(zip(chain, (None, *filters)))
    steps = steps if round else steps[1:]  # there is nothing to reopen in the first round
    for operator, item in steps:
        session.start(operator, {"config": dict(item.config) if item else {}, "reads": runs}, {})
    judge_units(session, runner, steps, runs, progress)
    return round


def is_judged(session: Session, filters: Sequence[Filter]) -> bool:
    """Whether the newest judging was by these filters, of all annotations; people's later ones need none."""
    judged = [o for o in session.base.operators if o.kind == "filter"]
    newest = max((o.round for o in judged), default=-1)
    records = (session.store.run(o.run_id) or {} for o in judged if o.round == newest)
    read = {run for record in records for run in record.get("reads", ())}
    live = [o for o in session.live() if o.kind != HUMAN or o.run_id in read]
    round, chain, _ = _round_of(session, filters, live)
    steps = [o for o in chain if round or o.name != REOPEN]
    return all(
        session.names(pending.path("decisions", o, UnitInputs.of(unit).uid(o)))
        for unit in session.units()
        for o in steps
    )


def distinct(filters: Sequence[Filter]) -> Sequence[Filter]:
    """Filters of which no two have the same name; ValueError else."""
    names = [f.spec.name for f in filters]
    if len(set(names)) != len(names):
        raise ValueError(f"filter: the rule {max(names, key=names.count)!r} is named twice; name each once")
    return filters


def judge_units(
    session: Session,
    runner: Runner,
    steps: Sequence[tuple[Operator, Filter | None]],
    runs: Sequence[str],
    progress: Progress | None = None,
) -> None:
    """Judge the annotations of `runs` by each operator's filter in turn (None: reopen), where its work is lacking."""
    first, preload = steps[0][0], LoadParsers.of(item for _, item in steps)

    def jobs(count: Count) -> Iterator[Job]:
        for unit in session.units():
            inputs = session.inputs(unit, runs, first, 0)
            paths = [(pending.path("decisions", o, inputs.uid(o)), o) for o, _ in steps]
            if session.all_done(paths, unit):
                count.skip(len(unit.samples))
                continue
            task = JudgeTask(inputs, tuple(steps), 0 if first.round else 1)
            yield Job(digest(["judge", *(path for path, _ in paths)]), len(unit.samples), task, preload=preload)

    complete(session, runner, jobs, Resources("judging"), Count("judging", session.count(), progress))


def recorded_chain(
    session: Session, round: int | None = None, own: Mapping[str, Filter] = MappingProxyType({})
) -> list[Filter]:
    """The rules with the settings that a round of the store was judged by, the newest unless named.

    `own` gives, by name, rules that are none of the shipped.
    """
    judged = [o for o in session.base.operators if o.kind == "filter"]
    if round is None:
        round = max((o.round for o in judged), default=-1)
    names = [o for o in judged if o.round == round and o.name != REOPEN]
    settings = {o.name: (session.store.run(o.run_id) or {}).get("config") for o in names}
    unknown = [name for name in settings if name not in RULES and name not in own]
    if unknown:
        raise ValueError(
            f"{session.store.root}: the rule {unknown[0]!r} of round {round} is none of the shipped; name rules"
        )
    shipped = open_chain({name: settings.get(name) or False for name in RULES} if names else {})
    by_name: dict[str, Filter] = {**{item.spec.name: item for item in shipped}, **own}
    return [by_name[o.name] for o in names] if names else list(shipped)


def _round_of(
    session: Session, filters: Sequence[Filter], live: Sequence[Operator], again: bool = False
) -> tuple[int, list[Operator], list[Operator]]:
    """The newest round of judging if it was by these rules over these annotations, else the next.

    With it the operators of its rules (reopening first), and those whose annotations they judge.
    """
    judged = max((o.round for o in session.base.operators if o.kind == "filter"), default=-1)
    later = [o for o in session.base.operators if o.round == judged]  # among them what came after that judging
    turned = any(o.kind == RECOMPUTED or o.name == ASKED_AGAIN for o in later)
    for round in ([] if turned or again else [judged]) + [session.newest_round("decisions") + 1]:
        seen = [o for o in live if o.kind != "merge" or o.round < round]  # a round's merging comes after its rules
        reads = inputs_of(seen)
        if further := session.further_attempts({o.run_id for o in seen}):  # what a retry brought is to be judged, too
            reads.append(OperatorInput(digest(further), 0))
        made_by = [digest([REOPEN, "1", sorted((r.fingerprint, r.round) for r in reads)])]
        for item in filters:  # a rule's verdicts depend on the rules before it
            made_by.append(fingerprint(item, [*reads, *(OperatorInput(earlier, 0) for earlier in made_by)]))
        names = [(REOPEN, "1"), *((item.spec.name, item.spec.version) for item in filters)]
        chain = [Operator(run_id(m, round), *name, m, round, "filter") for m, name in zip(made_by, names)]
        wanted = {operator.run_id for operator in (chain if round else chain[1:])}
        if wanted == {o.run_id for o in session.base.operators if o.kind == "filter" and o.round == round}:
            break
    return round, chain, seen


def verdicts_of(item: Filter, sample: Sample, confirmed: Collection[str] = ()) -> list[Decision]:
    """A filter's verdicts on what a sample keeps, checked, with what is rejected along with a rejected item.

    What a person `confirmed` is not judged.
    """
    known = {each.id for each in sample.items()}
    verdicts = [verdict for verdict in item.judge(sample) if verdict.item_id not in confirmed]
    seen: set[str] = set()
    for decision in verdicts:
        where = f"filter {item.spec.name}, image {sample.image.id}"
        if decision.item_id not in known or decision.item_id in seen:
            what = "twice" if decision.item_id in seen else "though it is not kept"
            raise ValueError(f"{where}: judged {decision.item_id!r} {what}; expected at most one verdict on an item")
        if decision.status not in ("kept", "rejected", "superseded"):
            raise ValueError(f"{where}: status {decision.status!r}; expected kept or rejected")
        seen.add(decision.item_id)
    rejected = {decision.item_id for decision in verdicts if decision.status != "kept"}
    return verdicts + dependents(sample, rejected, seen)


def dependents(sample: Sample, rejected: set[str], judged: Iterable[str] = ()) -> list[Decision]:
    """Rejections of dependent items: a phrase without its text or any of its regions, a detail of a region."""
    parents: list[tuple[str, str]] = [(region.id, region.refines) for region in sample.regions]
    for grounding in sample.groundings:
        regionless = grounding.region_ids and rejected.issuperset(grounding.region_ids)
        parents.append((grounding.id, grounding.region_ids[0] if regionless else grounding.text_id))
    aside = rejected.union(judged)
    return [
        Decision(item, "rejected", "", "orphan", by_id=parent)
        for item, parent in parents
        if parent in rejected and item not in aside
    ]


def _reopened(sample: Sample) -> list[Decision]:
    last = {d.item_id: d for d in sample.decisions}
    return [Decision(i, "kept", REOPEN, REOPEN) for i, d in last.items() if d.status == "rejected" and d.rule != HUMAN]


def with_confirmed_as_human(sample: Sample) -> Sample:
    """The kept items of a sample; regions that a person confirmed get the source of a person, which outranks others."""
    confirmed, current = _confirmed(sample), sample.current()
    regions = tuple(
        dataclasses.replace(region, source=dataclasses.replace(region.source, kind=HUMAN))
        if region.id in confirmed and region.source is not None
        else region
        for region in current.regions
    )
    return dataclasses.replace(current, regions=regions) if confirmed else current


def _confirmed(sample: Sample) -> set[str]:
    """Ids of the items that a person's verdict keeps."""
    last = {d.item_id: d for d in sample.decisions}
    return {i for i, d in last.items() if d.rule == HUMAN and d.status == "kept"}

"""Decisions and where they go: a chain of filters over a store, and the verdict on rows that a new version replaces.

A round of judging starts afresh: what earlier rounds rejected is reopened, then each rule in turn sees what stands.
The same rules over the same annotations are the same round, and add nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from florence2.engine.curation.filters.rules import RULES, RuleFilter, open_chain
from florence2.engine.operator import Filter, OperatorInput, digest, fingerprint, run_id, unit_id
from florence2.engine.session import ANNOTATORS, ImageSelector, Session, Unit, fragment_path, inputs_of
from florence2.records import Decision, Grounding, Item, Region, Sample
from florence2.store import scan, schema
from florence2.store.dataset import PendingFragment
from florence2.store.snapshots import Operator

REOPEN, RECOMPUTED = "reopen", "recomputed"

Progress = Callable[[str, int, int], None]


def judge(session: Session, filters: Sequence[Filter], progress: Progress | None = None, again: bool = False) -> int:
    """Judge every unit by a chain of filters; returns the round of the verdicts, a new one where asked to `again`."""
    if not filters:
        raise ValueError("filter: got no rules; name at least one")
    names = [f.spec.name for f in filters]
    if len(set(names)) != len(names):
        raise ValueError(f"filter: the rule {max(names, key=names.count)!r} is named twice; name each once")
    live = session.live()
    if not live:
        raise ValueError(f"{session.store.root}: has no annotations to judge; run florence2 annotate first")
    round, chain, reads = _round_of(session, filters, live, again)
    runs = [o.run_id for o in reads]
    steps = list(zip(chain, (None, *filters)))
    steps = steps if round else steps[1:]  # there is nothing to reopen in the first round
    for operator, item in steps:
        session.start(operator, {"config": dict(item.config) if item else {}, "reads": runs}, {})
    judge_units(session, steps, runs, progress)
    return round


def judge_units(
    session: Session,
    steps: Sequence[tuple[Operator, Filter | None]],
    runs: Sequence[str],
    progress: Progress | None = None,
) -> None:
    """Judge the annotations of `runs` by each operator's filter in turn (None: reopen), where its work is lacking."""
    total, done = sum(f.rows for f in session.current().of("images")), 0
    round = steps[0][0].round
    for unit in session.units():
        paths = [path_of("decisions", operator, unit) for operator, _ in steps]
        if not all([session.done(p, [unit.uid], o.run_id) for p, (o, _) in zip(paths, steps)]):
            samples = session.samples(unit, runs, steps[0][0], 0)
            session.put(_judge_unit(session, unit, samples, steps, 0 if round else 1))
        done += len(unit.samples)
        if progress:
            progress("judging", done, total)


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
    turned = any(o.kind == RECOMPUTED and o.round == judged for o in session.base.operators)  # after that judging
    for round in ([] if turned or again else [judged]) + [session.newest_round("decisions") + 1]:
        seen = [o for o in live if o.kind != "merge" or o.round < round]  # a round's merging comes after its rules
        reads = inputs_of(seen)
        made_by = [digest([REOPEN, "1", sorted((r.fingerprint, r.round) for r in reads)])]
        for item in filters:  # a rule's verdicts depend on the rules before it
            made_by.append(fingerprint(item, [*reads, *(OperatorInput(earlier, 0) for earlier in made_by)]))
        names = [(REOPEN, "1"), *((item.spec.name, item.spec.version) for item in filters)]
        chain = [Operator(run_id(m, round), *name, m, round, "filter") for m, name in zip(made_by, names)]
        wanted = {operator.run_id for operator in (chain if round else chain[1:])}
        if wanted == {o.run_id for o in session.base.operators if o.kind == "filter" and o.round == round}:
            break
    return round, chain, seen


def _judge_unit(
    session: Session,
    unit: Unit,
    samples: list[Sample],
    steps: Sequence[tuple[Operator, Filter | None]],
    first_seq: int,
) -> list[PendingFragment]:
    drafts = []
    samples = list(samples)
    standing = [sample.current() for sample in samples]
    for seq, (operator, item) in enumerate(steps, first_seq):
        rows = []
        if isinstance(item, RuleFilter):
            item.prepare(standing)
        for n, sample in enumerate(samples):
            verdicts = _reopened(sample) if item is None else verdicts_of(item, standing[n])
            if not verdicts:
                continue
            stamped = [dataclasses.replace(d, rule=operator.name, round=operator.round, seq=seq) for d in verdicts]
            rows += [schema.decision_row(d, sample.image.id, operator.version, operator.run_id) for d in stamped]
            samples[n] = dataclasses.replace(sample, decisions=(*sample.decisions, *stamped))
            standing[n] = samples[n].current()
        drafts.append(_draft(session, operator, unit, rows))
    return drafts


def verdicts_of(item: Filter, standing: Sample) -> list[Decision]:
    """A filter's verdicts on what stands of a sample, checked, with what falls along with a rejected item."""
    known = {each.id for each in schema.items_of(standing)}
    verdicts = list(item.judge(standing))
    seen: set[str] = set()
    for decision in verdicts:
        where = f"filter {item.spec.name}, image {standing.image.id}"
        if decision.item_id not in known or decision.item_id in seen:
            what = "twice" if decision.item_id in seen else "though it does not stand"
            raise ValueError(f"{where}: judged {decision.item_id!r} {what}; expected at most one verdict on an item")
        if decision.status not in ("kept", "rejected", "superseded"):
            raise ValueError(f"{where}: status {decision.status!r}; expected kept or rejected")
        seen.add(decision.item_id)
    fallen = {decision.item_id for decision in verdicts if decision.status != "kept"}
    return verdicts + dependents(standing, fallen, seen)


def dependents(sample: Sample, fallen: set[str], judged: Iterable[str] = ()) -> list[Decision]:
    """Rejections of what cannot stand alone: a phrase without its text or any of its regions, a detail of a region."""
    parents: list[tuple[str, str]] = [(region.id, region.refines) for region in sample.regions]
    for grounding in sample.groundings:
        regionless = grounding.region_ids and fallen.issuperset(grounding.region_ids)
        parents.append((grounding.id, grounding.region_ids[0] if regionless else grounding.text_id))
    aside = fallen.union(judged)
    return [
        Decision(item, "rejected", "", "orphan", by_id=parent)
        for item, parent in parents
        if parent in fallen and item not in aside
    ]


def _reopened(sample: Sample) -> list[Decision]:
    last = {d.item_id: d for d in sample.decisions}
    return [Decision(i, "kept", REOPEN, REOPEN) for i, d in last.items() if d.status == "rejected"]


def replacements(
    session: Session, made: Sequence[tuple[Operator, ImageSelector | None]]
) -> dict[str, ImageSelector | None]:
    """Runs of earlier commands that what was made now stands in for, each with the pictures taken."""
    now = {operator.run_id for operator, _ in made}
    return {
        old.run_id: selector
        for new, selector in made
        for old in session.base.operators
        if old.kind == new.kind and (old.name, old.round) == (new.name, new.round)
        if old.run_id not in now and not old.replaced and (new.kind != "import" or _same_set(session, old, new))
    }


def _same_set(session: Session, old: Operator, new: Operator) -> bool:
    """Whether two imports read the same files: another set about the same pictures is not replaced, both stand."""
    starts = [(session.store.run(o.run_id) or {"starts": []})["starts"] for o in (old, new)]
    read = [{(start.get("source"), start.get("split") or "") for start in each} for each in starts]
    return bool(read[0] & read[1])


def supersede_replaced(session: Session, made: Sequence[tuple[Operator, ImageSelector | None]]) -> None:
    """Decide on rows whose operator's fingerprint changed: superseded; as they were before where it changed back."""
    turned = any(operator.kind == RECOMPUTED for operator in session.base.operators)  # else none was ever replaced
    before = {operator.run_id for operator in session.base.operators if turned}
    replaced = replacements(session, made)
    returned = {operator.run_id for operator, _ in made if operator.run_id in before}
    if not replaced and not returned:
        return
    round = max(session.newest_round("decisions"), 0)
    seq = 1 + _highest_seq(session, round)
    made_by = digest([RECOMPUTED, sorted(replaced), sorted(returned), round, seq])
    operator = Operator(run_id(made_by, round), RECOMPUTED, "2", made_by, round, RECOMPUTED)
    session.operators[operator.run_id] = operator
    change = ReplacedRuns(
        replaced, frozenset(returned), [o.run_id for o in session.operators.values() if o.kind in ANNOTATORS]
    )
    if not any(_turned(session, operator, unit, change, seq) for unit in session.units()):
        del session.operators[operator.run_id]
        for run in replaced:  # an import without rows may have said what absence means: that goes with it
            if session.operators[run].kind == "import":
                session.operators[run] = dataclasses.replace(session.operators[run], replaced=True)
        return
    facts = {"replaced": {r: selector.to_json() if selector else None for r, selector in replaced.items()}, "seq": seq}
    session.start(operator, {**facts, "returned": sorted(returned), "reads": change.reads}, {})
    supersede_units(session, operator, change, seq)
    for run, selector in replaced.items():
        left = selector is not None and any(
            _leaves(session, operator, unit, run, selector, seq) for unit in session.units()
        )
        session.operators[run] = dataclasses.replace(session.operators[run], replaced=not left)


@dataclasses.dataclass(frozen=True)
class ReplacedRuns:
    """Runs that were replaced (in the pictures taken) and returned to, and the runs whose rows that may reach."""

    replaced: Mapping[str, ImageSelector | None]
    returned: frozenset[str]
    reads: Sequence[str] | None = None  # None: what leans on the rows is left as it is, as version 1 did


def supersede_units(session: Session, operator: Operator, change: ReplacedRuns, seq: int) -> None:
    """Write the verdicts on rows of runs that were replaced, or that are returned to, where they are lacking."""
    for unit in session.units():
        if not session.done(path_of("decisions", operator, unit), [unit.uid], operator.run_id):
            turned = _turned(session, operator, unit, change, seq)
            rows = [schema.decision_row(d, image, operator.version, operator.run_id) for image, d in turned]
            session.put([_draft(session, operator, unit, rows)])


def _turned(
    session: Session, operator: Operator, unit: Unit, change: ReplacedRuns, seq: int
) -> list[tuple[str, Decision]]:
    """(image id, verdict) for each of a unit's rows whose standing changes."""
    runs = [*change.replaced, *change.returned] if change.reads is None else change.reads
    out = []
    for sample in session.samples(unit, runs, operator, seq):
        verdicts = _direct(sample, change)
        if change.reads is not None and verdicts:
            verdicts = [*verdicts, *_fallout(sample, verdicts)]
        out += [(sample.image.id, dataclasses.replace(d, round=operator.round, seq=seq)) for d in verdicts]
    return out


def _direct(sample: Sample, change: ReplacedRuns) -> list[Decision]:
    """The verdicts on rows of the runs themselves."""
    last = {d.item_id: d for d in sample.decisions}
    judged = {d.item_id: d for d in sample.decisions if d.rule != RECOMPUTED}  # the last of filters and merging
    out = []
    for item in schema.items_of(sample):
        assert item.source is not None
        run, verdict = item.source.run_id, last.get(item.id)
        gone = verdict is not None and verdict.rule == RECOMPUTED and verdict.status == "superseded"
        selector = change.replaced.get(run)
        if run in change.replaced and not gone and (selector is None or selector(sample)):
            out.append(Decision(item.id, "superseded", RECOMPUTED, RECOMPUTED))
        elif run in change.returned and gone:
            was = judged.get(item.id)
            if was is not None and was.status == "rejected" and change.reads is not None:
                out.append(dataclasses.replace(was, rule=RECOMPUTED))
            else:
                out.append(Decision(item.id, "kept", RECOMPUTED, RECOMPUTED))
    return out


def _fallout(sample: Sample, verdicts: Sequence[Decision]) -> list[Decision]:
    """What follows: rows made of a row that is gone go too; rows that it had superseded stand again."""
    status = {d.item_id: d for d in (*sample.decisions, *verdicts)}
    gone = {d.item_id for d in verdicts if d.status == "superseded"}
    decided = {d.item_id for d in verdicts}
    out: list[Decision] = []

    def stands_for(name: str) -> str:
        while name not in gone and name in status and status[name].status == "superseded" and status[name].by_id:
            name = status[name].by_id
        return name

    def decide(decision: Decision) -> None:
        status[decision.item_id] = decision
        decided.add(decision.item_id)
        out.append(decision)

    while True:
        so_far = len(out)
        for item in schema.items_of(sample):
            if item.id in decided:
                continue
            was = status.get(item.id)
            if was is None or was.status == "kept":
                if _leans(item, gone, stands_for):
                    decide(Decision(item.id, "superseded", RECOMPUTED, "orphan"))
                    gone.add(item.id)
            elif was.status == "superseded" and was.by_id in gone:
                decide(Decision(item.id, "kept", RECOMPUTED, REOPEN))
        if len(out) == so_far:
            return out


def _leans(item: Item, gone: set[str], stands_for: Callable[[str], str]) -> bool:
    """Whether an item is made of what is gone, or points nowhere else."""
    if isinstance(item, Region):
        return bool(gone.intersection(item.derived_from)) or stands_for(item.refines) in gone
    if isinstance(item, Grounding):
        places = [stands_for(name) for name in item.region_ids]
        return item.text_id in gone or (bool(places) and gone.issuperset(places))
    return False


def _leaves(session: Session, operator: Operator, unit: Unit, run: str, selector: ImageSelector, seq: int) -> bool:
    """Whether rows of a run that was replaced stand still, in pictures that were not taken."""
    rest = [sample for sample in session.samples(unit, [run], operator, seq) if not selector(sample)]
    return any(_direct(sample, ReplacedRuns({run: None}, frozenset())) for sample in rest)


def _draft(session: Session, operator: Operator, unit: Unit, rows: Sequence[schema.Row]) -> PendingFragment:
    """An operator's verdicts on a unit, to be put."""
    return session.draft(path_of("decisions", operator, unit), operator, unit, rows)


def path_of(table: str, operator: Operator, unit: Unit) -> str:
    """Where an operator's work on a unit lies."""
    uid = unit_id([sample.image.id for sample in unit.samples], operator.fingerprint, operator.round)
    return fragment_path(table, operator.round, operator.name, operator.version, uid)


def _highest_seq(session: Session, round: int) -> int:
    highest = -1
    for fragment in session.base.of("decisions"):
        table = scan.read_fragment(session.store.root, fragment, ["round", "seq"])
        for r, seq in zip(table["round"].to_pylist(), table["seq"].to_pylist()):
            if r == round:
                highest = max(highest, seq)
    return highest

"""Decisions and where they go: a chain of filters over a store, and the verdict on rows that a new version replaces.

A round of judging starts afresh: what earlier rounds rejected is reopened, then each rule in turn sees what stands.
The same rules over the same annotations are the same round, and add nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from florence2.engine.filters import RULES, open_chain
from florence2.engine.ledger import Ledger, Takes, Unit, fragment_path, reading
from florence2.engine.operator import Filter, Reading, digest, fingerprint, run_id, unit_id
from florence2.records import Decision, Sample
from florence2.store import scan, schema
from florence2.store.dataset import Draft
from florence2.store.snapshots import Operator

REOPEN, RECOMPUTED = "reopen", "recomputed"

Progress = Callable[[str, int, int], None]


def judge(ledger: Ledger, filters: Sequence[Filter], progress: Progress | None = None) -> int:
    """Judge every unit by a chain of filters; returns the round of the verdicts."""
    if not filters:
        raise ValueError("filter: got no rules; name at least one")
    names = [f.spec.name for f in filters]
    if len(set(names)) != len(names):
        raise ValueError(f"filter: the rule {max(names, key=names.count)!r} is named twice; name each once")
    live = ledger.live()
    if not live:
        raise ValueError(f"{ledger.store.root}: has no annotations to judge; run florence2 annotate first")
    round, chain, reads = _round_of(ledger, filters, live)
    runs = [o.run_id for o in reads]
    steps = list(zip(chain, (None, *filters)))
    steps = steps if round else steps[1:]  # there is nothing to reopen in the first round
    for operator, item in steps:
        ledger.start(operator, {"config": dict(item.config) if item else {}, "reads": runs}, {})
    judge_units(ledger, steps, runs, progress)
    return round


def judge_units(
    ledger: Ledger,
    steps: Sequence[tuple[Operator, Filter | None]],
    runs: Sequence[str],
    progress: Progress | None = None,
) -> None:
    """Judge the annotations of `runs` by each operator's filter in turn (None: reopen), where its work is lacking."""
    total, done = sum(f.rows for f in ledger.current().of("images")), 0
    round = steps[0][0].round
    for unit in ledger.units():
        paths = [path_of("decisions", operator, unit) for operator, _ in steps]
        if not all([ledger.done(p, [unit.uid], o.run_id) for p, (o, _) in zip(paths, steps)]):
            samples = ledger.samples(unit, runs, steps[0][0], 0)
            ledger.put(_judge_unit(ledger, unit, samples, steps, 0 if round else 1))
        done += len(unit.samples)
        if progress:
            progress("judging", done, total)


def recorded_chain(ledger: Ledger, round: int | None = None) -> list[Filter]:
    """The shipped rules with the settings that a round of the store was judged by, the newest unless named."""
    judged = [o for o in ledger.base.operators if o.kind == "filter"]
    if round is None:
        round = max((o.round for o in judged), default=-1)
    names = [o for o in judged if o.round == round and o.name != REOPEN]
    settings = {o.name: (ledger.store.run(o.run_id) or {}).get("config") for o in names}
    unknown = [name for name in settings if name not in RULES]
    if unknown:
        raise ValueError(
            f"{ledger.store.root}: the rule {unknown[0]!r} of round {round} is none of the shipped; name rules"
        )
    return list(open_chain({name: settings.get(name) or False for name in RULES} if names else {}))


def _round_of(
    ledger: Ledger, filters: Sequence[Filter], live: Sequence[Operator]
) -> tuple[int, list[Operator], list[Operator]]:
    """The newest round of judging if it was by these rules over these annotations, else the next.

    With it the operators of its rules (reopening first), and those whose annotations they judge.
    """
    judged = [o.round for o in ledger.base.operators if o.kind == "filter"]
    for round in (max(judged, default=-1), ledger.newest_round("decisions") + 1):
        seen = [o for o in live if o.kind != "merge" or o.round < round]  # a round's merging comes after its rules
        reads = reading(seen)
        made_by = [digest([REOPEN, "1", sorted((r.fingerprint, r.round) for r in reads)])]
        for item in filters:  # a rule's verdicts depend on the rules before it
            made_by.append(fingerprint(item, [*reads, *(Reading(earlier, 0) for earlier in made_by)]))
        names = [(REOPEN, "1"), *((item.spec.name, item.spec.version) for item in filters)]
        chain = [Operator(run_id(m, round), *name, m, round, "filter") for m, name in zip(made_by, names)]
        wanted = {operator.run_id for operator in (chain if round else chain[1:])}
        if wanted == {o.run_id for o in ledger.base.operators if o.kind == "filter" and o.round == round}:
            break
    return round, chain, seen


def _judge_unit(
    ledger: Ledger,
    unit: Unit,
    samples: list[Sample],
    steps: Sequence[tuple[Operator, Filter | None]],
    first_seq: int,
) -> list[Draft]:
    drafts = []
    samples = list(samples)
    standing = [sample.current() for sample in samples]
    for seq, (operator, item) in enumerate(steps, first_seq):
        rows = []
        for n, sample in enumerate(samples):
            verdicts = _reopened(sample) if item is None else verdicts_of(item, standing[n])
            if not verdicts:
                continue
            stamped = [dataclasses.replace(d, rule=operator.name, round=operator.round, seq=seq) for d in verdicts]
            rows += [schema.decision_row(d, sample.image.id, operator.version, operator.run_id) for d in stamped]
            samples[n] = dataclasses.replace(sample, decisions=(*sample.decisions, *stamped))
            standing[n] = samples[n].current()
        drafts.append(_draft(ledger, operator, unit, rows))
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


def supersede_replaced(ledger: Ledger, made: Sequence[tuple[Operator, Takes | None]]) -> None:
    """Decide on rows whose operator's fingerprint changed: superseded; kept again where it changed back."""
    now = {operator.run_id for operator, _ in made}
    before = {operator.run_id for operator in ledger.base.operators}
    replaced = {
        old.run_id: takes
        for new, takes in made
        for old in ledger.base.operators
        if old.kind == new.kind and (old.name, old.round) == (new.name, new.round)
        if old.run_id not in now and not old.replaced
    }
    returned = {operator.run_id for operator, _ in made if operator.run_id in before}
    if not replaced and not returned:
        return
    round = max(ledger.newest_round("decisions"), 0)
    seq = 1 + _highest_seq(ledger, round)
    made_by = digest([RECOMPUTED, sorted(replaced), sorted(returned), round, seq])
    operator = Operator(run_id(made_by, round), RECOMPUTED, "1", made_by, round, RECOMPUTED)
    ledger.operators[operator.run_id] = operator
    turned = {unit.uid: _turned(ledger, operator, unit, replaced, returned, seq) for unit in ledger.units()}
    if not any(turned.values()):
        del ledger.operators[operator.run_id]
        return
    facts = {"replaced": {r: takes.fact() if takes else None for r, takes in replaced.items()}, "seq": seq}
    ledger.start(operator, {**facts, "returned": sorted(returned)}, {})
    supersede_units(ledger, operator, replaced, returned, seq)
    for run, takes in replaced.items():
        left = any(  # rows of pictures that were not taken
            len(_turned(ledger, operator, unit, {run: None}, set(), seq))
            > len(_turned(ledger, operator, unit, {run: takes}, set(), seq))
            for unit in (ledger.units() if takes else ())
        )
        ledger.operators[run] = dataclasses.replace(ledger.operators[run], replaced=not left)


def supersede_units(
    ledger: Ledger, operator: Operator, replaced: Mapping[str, Takes | None], returned: set[str], seq: int
) -> None:
    """Write the verdicts on rows of runs that were replaced, or that are returned to, where they are lacking."""
    for unit in ledger.units():
        if not ledger.done(path_of("decisions", operator, unit), [unit.uid], operator.run_id):
            turned = _turned(ledger, operator, unit, replaced, returned, seq)
            rows = [schema.decision_row(d, image, operator.version, operator.run_id) for image, d in turned]
            ledger.put([_draft(ledger, operator, unit, rows)])


def _turned(
    ledger: Ledger, operator: Operator, unit: Unit, replaced: Mapping[str, Takes | None], returned: set[str], seq: int
) -> list[tuple[str, Decision]]:
    """(image id, verdict) for each of a unit's rows whose standing changes."""
    out = []
    for sample in ledger.samples(unit, [*replaced, *returned], operator, seq):
        last = {d.item_id: d for d in sample.decisions}
        for item in schema.items_of(sample):
            assert item.source is not None
            run, verdict = item.source.run_id, last.get(item.id)
            gone = verdict is not None and verdict.rule == RECOMPUTED and verdict.status == "superseded"
            takes = replaced.get(run)
            if run in replaced and not gone and (takes is None or takes(sample)):
                status = "superseded"
            elif run in returned and gone:
                status = "kept"
            else:
                continue
            decision = Decision(item.id, status, RECOMPUTED, RECOMPUTED, round=operator.round, seq=seq)
            out.append((sample.image.id, decision))
    return out


def _draft(ledger: Ledger, operator: Operator, unit: Unit, rows: Sequence[schema.Row]) -> Draft:
    """An operator's verdicts on a unit, to be put."""
    return ledger.draft(path_of("decisions", operator, unit), operator, unit, rows)


def path_of(table: str, operator: Operator, unit: Unit) -> str:
    """Where an operator's work on a unit lies."""
    uid = unit_id([sample.image.id for sample in unit.samples], operator.fingerprint, operator.round)
    return fragment_path(table, operator.round, operator.name, operator.version, uid)


def _highest_seq(ledger: Ledger, round: int) -> int:
    highest = -1
    for fragment in ledger.base.of("decisions"):
        table = scan.read_fragment(ledger.store.root, fragment, ["round", "seq"])
        for r, seq in zip(table["round"].to_pylist(), table["seq"].to_pylist()):
            if r == round:
                highest = max(highest, seq)
    return highest

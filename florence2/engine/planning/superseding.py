"""Verdicts on rows whose operator was replaced: superseded, with what depends on them; back again where it returned."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.phase import Count, complete
from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import digest, run_id
from florence2.engine.selectors import ImageSelector
from florence2.engine.session import ANNOTATORS, HUMAN, RECOMPUTED, REOPEN, Session
from florence2.records import Decision, Grounding, Item, Region, Sample
from florence2.store import Operator, Store, Unit, pending


def replacements(
    session: Session, made: Sequence[tuple[Operator, ImageSelector | None]]
) -> dict[str, ImageSelector | None]:
    """Runs of earlier commands that the new ones replace, each with the pictures that they cover."""
    now = {operator.run_id for operator, _ in made}
    return {
        old.run_id: selector
        for new, selector in made
        for old in session.base.operators
        if old.kind == new.kind and (old.name, old.round) == (new.name, new.round)
        if old.run_id not in now and not old.replaced and (new.kind != "import" or _same_set(session, old, new))
    }


def _same_set(session: Session, old: Operator, new: Operator) -> bool:
    """Whether two imports read the same files: another set about the same pictures is not replaced, both are kept."""
    starts = [(session.store.run(o.run_id) or {"starts": []})["starts"] for o in (old, new)]
    read = [{(start.get("source"), start.get("split") or "") for start in each} for each in starts]
    return bool(read[0] & read[1])


def supersede_replaced(session: Session, runner: Runner, made: Sequence[tuple[Operator, ImageSelector | None]]) -> None:
    """Decide on rows whose operator's fingerprint changed: superseded; as they were before where it changed back."""
    turned = any(operator.kind == RECOMPUTED for operator in session.base.operators)  # else none was ever replaced
    before = {operator.run_id for operator in session.base.operators if turned}
    replaced = replacements(session, made)
    returned = {operator.run_id for operator, _ in made if operator.run_id in before}
    if not replaced and not returned:
        return
    round = max(session.newest_round("decisions"), 0)
    seq = 1 + session.store.newest_seq(round, session.current())
    made_by = digest([RECOMPUTED, sorted(replaced), sorted(returned), round, seq])
    operator = Operator(run_id(made_by, round), RECOMPUTED, "2", made_by, round, RECOMPUTED)
    session.operators[operator.run_id] = operator
    change = ReplacedRuns(
        replaced, frozenset(returned), [o.run_id for o in session.operators.values() if o.kind in ANNOTATORS]
    )
    seen = (session.samples(unit, change.runs, operator, seq) for unit in session.units())
    if not any(_turned(samples, operator, change, seq) for samples in seen):
        del session.operators[operator.run_id]
        for run in replaced:  # an import without rows may state what absence means (coverage): that goes with it
            if session.operators[run].kind == "import":
                session.operators[run] = dataclasses.replace(session.operators[run], replaced=True)
        return
    facts = {"replaced": {r: selector.to_json() if selector else None for r, selector in replaced.items()}, "seq": seq}
    session.start(operator, {**facts, "returned": sorted(returned), "reads": change.reads}, {})
    supersede_units(session, runner, operator, change, seq)
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
    reads: Sequence[str] | None = None  # None: items that depend on the rows are left as they are, as version 1 did

    @property
    def runs(self) -> Sequence[str]:
        """The runs whose rows may be reached."""
        return [*self.replaced, *self.returned] if self.reads is None else self.reads


@dataclasses.dataclass(frozen=True)
class SupersedeTask:
    """A unit in which rows of runs that were replaced, or that are returned to, are superseded or kept again."""

    inputs: UnitInputs
    operator: Operator
    change: ReplacedRuns
    seq: int

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Commit the verdicts."""
        verdicts = _turned(self.inputs.load(store), self.operator, self.change, self.seq)
        unit, uid = self.inputs.unit.uid, self.inputs.uid(self.operator)
        return JobOutcome(tuple(store.put_all([pending.decisions_of(self.operator, uid, unit, verdicts)])))


def supersede_units(session: Session, runner: Runner, operator: Operator, change: ReplacedRuns, seq: int) -> None:
    """Write the verdicts on rows of runs that were replaced, or that are returned to, where they are lacking."""

    def jobs(count: Count) -> Iterator[Job]:
        for unit in session.units():
            inputs = session.inputs(unit, change.runs, operator, seq)
            if not session.all_done([(pending.path("decisions", operator, inputs.uid(operator)), operator)], unit):
                yield Job(inputs.uid(operator), len(unit.samples), SupersedeTask(inputs, operator, change, seq))

    complete(session, runner, jobs, Resources(RECOMPUTED), Count(RECOMPUTED, session.count()))


def _turned(
    samples: Sequence[Sample], operator: Operator, change: ReplacedRuns, seq: int
) -> list[tuple[str, Decision]]:
    """(image id, verdict) for each of a unit's rows whose status changes."""
    out = []
    for sample in samples:
        verdicts = _direct(sample, change)
        if change.reads is not None and verdicts:
            verdicts = [*verdicts, *_dependent_verdicts(sample, verdicts)]
        out += [(sample.image.id, dataclasses.replace(d, round=operator.round, seq=seq)) for d in verdicts]
    return out


def _direct(sample: Sample, change: ReplacedRuns) -> list[Decision]:
    """The verdicts on rows of the runs themselves."""
    last = {d.item_id: d for d in sample.decisions}
    judged = {d.item_id: d for d in sample.decisions if d.rule != RECOMPUTED}  # the last of filters and merging
    out = []
    for item in sample.items():
        assert item.source is not None
        run, verdict = item.source.run_id, last.get(item.id)
        gone = verdict is not None and verdict.rule == RECOMPUTED and verdict.status == "superseded"
        selector = change.replaced.get(run)
        if run in change.replaced and not gone and (selector is None or selector(sample)):
            out.append(Decision(item.id, "superseded", RECOMPUTED, RECOMPUTED))
        elif run in change.returned and gone:
            was = judged.get(item.id)
            if was is not None and was.rule == HUMAN:
                out.append(was)
            elif was is not None and was.status == "rejected" and change.reads is not None:
                out.append(dataclasses.replace(was, rule=RECOMPUTED))
            else:
                out.append(Decision(item.id, "kept", RECOMPUTED, RECOMPUTED))
    return out


def _dependent_verdicts(sample: Sample, verdicts: Sequence[Decision]) -> list[Decision]:
    """What follows: rows made of a superseded row are superseded too; rows that it had superseded are kept again."""
    status = {d.item_id: d for d in (*sample.decisions, *verdicts)}
    gone = {d.item_id for d in verdicts if d.status == "superseded"}
    decided = {d.item_id for d in verdicts}
    out: list[Decision] = []

    def winner_of(name: str) -> str:
        while name not in gone and name in status and status[name].status == "superseded" and status[name].by_id:
            name = status[name].by_id
        return name

    def decide(decision: Decision) -> None:
        status[decision.item_id] = decision
        decided.add(decision.item_id)
        out.append(decision)

    while True:
        so_far = len(out)
        for item in sample.items():
            if item.id in decided:
                continue
            was = status.get(item.id)
            if was is None or was.status == "kept":
                if _depends(item, gone, winner_of):
                    decide(Decision(item.id, "superseded", RECOMPUTED, "orphan"))
                    gone.add(item.id)
            elif was.status == "superseded" and was.by_id in gone:
                decide(Decision(item.id, "kept", RECOMPUTED, REOPEN))
        if len(out) == so_far:
            return out


def _depends(item: Item, gone: set[str], winner_of: Callable[[str], str]) -> bool:
    """Whether an item is made of superseded items, or refers to no other."""
    if isinstance(item, Region):
        return bool(gone.intersection(item.derived_from)) or winner_of(item.refines) in gone
    if isinstance(item, Grounding):
        places = [winner_of(name) for name in item.region_ids]
        return item.text_id in gone or (bool(places) and gone.issuperset(places))
    return False


def _leaves(session: Session, operator: Operator, unit: Unit, run: str, selector: ImageSelector, seq: int) -> bool:
    """Whether rows of a run that was replaced are still kept, in pictures that were not covered."""
    rest = [sample for sample in session.samples(unit, [run], operator, seq) if not selector(sample)]
    return any(_direct(sample, ReplacedRuns({run: None}, frozenset())) for sample in rest)

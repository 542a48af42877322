"""refine: train a student on what a store keeps, let it annotate what it has not seen, judge, merge; again.

With two folds each half of the pictures is annotated by the student of the other half, so that nothing is judged by one
that memorised it. A round ends with one snapshot; interrupted, it goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2 import arguments
from florence2.codec.tasks import Task, task_of
from florence2.engine.commands import chain_of, filter
from florence2.engine.curation.judging import distinct, is_judged, judge, recorded_chain
from florence2.engine.curation.merging import MergeConfig, corrected_before, merge
from florence2.engine.execution.annotation_phase import run_specialist
from florence2.engine.execution.context import resolve_specialist
from florence2.engine.execution.jobs import ATTEMPTS
from florence2.engine.execution.options import Execution, Progress
from florence2.engine.ingest.inspection import MAX_PIXELS
from florence2.engine.operator import Filter, Specialist
from florence2.engine.planning.dependencies import plan_steps
from florence2.engine.run_records import begin_run, recorded
from florence2.engine.selectors import FoldSelector
from florence2.engine.session import Session, retry_when_stale
from florence2.engine.specialists.student import StudentSpecialist
from florence2.labels import fold_label, one_line
from florence2.monitoring.run_journal import RunJournal
from florence2.refinement.agreement import LEAST, Agreement
from florence2.refinement.changes import Changes, changes
from florence2.refinement.replay import DEFAULT, OWN, OWN_DATA, named, with_replay
from florence2.refinement.stopping import (
    Holdout,
    agreement_of,
    checked_share,
    ending,
    measured,
    share_at,
    share_of,
    stop_of,
)
from florence2.refinement.student_asks import StudentAsks, asks_of
from florence2.refinement.students import TrainedStudent, TrainFunction, train_student
from florence2.store import COMMIT_TRIES, Snapshot, Store

Rules = str | Path | Mapping[str, Any] | Sequence[Filter] | None
MERGING = MergeConfig()
EXECUTION = Execution()

OpenStudent = Callable[[str], "str | Specialist"]  # a folder of weights -> what annotate takes


@dataclass(frozen=True)
class Round:
    """What one round did: its students, its snapshot, what changed. A round that did nothing shows it."""

    number: int
    snapshot: int
    students: tuple[TrainedStudent, ...]
    changes: Changes
    agreement: Agreement | None = None
    """With the labels of pictures that no student was trained on; None where none are held out."""
    stopped: str = ""
    """Why no further round follows; empty: one may."""

    def lines(self) -> list[str]:
        """A line a student, and one of what changed."""
        count = len(self.students)
        out = [
            f"round {self.number}, student {s.fold + 1} of {count}: {s.steps} steps on {s.samples} pictures"
            f", loss {s.loss_before:.3f} -> {s.loss_after:.3f}, weights {s.weights_sha256[:12]}"
            + (" (trained before)" if s.found else "")
            for s in self.students
        ]
        c = self.changes
        what = (
            f"{c.added} added, {c.removed} removed, {c.moved} moved; {c.relabelled} labels and {c.texts_changed} texts"
        )
        texts = f"; texts {c.texts_added} added, {c.texts_removed} removed" if c.texts_added or c.texts_removed else ""
        out.append(f"round {self.number}: boxes {what} changed{texts}" + (" (no effect)" if c.nothing else ""))
        if self.agreement is not None and self.agreement.value is not None:
            kinds = ", ".join(f"{name} {value:.3f}" for name, value in self.agreement.by_kind.items())
            out.append(
                f"round {self.number}: agreement with the labels of {self.agreement.pictures} held-out pictures "
                f"{self.agreement.value:.3f} ({kinds})"
            )
        return out + ([f"stopped after round {self.number}: {self.stopped}"] if self.stopped else [])


@recorded
def refine(
    store: str | Path | Store,
    rounds: int = 1,
    folds: int = 2,
    start: str | None = None,
    *,
    recipe: Mapping[str, Any] | None = None,
    tasks: Sequence[str] = (),
    labels: Sequence[str] = (),
    rules: Rules = None,
    merging: MergeConfig | None = MERGING,
    seed: int = 0,
    from_previous: bool = True,
    replay: str = OWN,
    holdout: float | None = None,
    views: bool = False,
    workers: int | None = None,
    device: str = "auto",
    runner: str = "local",
    ray_address: str | None = None,
    progress: Progress | None = None,
    train: TrainFunction | None = None,
    open_student: OpenStudent | None = None,
    on_round: Callable[[Round], None] | None = None,
    on_message: Callable[[str], None] | None = None,
    journal: RunJournal | None = None,
) -> list[Round]:
    """Refine a store until it has had `rounds` rounds; returns those that were done now.

    `recipe` holds keys of `train` for the students. `tasks` are those that they learn, and are asked where the picture
    alone is enough; unless named, those of the student's own that the kept annotations can train. Their objects have
    one of `labels`; unless named, one that a kept annotation has. `rules` are as for `filter`; None: those the store
    was last judged by. `merging` None keeps the sources' items side by side. `start`: what the first students start
    from; None: that of the rounds before, else nano. `from_previous`: a later student starts from the one before.
    `replay` is shown beside the labels against forgetting: "own", the start's own data where known, a path, or "none";
    with it students train longer. `holdout`: a share of the pictures, by hash, that no student is trained on; the first
    round that agrees no better with their labels is the last (0, or fewer than ten: nothing stops; None: a tenth).
    `views`: four of each picture are looked at, at four times the cost.
    """
    rounds, folds = arguments.whole("rounds", rounds, least=1), arguments.whole("folds", folds, least=1)
    seed, wished, holdout = arguments.whole("seed", seed, least=0), holdout is not None, checked_share(holdout)
    rules = None if rules is None else distinct(chain_of(rules))  # read now, not after hours of training
    store = store if isinstance(store, Store) else Store(store)
    journal = begin_run(journal, store, "refine")
    execution = Execution(workers, None, ATTEMPTS, device, progress, on_message, runner, ray_address, journal)
    parts, shown = [FoldSelector(n, folds) for n in range(folds)], _training_shown(execution)
    trained = defaultdict[int, list[list[TrainedStudent]]](list)

    @retry_when_stale  # students of a snapshot that another command has followed meanwhile are not what the round is of
    def next_round() -> Round | None:
        if _is_over(before := store.snapshot(), rounds, holdout):
            return None
        begin = _start_of(store, before, start, from_previous)
        table, taught = _taught(store, before, begin, recipe or {}, tasks, labels)
        if _is_over(before := _judged(store, rules, execution), rounds, holdout):
            return None
        number, share = done_rounds(before) + 1, _share(store, before, holdout, wished, execution)
        asks = dataclasses.replace(_asks(store, before, table, taught, labels), views=views)
        learned = with_replay(taught, replay, begin, taught.get("source", {}).get("tasks") or asks.tasks)
        again = not from_previous or _knows_held_out(store, before, number, share, on_message)
        begins = [begin if again else _previous(store, before, number, part) or begin for part in parts]
        if len(trained[number]) < COMMIT_TRIES:
            trained[number].append(_trained(store, before, zip(parts, begins), learned, seed, train, shown, share))
        students = trained[number][-1]  # of a little earlier where others commit all the time, who are made to wait now
        held = Holdout(share, frozenset(table[token].storage_rule for token in asks.tasks)) if share else None
        card = open_student or asks.card
        after = annotate_round(store, number, students, rules, merging, execution, card, before, held, begin)
        return _round(store, number, students, before, after)

    return list(_each(next_round, on_round))


def _each(next_round: Callable[[], Round | None], on_round: Callable[[Round], None] | None) -> Iterator[Round]:
    """Rounds until there is none, each shown when it is done."""
    while done := next_round():
        if on_round:
            on_round(done)
        yield done


def _round(store: Store, number: int, students: Sequence[TrainedStudent], before: Snapshot, after: Snapshot) -> Round:
    """What a round did between two snapshots."""
    changed = changes(store.samples(before.number), store.samples(after.number))
    return Round(number, after.number, tuple(students), changed, agreement_of(after), stop_of(after))


def annotate_round(
    store: Store,
    number: int,
    students: Sequence[TrainedStudent],
    rules: Rules = None,
    merging: MergeConfig | None = MERGING,
    execution: Execution = EXECUTION,
    open_student: OpenStudent | None = None,
    before: Snapshot | None = None,
    holdout: Holdout | None = None,
    start: str | None = None,
) -> Snapshot:
    """Have each student annotate its fold, judge all, merge: one snapshot. The students' rows carry round `number`.

    `start`, what students came from in the first place, is noted for the rounds that follow.
    StaleBase where another command ended since the snapshot `before` (the newest).
    """
    session = Session(store, before, execution.journal)
    opened = open_student or student_name
    named: list[str | Specialist] = [opened(student.folder) for student in students]
    selectors = [FoldSelector(student.fold, len(students)) if len(students) > 1 else None for student in students]
    steps = plan_steps(session, [(name, resolve_specialist(name)) for name in named], number, selectors)
    with execution.runner(store.root) as runs:
        for step in steps:
            report = run_specialist(session, step, runs, MAX_PIXELS, execution.progress)
            if report.broken:
                raise ValueError(f"{store.root}: the student {step.operator.name}: {report.broken}")
    chain = recorded_chain(session) if rules is None else chain_of(rules)
    with execution.for_rules(chain, session.base).runner(store.root) as runs:
        if chain:
            round = judge(session, runs, chain, execution.progress)
        else:
            round = session.newest_round("decisions") + 1
        if merging is not None or corrected_before(session, round):
            merge(session, runs, merging, round, execution.progress)
    made: dict[str, Any] = {"folds": len(students), "students": [Path(student.folder).name for student in students]}
    if start is not None:
        made["start"] = {"model": start, "weights_sha256": weights_of(start)}
    if holdout is not None:
        made |= measured(session, number, holdout, (number, round))
    return session.finish({"phase": "refine", "round": number, **made})


def _training_shown(execution: Execution) -> Progress:
    """What takes down each step of a student's training, and shows it."""

    def step(stage: str, number: int, steps: int) -> None:
        execution.journal.training_step(number, steps, {})
        if execution.progress:
            execution.progress(stage, number, steps)

    return step


def student_name(folder: str) -> str:
    """The specialist that a folder of weights is."""
    return f"student:{folder}"


def done_rounds(snapshot: Snapshot) -> int:
    """How many rounds of refinement a snapshot has had."""
    return max((o.round for o in snapshot.operators if o.kind == "model"), default=0)


def weights_of(start: str) -> str:
    """The hash of a student's starting weights."""
    return resolve_specialist(student_name(start)).weights_sha256


def _is_over(snapshot: Snapshot, rounds: int, holdout: float) -> bool:
    """Whether a store has had its rounds, or has stopped."""
    return done_rounds(snapshot) >= rounds or bool(holdout and stop_of(snapshot))


def _start_of(store: Store, snapshot: Snapshot, start: str | None, goes_on: bool) -> str:
    """What the next round's students come from in the first place: as given, else that of the round before.

    ValueError where the next students go on from those of another start.
    """
    number = done_rounds(snapshot)
    ended = ending(store, snapshot, number) if number else None
    known = ended.phase.get("start") if ended is not None else None  # stores of before did not note it
    given = start if start is None else named(start)
    if not known or known["model"] == given:
        return given or DEFAULT
    if given is None:
        return str(known["model"])
    if weights_of(given) == known["weights_sha256"]:
        return str(known["model"]) if known["model"] in OWN_DATA else given
    if goes_on:
        raise ValueError(
            f"{store.root}: the students of round {number} came from {known['model']}, not from {given}; leave out "
            "--start to go on from them, or begin anew with --from-scratch"
        )
    return given


def _taught(
    store: Store,
    snapshot: Snapshot,
    start: str,
    recipe: Mapping[str, Any],
    tasks: Sequence[str],
    labels: Sequence[str],
) -> tuple[Mapping[str, Task], dict[str, Any]]:
    """The start's table of tasks, and the recipe with those that students learn; ValueError for unknown names."""
    table = StudentSpecialist(start).tasks
    taught = _with_tasks(recipe, [task_of(name, table).token for name in tasks])
    _refuse_unheard(store, snapshot, labels)
    return table, taught


def _trained(
    store: Store, before: Snapshot, parts: Iterable[tuple[FoldSelector, str]], *given: Any
) -> list[TrainedStudent]:
    """The students of a round, one for each part of the pictures that it leaves out; `given` as to `train_student`."""
    return [train_student(store, before.number, part, begin, weights_of(begin), *given) for part, begin in parts]


def _judged(store: Store, rules: Sequence[Filter] | None, execution: Execution) -> Snapshot:
    """Judge a store that was never judged: a student learns from what filters keep. What came since is told.

    Returns the store's newest snapshot. ValueError where its own rules cannot be opened.
    """
    before = store.snapshot()
    session = Session(store, before)
    chain = recorded_chain(session) if rules is None else rules
    if not chain or is_judged(session, chain):
        return before
    if any(o.kind == "filter" for o in before.operators):
        whose = "the store's own rules" if rules is None else "the rules given"
        execution.message(f"labels that {whose} did not judge yet are taught as they are; florence2 filter judges them")
        return before
    filter(
        store,
        chain,
        workers=execution.workers,
        runner=execution.kind,
        ray_address=execution.ray_address,
        progress=execution.progress,
        on_message=execution.on_message,
        journal=execution.journal,
    )
    return store.snapshot()


def _share(store: Store, snapshot: Snapshot, holdout: float, wished: bool, execution: Execution) -> float:
    """The share of pictures that is held out; where a wish for it cannot be met, that is told."""
    share = share_of(store.samples(snapshot.number), holdout)
    if wished and holdout and not share:
        execution.message(
            f"a share of {holdout:g} of the pictures, by hash, is fewer than the {LEAST} that a measure takes: none is "
            "held out, and nothing stops"
        )
    return share


def _asks(
    store: Store, snapshot: Snapshot, table: Mapping[str, Task], recipe: Mapping[str, Any], labels: Sequence[str]
) -> StudentAsks:
    """What students of a snapshot are asked."""
    try:
        tasks = list(recipe.get("source", {}).get("tasks", ()))
        return asks_of(store.samples(snapshot.number), table, tasks, labels)
    except ValueError as error:
        raise ValueError(f"{store.root}: snapshot {snapshot.number}: {error}") from None


def _refuse_unheard(store: Store, snapshot: Snapshot, labels: Sequence[str]) -> None:
    """ValueError for a label that no object of the store has, whatever became of it: no student can learn it there."""
    lacking, found = {fold_label(label): label for label in labels}, Counter[str]()
    for group in store.groups(snapshot):
        if not lacking:
            return
        for row in store.judged(group):
            if (row.family, row.kind) == ("region_text", "object") and row.text:
                lacking.pop(fold_label(row.text), None)
                found[row.text] += 1
    if lacking:
        has = ", ".join(one_line(label, 40) for label, _ in found.most_common(10)) or "none"
        raise ValueError(
            f"{store.root}: labels: {next(iter(lacking.values()))!r}: no object of the store has this label; its "
            f"labels are {has}{', ...' if len(found) > 10 else ''}"
        )


def _with_tasks(recipe: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, Any]:
    """The recipe with the tasks that students learn of the store."""
    source = recipe.get("source", {})
    if not isinstance(source, Mapping):
        raise ValueError(f"refine: source: expected keys of a source, such as {{open_end: true}}, got {source!r}")
    source = dict(source)
    if wrong := sorted({"path", "format", "snapshot", "fold", "holdout"} & set(source)):
        raise ValueError(f"refine: source.{wrong[0]} is set by the rounds themselves; leave it out")
    if tasks and "tasks" in source:
        raise ValueError("refine: tasks are named both by --tasks and in the recipe's source; name them once")
    return {**recipe, "source": {**source, "tasks": dict.fromkeys(tasks, 1.0)}} if tasks else dict(recipe)


def _previous(store: Store, snapshot: Snapshot, number: int, fold: FoldSelector) -> str | None:
    """The student of the round before that saw the same pictures; None where its folds were others.

    The snapshot that ended a round names its students, so that there is no moment at which one exists without the
    other. ValueError where they cannot be found.
    """
    if number == 1:
        return None
    ended = ending(store, snapshot, number - 1)
    facts = None if ended is None else _facts(store, ended, number - 1)
    if facts is not None and facts["folds"] != fold.folds:
        return None
    folder = store.student_folder(facts["students"][fold.fold]) if facts else None
    if folder is None or not folder.is_dir():
        gone = f"its folder {folder} is gone" if folder else "nothing names it"
        raise ValueError(f"{store.root}: the student of round {number - 1} cannot be found: {gone}; --from-scratch")
    return str(folder)


def _knows_held_out(
    store: Store, snapshot: Snapshot, number: int, share: float, on_message: Callable[[str], None] | None
) -> bool:
    """Whether the students of the round before were trained on pictures that are held out now."""
    if number == 1 or share_at(store, snapshot, number - 1) >= share:
        return False
    if on_message:
        on_message(
            f"round {number}: students begin from the start, since those of round {number - 1} were trained on "
            "pictures that are held out now"
        )
    return True


def _facts(store: Store, ended: Snapshot, number: int) -> Mapping[str, Any] | None:
    """What a round's end says of it."""
    if "students" in ended.phase:
        return ended.phase
    record = store.run(f"refine-{number}")  # where stores of before kept it
    return record["starts"][-1] if record else None

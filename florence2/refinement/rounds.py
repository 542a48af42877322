"""refine: train a student on what a store keeps, let it annotate what it has not seen, judge, merge; again.

With two folds each half of the pictures is annotated by the student of the other half, so that nothing is judged by one
that memorised it. A round ends with one snapshot; interrupted, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence2.engine.commands import chain_of, filter
from florence2.engine.curation.judging import judge, recorded_chain
from florence2.engine.curation.merging import MergeConfig, merge
from florence2.engine.execution.annotation_phase import run_specialist
from florence2.engine.execution.context import resolve_specialist
from florence2.engine.execution.options import Execution, Progress
from florence2.engine.ingest.inspection import MAX_PIXELS
from florence2.engine.operator import Filter, Specialist
from florence2.engine.planning.dependencies import plan_steps
from florence2.engine.selectors import FoldSelector
from florence2.engine.session import Session, retry_when_stale
from florence2.refinement.changes import Changes, changes
from florence2.refinement.students import TrainedStudent, TrainFunction, train_student
from florence2.store import Store
from florence2.store.snapshots import Snapshot

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
        out.append(f"round {self.number}: boxes {what} changed" + (" (no effect)" if c.nothing else ""))
        return out


def refine(
    store: str | Path | Store,
    rounds: int = 1,
    folds: int = 2,
    start: str = "nano",
    *,
    recipe: Mapping[str, Any] | None = None,
    rules: Rules = None,
    merging: MergeConfig | None = MERGING,
    seed: int = 0,
    from_previous: bool = True,
    workers: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    train: TrainFunction | None = None,
    open_student: OpenStudent | None = None,
    on_round: Callable[[Round], None] | None = None,
) -> list[Round]:
    """Refine a store until it has had `rounds` rounds; returns those that were done now.

    `recipe` holds keys of `train` for the students. `rules` are as for `filter`; None: those the store was last judged
    by. `merging` None keeps all that stands side by side. `from_previous`: a later student starts from the one before.
    """
    if rounds < 1 or folds < 1:
        raise ValueError(f"refine: expected rounds and folds of at least 1, got {rounds} and {folds}")
    store = store if isinstance(store, Store) else Store(store)
    execution = Execution(workers=workers, device=device, progress=progress)
    _judged(store, rules, execution)
    out = []

    @retry_when_stale  # students of a snapshot that another command has followed meanwhile are not what the round is of
    def next_round() -> Round | None:
        before = store.snapshot()
        number = done_rounds(before) + 1
        if number > rounds:
            return None
        students = []
        for fold in (FoldSelector(n, folds) for n in range(folds)):
            begin = (_previous(store, before, number, fold) if from_previous else None) or start
            weights = weights_of(begin)
            students.append(
                train_student(store, before.number, fold, begin, weights, recipe, seed, train, execution.progress)
            )
        after = annotate_round(store, number, students, rules, merging, execution, open_student, before)
        _remember(store, number, folds, students)
        changed = changes(store.samples(before.number), store.samples(after.number))
        return Round(number, after.number, tuple(students), changed)

    while done := next_round():
        out.append(done)
        if on_round:
            on_round(done)
    return out


def annotate_round(
    store: Store,
    number: int,
    students: Sequence[TrainedStudent],
    rules: Rules = None,
    merging: MergeConfig | None = MERGING,
    execution: Execution = EXECUTION,
    open_student: OpenStudent | None = None,
    before: Snapshot | None = None,
) -> Snapshot:
    """Have each student annotate its fold, judge all, merge: one snapshot. The students' rows carry round `number`.

    StaleBase where another command ended since the snapshot `before` (the newest).
    """
    session = Session(store, before)
    named: list[str | Specialist] = [(open_student or student_name)(student.folder) for student in students]
    selectors = [FoldSelector(student.fold, len(students)) if len(students) > 1 else None for student in students]
    steps = plan_steps(session, [(name, resolve_specialist(name)) for name in named], number, selectors)
    with execution.runner(store.root) as runner:
        for step in steps:
            run_specialist(session, step, runner, MAX_PIXELS, execution.progress)
    chain = recorded_chain(session) if rules is None else chain_of(rules)
    with execution.for_rules(chain, session.base).runner(store.root) as runner:
        if chain:
            round = judge(session, runner, chain, execution.progress)
        else:
            round = session.newest_round("decisions") + 1
        if merging is not None:
            merge(session, runner, merging, round, execution.progress)
    return session.finish({"phase": "refine", "round": number})


def student_name(folder: str) -> str:
    """The specialist that a folder of weights is."""
    return f"student:{folder}"


def done_rounds(snapshot: Snapshot) -> int:
    """How many rounds of refinement a snapshot has had."""
    return max((o.round for o in snapshot.operators if o.kind == "model"), default=0)


def weights_of(start: str) -> str:
    """The hash of a student's starting weights."""
    return resolve_specialist(student_name(start)).weights_sha256


def _judged(store: Store, rules: Rules, execution: Execution) -> None:
    """Judge a store that was never judged: a student learns from what filters keep."""
    if not any(o.kind == "filter" for o in store.snapshot().operators) and (rules is None or chain_of(rules)):
        filter(store, rules, progress=execution.progress)


def _remember(store: Store, number: int, folds: int, students: Sequence[TrainedStudent]) -> None:
    """Write to runs/ which student annotated which fold, for the next round to start from."""
    facts = {"round": number, "folds": folds, "students": [Path(student.folder).name for student in students]}
    store.record_run(f"refine-{number}", {}, facts)


def _previous(store: Store, snapshot: Snapshot, number: int, fold: FoldSelector) -> str | None:
    """The student of the round before that saw the same pictures."""
    run = store.run(f"refine-{number - 1}")
    start = run["starts"][-1] if run else {}
    if number == 1 or start.get("folds") != fold.folds:
        return None
    folder = store.student_folder(start["students"][fold.fold])
    return str(folder) if folder.is_dir() else None

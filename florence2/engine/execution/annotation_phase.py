"""One specialist over the units of a store that lack its work, and over the pictures to be asked about again."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from florence2.engine import current_annotations
from florence2.engine.execution.annotation import SECONDS, AnnotatedJob, AnnotateTask, pieces_name
from florence2.engine.execution.handout import Pace
from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.options import Execution, Progress
from florence2.engine.execution.phase import Count, run_phase
from florence2.engine.ingest.revision import Revision, revise
from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import digest, retry_id
from florence2.engine.planning.dependencies import Step
from florence2.engine.session import Session, further_at, mark_at
from florence2.engine.specialists import absolute
from florence2.sources.files import NO_ANSWER
from florence2.store import Fragment, Unit, attempted_images, pending

# reasons that another try may not meet: a picture that is not readable now was when it was taken in
PASSING = ("error", "timeout", "missing", "worker_died", "unreadable", NO_ANSWER)
QUARANTINED_AFTER = 3  # runs in which a picture failed so: it is then asked about only where that is wanted
BROKEN = ("error", "invalid", "timeout", "worker_died", "unreadable", NO_ANSWER)  # nothing but these is not asked on
BROKEN_AFTER = 64  # pictures in a row


@dataclass
class AnnotationReport:
    """What a command's specialist did: the pictures it was run on now, and the counts of its pictures in the store."""

    name: str
    asked: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # of those tried now
    due: int = 0  # pictures that it is to annotate
    failed: int = 0  # of these, in the store, at the end
    quarantined: int = 0  # of the failed, those that failed in passing, in so many runs that they were left alone
    broken: str = ""  # why it was given up before its end; "" where it was not
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))

    def after(self, earlier: AnnotationReport | None) -> AnnotationReport:
        """With what was asked before, where the command began again since another one ended meanwhile."""
        if earlier is None:
            return self
        seconds = {name: value + earlier.seconds[name] for name, value in self.seconds.items()}
        asked, failures = earlier.asked + self.asked, earlier.failures + self.failures
        broken = self.broken or earlier.broken
        return dataclasses.replace(self, asked=asked, failures=failures, seconds=seconds, broken=broken)

    @property
    def useless(self) -> bool:
        """Whether it failed on every picture that it was run on, and the store holds no annotation of it either."""
        return self.asked > 0 and sum(self.failures.values()) == self.asked and self.failed == self.due


def run_steps(
    session: Session,
    steps: Sequence[Step],
    runner: Runner,
    max_pixels: int,
    execution: Execution,
    reports: dict[str, AnnotationReport] | None = None,
    retry_failed: bool = False,
) -> list[Step]:
    """Run specialists one after another; returns those whose work stands.

    One that breaks is given up, and none is run that reads it; what it did is found by the next command.
    """
    stand: list[Step] = []
    broken: set[str] = set()
    for place, step in enumerate(steps, 1):
        session.journal.upcoming([later.operator.name for later in steps[place:]])
        name, unread = step.operator.name, [o.name for o in step.reads if o.run_id in broken]
        if unread:
            report = AnnotationReport(name, broken=f"reads {unread[0]}, which was given up")
        else:
            report = run_specialist(session, step, runner, max_pixels, execution.progress, None, retry_failed)
        if report.broken:
            broken.add(step.operator.run_id)
            session.withdraw(step.operator.run_id)
            execution.message(f"{name}: {report.broken}; run the same command again when that is mended")
        else:
            stand.append(step)
        if reports is not None:
            reports[name] = report.after(reports.get(name))
    return stand


def run_specialist(
    session: Session,
    step: Step,
    runner: Runner,
    max_pixels: int,
    progress: Progress | None = None,
    only: frozenset[str] | None = None,
    retry_failed: bool = False,
) -> AnnotationReport:
    """Have one specialist annotate every unit that lacks its work, and ask it again about what failed in passing.

    With `only`, nothing but the fragments that are named is made again. It is given up where it fails on so many
    pictures in a row that it cannot be these: `broken` says so. `retry_failed`: quarantined pictures are asked about.
    """
    operator, spec = step.operator, step.specialist.spec
    facts = {
        "config": dict(step.specialist.config),
        "weights_sha256": step.specialist.weights_sha256,
        "reads": [read.run_id for read in step.reads],
        "max_pixels": max_pixels,
    }
    named = absolute(step.name) if step.name else ""
    session.start(operator, facts, {"with": named, "takes": step.selector.to_json() if step.selector else None})
    total = session.count(step.selector) if step.units is None else sum(len(u.samples) for u in step.due(session))
    # one process keeps a service's rate and the budget
    at_once = 1 if spec.billed else 0
    resources = Resources(spec.name, spec.num_cpus, spec.num_gpus, spec.memory_gb, at_once)
    report = AnnotationReport(operator.name, due=total)
    count = Count(operator.name, total, progress)
    pace = Pace(spec.batch_size, runner.workers(resources))
    jobs = _Jobs(session, step, max_pixels, only, retry_failed, pace, count, report)
    streak: list[tuple[Job, JobOutcome]] = []  # the last jobs, of which each picture failed
    for job, outcome in run_phase(session, runner, jobs, resources, count, operator.run_id):
        assert isinstance(outcome.facts, AnnotatedJob)
        for image in outcome.facts.failed:  # its earlier annotations are kept
            jobs.asked_again.pop(image, None)
        jobs.pace.learn(outcome.took_s, job.size)
        report.asked += outcome.facts.pictures
        report.failures += outcome.facts.failures
        session.journal.failed(job.key, outcome.facts.failures)
        for name, value in outcome.seconds.items():
            report.seconds[name] += value
        streak = [*streak, (job, outcome)] if _all_failed(outcome.facts) else []
        if sum(each.size for each, _ in streak) >= BROKEN_AFTER:
            reasons = sum((each.facts.failures for _, each in streak), Counter[str]())
            report.broken = f"given up, as it failed on {reasons.total()} pictures in a row ({_counted(reasons)})"
            _take_back(session, streak)
            session.journal.given_up(report.broken)
            return report
    report.failed += sum(report.failures.values())
    session.journal.quarantined(report.quarantined)
    if jobs.asked_again and only is None:
        revise(session, Revision(answers=dict(sorted(jobs.asked_again.items()))))
    return report


def _all_failed(done: AnnotatedJob) -> bool:
    """Whether a job's every picture failed by the fault of no picture; an empty job says nothing."""
    return done.pictures > 0 and sum(done.failures[reason] for reason in BROKEN) == done.pictures


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def _take_back(session: Session, jobs: Iterable[tuple[Job, JobOutcome]]) -> None:
    """Free the names of failures that say nothing about their pictures."""
    for job, outcome in jobs:
        for fragment in outcome.fragments:
            session.discard(fragment)
        assert isinstance(job.task, AnnotateTask)
        session.store.pieces(pieces_name(job.task.uid, job.task.mark)).forget()


def _earlier(
    mark: current_annotations.Mark | None, read: frozenset[str], now: current_annotations.Mark | None, there: set[str]
) -> bool:
    """Whether a fragment that read up to a mark, and these attempts, was made before one that read more."""
    return read <= there and (mark is None or (now is not None and mark < now) or (mark == now and read != there))


def present(unit: Unit, start: int = 0, stop: int | None = None) -> int:
    """How many of a unit's pictures, or of a part of them, are good now: what is counted of a phase."""
    return sum(sample.image.id not in unit.gone for sample in unit.samples[start:stop])


@dataclass
class _Jobs:
    """Draws the jobs of a specialist, as large as its pace wants them when they are drawn."""

    session: Session
    step: Step
    max_pixels: int
    only: frozenset[str] | None
    retry_failed: bool
    pace: Pace
    count: Count
    report: AnnotationReport
    asked_again: dict[str, list[str]] = field(default_factory=dict)  # image id -> its answers before
    undone: dict[str, list[Fragment]] = field(default_factory=dict)  # unit -> answers that an undo took back
    retried: dict[str, list[Fragment]] = field(default_factory=dict)  # unit -> further attempts of those it reads

    def __iter__(self) -> Iterator[Job]:
        begun = defaultdict[str, list[str]](list)  # a unit's work -> what its parts are kept under
        for name in self.session.store.begun_units():
            begun[name.partition("@")[0]].append(name)
        left = self.count.total
        runs = [read.run_id for read in self.step.reads]
        spec = self.step.specialist.spec
        now = self.session.last_verdict if runs and not spec.reads_all else None
        before = self.session.of_run(self.step.operator.run_id) if runs else {}
        self.retried = self.session.further_by_unit(runs)
        for unit in self.step.due(self.session):
            lacking, uid, attempt = self._lacking(unit, now)
            earlier = [*before.get(unit.uid, ()), *self.undone.get(unit.uid, ())]
            more = None if lacking else self._more(unit, uid, runs, earlier, now)
            waiting = lacking or (more.inputs.unit if more else None)
            done = present(unit) - (present(waiting) if waiting else 0)
            left -= done
            if done:
                self.count.skip(done)
            if lacking is None:
                self._forget(begun[uid])  # a command was killed between a unit and its pieces
                if more is not None:
                    left -= more.stop
                    yield self._of(more)
                continue
            if self.only is not None and now:
                now = mark_at(self.session.store, pending.path("annotations", self.step.operator, uid))
            inputs = current_annotations.read_by(self.session, lacking, runs, now)
            size = len(lacking.samples)
            named = pieces_name(uid, now)
            self._forget(name for name in begun[uid] if name != named)
            gaps = self.session.store.pieces(named).gaps(size) if named in begun[uid] else [(0, size)]
            if not gaps:  # all pieces are there: the unit is put together by a job without pictures
                yield self._job(inputs, uid, attempt, size, size, now)
            held = present(lacking) - sum(present(lacking, start, stop) for start, stop in gaps)
            left -= held
            if held:
                self.count.skip(held)
            for start, stop in gaps:
                while start < stop:
                    piece = self.pace.piece(stop - start, left)
                    yield self._job(inputs, uid, attempt, start, start + piece, now)
                    start, left = start + piece, left - piece

    def _job(
        self, inputs: UnitInputs, uid: str, attempt: int, start: int, stop: int, mark: current_annotations.Mark | None
    ) -> Job:
        images = {sample.image.id for sample in inputs.unit.samples}
        retried = (f for f in self.retried.get(inputs.unit.uid, ()) if images.issuperset(self._images_of(f)))
        read = tuple(fragment.path for fragment in retried)
        return self._of(
            AnnotateTask(inputs, self.step.operator, uid, self.max_pixels, start, stop, attempt, mark, retried=read)
        )

    def _images_of(self, attempt: Fragment) -> list[str]:
        return attempted_images(self.session.store.fragment_facts(attempt))

    def _of(self, task: AnnotateTask) -> Job:
        step, (start, stop) = self.step, (task.start, task.stop)
        whole = (start, stop) == (0, len(task.inputs.unit.samples))
        key = task.uid if whole else f"{task.uid}-{start:06d}-{stop:06d}"
        counts = present(task.inputs.unit, start, stop)
        return Job(key, counts, task, step.name or step.specialist, step.operator.run_id)

    def _more(
        self,
        unit: Unit,
        uid: str,
        runs: Sequence[str],
        before: Sequence[Fragment],
        now: current_annotations.Mark | None,
    ) -> AnnotateTask | None:
        """What is to be asked about items that are kept now and were not when the operator was over the unit, and about
        what a further attempt has brought since."""
        session, operator = self.session, self.step.operator
        attempts = self.retried.get(unit.uid, [])
        lost = [f for f in before if self.only is not None and f.path in self.only]
        if lost:  # made again as it was, after those that are whole
            if session.done(lost[0].path, [unit.uid], operator.run_id):
                return None
            now = mark_at(session.store, lost[0].path)
            attempts = further_at(session.store, lost[0].path, runs, unit.uid)
            before = [f for f in before if f not in lost]
        there = {attempt.path for attempt in attempts}
        read = [(current_annotations.mark_of(session, f), current_annotations.retried_of(session, f)) for f in before]
        if lost:
            read = [(mark, paths) for mark, paths in read if _earlier(mark, paths, now, there)]
        if not read or (self.only is not None and not lost):
            return None
        marks, seen = [mark for mark, _ in read], frozenset().union(*(paths for _, paths in read))
        unread = [attempt for attempt in attempts if attempt.path not in seen]
        fresh = dict(current_annotations.newly_kept(session, unit, runs, marks, now)) if now else {}
        for image, ids in current_annotations.of_attempts(session, unit, runs, unread, now).items():
            fresh[image] = fresh.get(image, frozenset()) | ids
        if not fresh:
            return None
        asked = dataclasses.replace(unit, samples=tuple(s for s in unit.samples if s.image.id in fresh))
        inputs = current_annotations.read_by(session, asked, runs, now)
        names = tuple(attempt.path for attempt in unread)
        own, size = digest([uid, *(now or ()), *names]), len(asked.samples)
        if current_annotations.asks_by_item(self.step.specialist.spec):
            self.asked_again.update(dict.fromkeys(fresh, []))
        else:
            self.asked_again.update(current_annotations.annotation_ids_of(session, asked, operator, before))
            fresh = {}
        return AnnotateTask(
            inputs, operator, own, self.max_pixels, 0, size, mark=now, fresh=fresh, later=True, retried=names
        )

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.session.store.pieces(name).forget()

    def _lacking(self, unit: Unit, now: current_annotations.Mark | None) -> tuple[Unit | None, str, int]:
        """The unit with those pictures that are to be asked about now, and the name and number of that attempt.

        All of them where the operator has not been over it; else those whose last try failed in passing.
        """
        session, operator, number = self.session, self.step.operator, 1
        uid = UnitInputs(unit).uid(operator)
        while True:
            paths = [pending.path(table, operator, uid) for table in ("failures", "annotations")]
            wanted = self.only is None or not self.only.isdisjoint(paths)
            wanted = wanted and (self.only is not None or any(s.image.id not in unit.gone for s in unit.samples))
            named = session.names(paths[0])
            failures, annotations = (self._done(path, unit, now) for path in paths)
            if annotations is None and failures is not None and not named and self.only is None:
                session.discard(failures)  # of a worker that was killed before it had written the answers
            if annotations is None or (failures is None and named):
                return (unit if wanted else None), uid, number
            failed = {} if failures is None else {f.id: f.reason for f in session.store.failures(failures)}
            failed = {name: reason for name, reason in failed.items() if name not in unit.gone}
            # what an interrupted command left is found as it is: it goes on as if it had not been interrupted
            again = tuple(s for s in unit.samples if named and failed.get(s.image.id) in PASSING)
            self.report.failed += len(failed) - len(again)
            if not again:
                return None, uid, number
            number += 1
            uid = retry_id([s.image.id for s in again], operator.fingerprint, operator.round, number)
            asked = session.names(pending.path("annotations", operator, uid))
            if number > QUARANTINED_AFTER and not (self.retry_failed or asked or self.only is not None):
                self.report.failed += len(again)
                self.report.quarantined += len(again)
                return None, uid, number
            unit = dataclasses.replace(unit, samples=again)

    def _done(self, path: str, unit: Unit, now: current_annotations.Mark | None) -> Fragment | None:
        """The fragment at `path`, if it counts as this operator's work now.

        What a command left that was interrupted, or undone, may have read verdicts before these: it is made anew, or,
        where a snapshot names it, is an earlier answer.
        """
        session = self.session
        fragment = session.done(path, [unit.uid], self.step.operator.run_id)
        if fragment is None or self.only is not None or session.names(path) or now is None:
            return fragment
        if current_annotations.mark_of(session, fragment) == now:
            return fragment
        if session.discard(fragment):
            return None
        if fragment.table == "annotations":
            self.undone.setdefault(unit.uid, []).append(fragment)
        return fragment

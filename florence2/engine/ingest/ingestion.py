"""Ingesting pictures into a store: each is inspected once and cut once into units; each has one row, failed or not.

Which pictures went into which unit is written to runs/ before any is committed, so that an interrupted or damaged
intake is cut again in the same way.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from florence2 import arguments
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.jobs import Job, JobOutcome, Resources, Runner
from florence2.engine.execution.options import Execution, Progress
from florence2.engine.execution.phase import Count, run_phase
from florence2.engine.ingest import picture_life
from florence2.engine.ingest.duplicates import NearIndex, same_pixels
from florence2.engine.ingest.inspection import ImageCandidate, ImageRules, Inspection, InspectTask, rules_config
from florence2.engine.ingest.picture_times import PictureTimes
from florence2.engine.ingest.revision import Change, Revision, revise
from florence2.engine.operator import digest, run_id, unit_id
from florence2.engine.session import Session
from florence2.labels import one_line
from florence2.records import Failure, ImageRef, Sample
from florence2.sources import files
from florence2.store import Fragment, ImageRow, Operator, Store, pending

NAME, VERSION = "images", "2"

UNIT, LARGEST, MANY = 64, 512, 256  # pictures in a unit, in one of very many, and how many units are many
PIECE = 8  # pictures that are inspected as one job: a second or so of work


def unit_for(pictures: int) -> int:
    """How many pictures make a unit: 64, up to 512 where there are so many that files would be countless."""
    unit = UNIT
    while unit < LARGEST and pictures > unit * MANY:
        unit *= 2
    return unit


@dataclass(frozen=True)
class PlannedUnit:
    """Pictures that become one unit."""

    found: tuple[ImageCandidate, ...]


class KnownImages:
    """What the store knows already: which files, and which bytes were seen first under another name."""

    def __init__(self) -> None:
        self.files: set[tuple[str, str, int]] = set()
        self.originals: set[str] = set()  # sha256 of good pictures
        self.near = NearIndex()  # perceptual hashes of good pictures, in the order of `good`
        self.good: list[ImageRef] = []
        self.units: set[str] = set()

    def add(self, row: ImageRow) -> None:
        """Note one row of `images`; a picture that is missing is not known any more."""
        self.units.add(row.unit)
        if row.status == "missing":
            return
        self.files.add(_file_of(row))
        if row.status == "ok":
            self.originals.add(row.image.sha256)
        if row.status == "ok" and row.phash:
            self.near.add(row.phash)
            self.good.append(row.image)

    def has(self, found: ImageCandidate) -> bool:
        """Whether this very file is in the store."""
        return (found.uri, found.member, found.bytes) in self.files


def ingest_source(
    session: Session,
    runner: Runner,
    source: Path,
    listing: Sequence[ImageCandidate],
    unit: int,
    rules: ImageRules,
    execution: Execution,
    samples: Mapping[str, Sample] | None = None,
    origin: Mapping[str, str] | None = None,
    complete: bool = False,
) -> PictureTimes:
    """Follow what became of the store's pictures, and ingest what is new in a listing, or changed in the store.

    `complete`: the listing is all that the source holds. Returns the times to be saved once the command has ended.
    """
    times = PictureTimes(session.store)
    life = picture_life.follow(session, times, source, listing, complete and bool(listing))
    for line in life.messages:
        execution.message(line)
    new = {source: life.listing} if listing else picture_life.changed_candidates(session, life.revision.changed)
    for place, found in new.items():
        several = ingest(session, runner, place, found, unit, rules, execution.progress, samples, origin=origin)
        if several:
            execution.message(
                f"{len(several)} files hold several pictures (pages, an animation), such as {several[0]}; "
                "the first of each is taken"
            )
    if any(fragment.table == "images" for fragment in session.fragments):
        _settle_duplicates(session, listing)
    return times


def ingest(
    session: Session,
    runner: Runner,
    source: Path,
    listing: Sequence[ImageCandidate],
    unit: int,
    rules: ImageRules,
    progress: Progress | None = None,
    samples: Mapping[str, Sample] | None = None,
    only_planned: bool = False,
    origin: Mapping[str, str] | None = None,
) -> list[str]:
    """Add the pictures of `listing` that the store lacks; `samples`, by relative name, give split and coverage.

    With `only_planned`, none but those of units that were cut before and are missing. `origin` says what the listing
    was read from, where it is not the folder `source` itself. Returns the names of those that hold further pictures.
    """
    unit = arguments.whole("unit", unit, least=1)
    made_by = digest([NAME, VERSION, rules_config(rules)])
    operator = Operator(run_id(made_by, 0), NAME, VERSION, made_by, 0, kind="images")
    noted = len(session.fragments)
    known = _known(session, operator, source, listing)
    chunks = list(_planned(session, operator, source, listing, known))
    planned = {found.relative for chunk in chunks for found in chunk.found}
    fresh = [] if only_planned else [f for f in listing if not known.has(f) and f.relative not in planned]
    new = [PlannedUnit(tuple(fresh[i : i + unit])) for i in range(0, len(fresh), unit)]
    if chunks or new or len(session.fragments) > noted:  # the last: an interrupted intake left all of it
        session.operators.setdefault(operator.run_id, operator)
    if not chunks and not new:
        return []
    cuts = [[chunk.found[0].relative, chunk.found[-1].relative, len(chunk.found)] for chunk in new]
    facts = {"rules": rules_config(rules)}
    inputs: dict[str, Any] = {"source": files.absolute_of(source), "unit": unit, "chunks": cuts}
    if rules.accept:
        inputs["accept"] = os.path.abspath(rules.accept)  # FILE.py:FUNCTION, for a repair
    session.start(operator, facts, {**inputs, "origin": dict(origin)} if origin else inputs)
    todo = [*chunks, *new]
    count = Count("inspecting", sum(len(each.found) for each in todo), progress)
    cut = _Cut(operator, os.path.basename(files.absolute_of(source)), known, rules, samples or {})
    here = WorkerContext(session.store.root, restoring=session.store.restoring)
    several: list[str] = []
    for each, inspected in zip(todo, _inspected(session, runner, operator, todo, rules, count)):
        session.add(cut.task(each, inspected).do(session.store, here).fragments)
        several += [found.relative for found, seen in zip(each.found, inspected) if seen.more]
    return several


def _inspected(
    session: Session,
    runner: Runner,
    operator: Operator,
    todo: Sequence[PlannedUnit],
    rules: ImageRules,
    count: Count,
) -> Iterator[list[Inspection]]:
    """Each unit's pictures inspected, unit by unit in order: who is a duplicate of whom depends on it."""
    place: dict[str, tuple[int, int]] = {}

    def jobs() -> Iterator[Job]:
        for number, each in enumerate(todo):
            for start in range(0, len(each.found), PIECE):
                part = each.found[start : start + PIECE]
                key = digest(["look", operator.fingerprint, [found.relative for found in part]])
                place[key] = number, start
                yield Job(key, len(part), InspectTask(part, rules))

    done: dict[int, dict[int, list[Inspection]]] = defaultdict(dict)
    ready = 0
    for job, outcome in run_phase(session, runner, jobs(), Resources(NAME), count):
        number, start = place.pop(job.key)
        done[number][start] = outcome.facts
        while ready < len(todo) and sum(map(len, done[ready].values())) == len(todo[ready].found):
            parts = done.pop(ready)
            yield [inspection for start in sorted(parts) for inspection in parts[start]]
            ready += 1


@dataclass(frozen=True)
class IngestTask:
    """A unit's rows, as they are to be committed: failures first, then the pictures, which make it a unit."""

    operator: Operator
    uid: str
    rows: tuple[ImageRow, ...]
    failures: tuple[Failure, ...]

    def do(self, store: Store, context: WorkerContext) -> JobOutcome:
        """Commit."""
        found = [pending.failures_of(self.operator, self.uid, self.uid, self.failures)] if self.failures else []
        found.append(pending.images_of(self.operator, self.uid, self.rows))
        return JobOutcome(tuple(fragment for each in found for fragment in store.put_all([each])))


@dataclass(frozen=True)
class _Cut:
    """Makes units of inspected pictures, in order, judging each picture against what is known."""

    operator: Operator
    dataset: str
    known: KnownImages
    rules: ImageRules
    samples: Mapping[str, Sample]

    def task(self, planned: PlannedUnit, inspected: Sequence[Inspection]) -> IngestTask:
        """What commits a unit."""
        uid = unit_id([each.id for each in inspected], self.operator.fingerprint, 0)
        rows, failures = [], []
        for found, seen in zip(planned.found, inspected):
            row = _row(found, seen, uid, self.dataset, self.samples.get(found.relative))
            if row.status == "ok" and row.image.sha256 in self.known.originals:
                row = replace(row, status="rejected", reason="duplicate")
            elif row.status == "ok" and self.rules.near_duplicates and self._has_near(row):
                row = replace(row, status="rejected", reason="near_duplicate")
            self.known.add(row)
            rows.append(row)
            if row.status == "failed":
                failures.append(Failure(id=row.id, reason=row.reason, detail=one_line(seen.detail, 1000)))
        return IngestTask(self.operator, uid, tuple(rows), tuple(failures))

    def _has_near(self, row: ImageRow) -> bool:
        """Whether an earlier good picture is this one, by its hash and then by its pixels."""
        near = [self.known.good[place] for place, _ in self.known.near.within(row.phash, self.rules.near_bits)]
        return any(same_pixels(ref, row.image) for ref in near)


def _settle_duplicates(session: Session, listing: Sequence[ImageCandidate]) -> None:
    """Of byte-identical pictures the first in the order of their source is good, whatever came in first."""
    rows = [row for row in picture_life.image_rows(session) if row.status != "missing"]
    turn = {(c.uri, c.member, c.offset): n for n, c in enumerate(listing)}
    slots = [n for n, row in enumerate(rows) if row.place in turn]
    listed = sorted((rows[n] for n in slots), key=lambda row: turn[row.place])
    for n, row in zip(slots, listed):
        rows[n] = row
    seen: set[str] = set()
    revision = Revision()
    for row in rows:
        if row.status == "ok" or row.reason == "duplicate":
            wanted = Change("rejected", "duplicate") if row.image.sha256 in seen else Change("ok")
            seen.add(row.image.sha256)
            if wanted != Change(row.status, row.reason):
                revision.rows[row.id] = wanted
    revise(session, revision)


def _known(session: Session, operator: Operator, source: Path, listing: Sequence[ImageCandidate]) -> KnownImages:
    """The rows of all units that are whole: the snapshot's, and those an interrupted intake of these files left."""
    known = KnownImages()
    store = session.store
    ours = {(found.uri, found.member, found.bytes) for found in listing}
    for fragment in session.current().of("images"):
        failures = [path for path in (_failures_path(operator, uid) for uid in fragment.units) if session.names(path)]
        parts = [fragment.path, *failures]
        if all([session.done(path, fragment.units, fragment.run_id) for path in parts]):
            for row in store.image_rows(fragment):
                known.add(row)
    left, lost = [], []
    place = {(found.uri, found.member): n for n, found in enumerate(listing)}
    cuts = {tuple(cut) for start in _starts(session, operator, source) for cut in start.get("chunks", ())}
    for relative in store.unreferenced("images", session.base):
        try:
            rows = store.image_rows(Fragment(relative, 0, ""))
        except ValueError:
            continue  # made again below, once it is quarantined
        if any(row.unit in known.units for row in rows):
            continue  # its rows were written once more
        files_of = list(map(_file_of, rows))
        if not known.files.isdisjoint(files_of):
            lost.append(relative)  # of an intake that lost: another one took these pictures in meanwhile
        elif rows and ours.issuperset(files_of):
            first, last = (listing[place[files_of[n][:2]]].relative for n in (0, -1))
            if (first, last, len(rows)) in cuts:  # else it is of a command that reads them from elsewhere
                left.append((rows, relative))
    store.discard_unnamed(lost)
    left.sort(key=lambda entry: place[entry[0][0].place[:2]])
    for rows, relative in left:
        if session.done(relative, [rows[0].unit], operator.run_id):
            session.done(_failures_path(operator, rows[0].unit), [rows[0].unit], operator.run_id)
            for row in rows:
                known.add(row)
    return known


def _planned(
    session: Session, operator: Operator, source: Path, listing: Sequence[ImageCandidate], known: KnownImages
) -> Iterator[PlannedUnit]:
    """Units that were cut before and are missing, cut in the same way."""
    place = {found.relative: n for n, found in enumerate(listing)}
    taken: set[str] = set()
    for start in _starts(session, operator, source):
        for first, last, count in start.get("chunks", ()):
            if first not in place or last not in place:
                continue
            between = listing[place[first] : place[last] + 1]
            found = [f for f in between if not known.has(f) and f.relative not in taken]
            if len(found) == count:
                taken.update(f.relative for f in found)
                yield PlannedUnit(tuple(found))


def _starts(session: Session, operator: Operator, source: Path) -> list[dict[str, Any]]:
    """Each earlier intake from this source: how it cut the pictures."""
    run = session.store.run(operator.run_id)
    return [start for start in (run["starts"] if run else ()) if start.get("source") == files.absolute_of(source)]


def _row(found: ImageCandidate, seen: Inspection, uid: str, dataset: str, sample: Sample | None) -> ImageRow:
    ref = replace(
        found.ref(),
        id=seen.id,
        frame=sample.image.frame if sample else 0,
        width=seen.width or (sample.image.width if sample else 0),
        height=seen.height or (sample.image.height if sample else 0),
        sha256=seen.sha256,
        licence=found.licence or (sample.image.licence if sample else ""),
    )
    return ImageRow(
        ref,
        uid,
        seen.status,
        seen.reason,
        split=(sample.split if sample else "") or found.split,
        coverage=sample.coverage if sample else {},
        dataset=dataset,
        origin=found.origin,
        bytes=found.bytes,
        format=seen.format,
        exif_orientation=seen.exif_orientation,
        phash=seen.phash,
    )


def _file_of(row: ImageRow) -> tuple[str, str, int]:
    """What distinguishes a row's file from another: (uri, member, bytes)."""
    return row.image.uri, row.image.member, row.bytes


def _failures_path(operator: Operator, uid: str) -> str:
    return pending.path("failures", operator, uid)


def references(samples: Sequence[Sample], root: Path) -> list[ImageCandidate]:
    """The pictures that samples refer to, named relative to `root` where they lie below it; each once."""
    out: dict[str, ImageCandidate] = {}
    for sample in samples:
        ref = sample.image
        out.setdefault(relative_name(ref, root), _found(ref, relative_name(ref, root)))
    return list(out.values())


def relative_name(ref: ImageRef, root: Path) -> str:
    """A picture's name relative to a source: its path below it, else its file's name."""
    path = PurePosixPath(files.absolute_of(files.path_of(ref.uri)))
    try:
        name = path.relative_to(files.absolute_of(root)).as_posix()
    except ValueError:
        name = path.name
    return f"{name}/{ref.member}" if ref.member else name


def _found(ref: ImageRef, relative: str) -> ImageCandidate:
    path = files.absolute_of(files.path_of(ref.uri))
    size = ref.length if ref.offset >= 0 else 0 if ref.member else files.size_of(path)
    return ImageCandidate(relative, files.uri_of(path), ref.member, ref.offset, ref.length, size, ref.licence)

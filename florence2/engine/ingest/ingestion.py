"""Taking pictures into a store: looked at once, cut once into units, one row each whatever became of them.

Which pictures went into which unit is written to runs/ before any is committed, so that an interrupted or damaged
intake is cut again in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from florence2.engine.execution.processes import Job
from florence2.engine.ingest.duplicates import NearIndex
from florence2.engine.ingest.inspection import ImageCandidate, ImageRules, InspectTask, image_id, rules_config
from florence2.engine.operator import digest, run_id, unit_id
from florence2.engine.session import Session
from florence2.records import Failure, ImageRef, Sample
from florence2.sources import files
from florence2.store import layout, schema
from florence2.store.parquet import Fragment
from florence2.store.snapshots import Operator

NAME, VERSION = "images", "2"

UNIT, LARGEST, MANY = 64, 512, 256  # pictures in a unit, in one of very many, and how many units are many

Progress = Callable[[str, int, int], None]


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
        self.originals: set[str] = set()  # sha256 of pictures that are not duplicates themselves
        self.near = NearIndex()  # perceptual hashes of good pictures

    def add(self, row: schema.Row) -> None:
        """Note one row of `images`."""
        self.files.add((row["uri"], row.get("member") or "", row.get("bytes") or 0))
        if row["status"] != "failed" and row.get("reason") != "duplicate":
            self.originals.add(row["sha256"])
        if row["status"] == "ok" and row.get("phash"):
            self.near.add(row["phash"])

    def has(self, found: ImageCandidate) -> bool:
        """Whether this very file is in the store."""
        return (found.uri, found.member, found.bytes) in self.files


def ingest(
    session: Session,
    source: Path,
    listing: Sequence[ImageCandidate],
    run: Callable[[Iterator[Job]], Iterator[tuple[Job, Any]]],
    unit: int,
    rules: ImageRules,
    progress: Progress | None = None,
    samples: Mapping[str, Sample] | None = None,
    only_planned: bool = False,
    origin: Mapping[str, str] | None = None,
) -> None:
    """Add the pictures of `listing` that the store lacks; `samples`, by relative name, give split and coverage.

    With `only_planned`, none but those of units that were cut before and are missing. `origin` says what the listing
    was read from, where it is not the folder `source` itself.
    """
    if unit < 1:
        raise ValueError(f"unit: expected a number of pictures, at least 1, got {unit}")
    made_by = digest([NAME, VERSION, rules_config(rules)])
    operator = Operator(run_id(made_by, 0), NAME, VERSION, made_by, 0, kind="images")
    noted = len(session.fragments)
    known = _known(session, operator, listing)
    chunks = list(_planned(session, operator, source, listing, known))
    planned = {found.relative for chunk in chunks for found in chunk.found}
    fresh = [] if only_planned else [f for f in listing if not known.has(f) and f.relative not in planned]
    new = [PlannedUnit(tuple(fresh[i : i + unit])) for i in range(0, len(fresh), unit)]
    if chunks or new or len(session.fragments) > noted:  # the last: an interrupted intake left all of it
        session.operators.setdefault(operator.run_id, operator)
    if not chunks and not new:
        return
    cuts = [[chunk.found[0].relative, chunk.found[-1].relative, len(chunk.found)] for chunk in new]
    facts = {"rules": rules_config(rules)}
    inputs = {"source": os.path.abspath(source), "unit": unit, "chunks": cuts}
    session.start(operator, facts, {**inputs, "origin": dict(origin)} if origin else inputs)
    todo = [*chunks, *new]
    jobs = (
        Job(digest(["look", operator.fingerprint, [f.relative for f in c.found]]), len(c.found), (n, c))
        for n, c in enumerate(todo)
    )
    waiting: dict[int, list[dict[str, Any]]] = {}
    total, looked, written = sum(len(chunk.found) for chunk in todo), 0, 0
    numbers: dict[str, int] = {}

    def sent() -> Iterator[Job]:
        for job in jobs:
            number, chunk = job.payload
            numbers[job.key] = number
            yield Job(job.key, job.size, InspectTask(chunk.found, rules))

    if progress:
        progress("looking", 0, total)
    for job, facts_of_unit in run(sent()):
        waiting[numbers[job.key]] = facts_of_unit
        while written in waiting:  # in order, as who is a duplicate of whom depends on it
            session.add(_commit(session, operator, source, todo[written], waiting.pop(written), known, rules, samples))
            written += 1
        looked += job.size
        if progress:
            progress("looking", looked, total)


def _known(session: Session, operator: Operator, listing: Sequence[ImageCandidate]) -> KnownImages:
    """The rows of all units that are whole: the snapshot's, and those an interrupted intake of these files left."""
    known = KnownImages()
    store = session.store
    ours = {(found.uri, found.member, found.bytes) for found in listing}
    for fragment in session.base.of("images"):
        failures = [path for path in map(_failures_path, fragment.units) if session.names(path)]
        parts = [fragment.path, *failures]
        if all([session.done(path, fragment.units, fragment.run_id) for path in parts]):
            for row in store.image_rows(fragment):
                known.add(row)
    left, lost = [], []
    for relative in store.unreferenced(layout.IMAGES, session.base):
        try:
            rows = store.image_rows(Fragment(relative, 0, ""))
        except ValueError:
            continue  # made again below, once it is set aside
        files_of = [(row["uri"], row.get("member") or "", row.get("bytes") or 0) for row in rows]
        if not known.files.isdisjoint(files_of):
            lost.append(relative)  # of an intake that lost: another one took these pictures in meanwhile
        elif rows and ours.issuperset(files_of):
            left.append((rows, relative))
    store.discard_unnamed(lost)
    place = {(found.uri, found.member): n for n, found in enumerate(listing)}
    left.sort(key=lambda entry: place[entry[0][0]["uri"], entry[0][0].get("member") or ""])
    for rows, relative in left:
        if session.done(relative, [rows[0]["unit"]], operator.run_id):
            session.done(_failures_path(rows[0]["unit"]), [rows[0]["unit"]], operator.run_id)
            for row in rows:
                known.add(row)
    return known


def _planned(
    session: Session, operator: Operator, source: Path, listing: Sequence[ImageCandidate], known: KnownImages
) -> Iterator[PlannedUnit]:
    """Units that were cut before and are missing, cut in the same way."""
    place = {found.relative: n for n, found in enumerate(listing)}
    taken: set[str] = set()
    run = session.store.run(operator.run_id)
    for start in run["starts"] if run else ():
        if start.get("source") != os.path.abspath(source):
            continue
        for first, last, count in start.get("chunks", ()):
            if first not in place or last not in place:
                continue
            between = listing[place[first] : place[last] + 1]
            found = [f for f in between if not known.has(f) and f.relative not in taken]
            if len(found) == count:
                taken.update(f.relative for f in found)
                yield PlannedUnit(tuple(found))


def _commit(
    session: Session,
    operator: Operator,
    source: Path,
    chunk: PlannedUnit,
    facts: Sequence[dict[str, Any]],
    known: KnownImages,
    rules: ImageRules,
    samples: Mapping[str, Sample] | None,
) -> list[Fragment]:
    """Judge a chunk against what is known and commit it: failures first, then the rows that make it a unit."""
    ids = [image_id(fact["sha256"], found.relative) for found, fact in zip(chunk.found, facts)]
    uid = unit_id(ids, operator.fingerprint, 0)
    rows, failures = [], []
    for found, fact, name in zip(chunk.found, facts, ids):
        row = _row(
            found, fact, name, uid, os.path.basename(os.path.abspath(source)), (samples or {}).get(found.relative)
        )
        if row["status"] == "ok" and row["sha256"] in known.originals:
            row.update(status="rejected", reason="duplicate")
        elif (
            row["status"] == "ok"
            and rules.near_duplicates
            and next(known.near.within(row["phash"], rules.near_bits), None)
        ):
            row.update(status="rejected", reason="near_duplicate")
        known.add(row)
        rows.append(row)
        if row["status"] == "failed":
            failure = Failure(id=name, reason=row["reason"], detail=_clean(fact["detail"]))
            failures.append(schema.failure_row(failure, NAME, VERSION, operator.run_id, 0))
    about = {"operator": NAME, "version": VERSION, "fingerprint": operator.fingerprint, "round": 0}
    put = session.store.put
    fragments = [put(_failures_path(uid), failures, [uid], operator.run_id, about)] if failures else []
    return [*fragments, put(layout.images(uid), rows, [uid], operator.run_id, about)]


def _row(
    found: ImageCandidate, fact: dict[str, Any], name: str, uid: str, dataset: str, sample: Sample | None
) -> schema.Row:
    ref = replace(
        found.ref(),
        id=name,
        frame=sample.image.frame if sample else 0,
        width=fact["width"] or (sample.image.width if sample else 0),
        height=fact["height"] or (sample.image.height if sample else 0),
        sha256=fact["sha256"],
        licence=found.licence or (sample.image.licence if sample else ""),
    )
    split = (sample.split if sample else "") or found.split
    bare = Sample(name, ref, split=split, coverage=sample.coverage if sample else {})
    more = {key: fact.get(key) for key in ("format", "exif_orientation", "phash")}
    more.update(dataset=dataset, bytes=found.bytes, origin=found.origin or None)
    return schema.image_row(bare, uid, fact["status"], fact["reason"], **more)


def _failures_path(uid: str) -> str:
    return layout.fragment("failures", 0, NAME, VERSION, uid)


def _clean(detail: str) -> str:
    return " ".join(detail.split()).encode("utf-8", "replace").decode()[:1000]


def references(samples: Sequence[Sample], root: Path) -> list[ImageCandidate]:
    """The pictures that samples refer to, named relative to `root` where they lie below it; each once."""
    out: dict[str, ImageCandidate] = {}
    for sample in samples:
        ref = sample.image
        out.setdefault(relative_name(ref, root), _found(ref, relative_name(ref, root)))
    return list(out.values())


def relative_name(ref: ImageRef, root: Path) -> str:
    """A picture's name relative to a source: its path below it, else its file's name."""
    path = Path(files.path_of(ref.uri))
    try:
        name = Path(os.path.abspath(path)).relative_to(os.path.abspath(root)).as_posix()
    except ValueError:
        name = path.name
    return f"{name}/{ref.member}" if ref.member else name


def _found(ref: ImageRef, relative: str) -> ImageCandidate:
    path = Path(os.path.abspath(files.path_of(ref.uri)))
    try:
        size = ref.length if ref.offset >= 0 else 0 if ref.member else path.stat().st_size
    except OSError:
        size = 0
    return ImageCandidate(relative, files.uri_of(path), ref.member, ref.offset, ref.length, size, ref.licence)

"""A store: a folder of Parquet fragments that holds a data set, every verdict on it and every earlier state of it.

Knows files and records; the engine decides what is computed when, and by which operator. Layout: docs/store.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence2 import arguments
from florence2.object_store import is_object_url, root_of
from florence2.records import Failure, ImageRef, Sample
from florence2.store import (
    compaction,
    failures,
    layout,
    parquet,
    pieces,
    random_access,
    run_states,
    runs,
    scan,
    schema,
    snapshots,
    verification,
)
from florence2.store import units as unit_reading
from florence2.store.chain import Chain
from florence2.store.image_rows import ImageRow
from florence2.store.journal import Journal
from florence2.store.parquet import Fragment, PendingFragment
from florence2.store.picture_index import PictureIndex
from florence2.store.snapshots import Operator, Snapshot
from florence2.store.storage import open_storage, turn_after
from florence2.store.storage.schemes import is_url
from florence2.store.units import Selector, Unit
from florence2.structuring import parse_json

STALE_S = 24 * 3600  # a temporary file older than this belongs to no running command


def is_store(path: str | Path) -> bool:
    """Whether a folder, or a prefix of an object store, is a store."""
    return (is_object_url(path) or not is_url(path)) and open_storage(path).is_store()


class Store:
    """The data set in a folder. Reading takes no lock; writing adds fragments, and a snapshot makes them visible.

    Whoever works on a store asks it for units, annotations and verdicts and gets records:

        base = store.snapshot()                                  # the state that the command begins with
        for unit in store.units(base):                           # pictures, bare
            samples = store.annotations(unit, {run.run_id})      # with the annotations of some runs
            samples = store.decisions(unit, samples, rules, before=(round, seq))
            fragments += store.put_all([pending.decisions_of(operator, uid, unit.uid, verdicts)])
        store.save(base, fragments, operators)                   # StaleBase: another command ended; begin again

    `store.storage` holds the bytes, `layout` every path.
    """

    def __init__(self, path: str | Path, create: bool = False, restoring: Mapping[str, str] | None = None):
        """Open a store. With `restoring` (path -> sha256) nothing but these fragments is written, to the byte."""
        self.root, self.restoring = root_of(arguments.path("store", path)), restoring
        self.storage = open_storage(path)
        if self.storage.is_store():
            return
        if not create:
            raise ValueError(f"{self.root}: not a store; make one with florence2 annotate FOLDER --out {self.root}")
        self.storage.begin()

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # reading

    def snapshots(self) -> list[int]:
        """Numbers of its snapshots, oldest first."""
        return snapshots.numbers(self.storage)

    def mark(self) -> Hashable:
        """Another value once a snapshot came, had quickly; None where one must look what there is."""
        try:
            return self.storage.stamp(layout.SNAPSHOTS)
        except FileNotFoundError:  # an object store has no folders
            return None

    def snapshot(self, number: int | None = None) -> Snapshot:
        """One snapshot, the newest unless named."""
        return snapshots.read(self.storage, number)

    def samples(self, snapshot: int | None = None, view: str = "current", limit: int | None = None) -> Iterator[Sample]:
        """Its good pictures in order: with the kept annotations ("current"), or with all and every verdict ("all")."""
        scan.known_view(view)
        limit = None if limit is None else arguments.whole("limit", limit, least=0)
        return islice(scan.samples(self.storage, self.snapshot(snapshot), view), limit)

    def random(self, snapshot: int | None = None, view: str = "current") -> random_access.RandomSamples:
        """Its samples by position, in bounded memory."""
        return random_access.RandomSamples(self.storage, self.snapshot(snapshot), view)

    def images(self, snapshot: int | None = None) -> Iterator[ImageRow]:
        """Every picture, rejected, failed and missing ones included."""
        for fragment in self.snapshot(snapshot).of("images"):
            yield from scan.image_rows(self.storage, [fragment])

    def table(self, name: str, snapshot: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """One of the four tables as a whole: images, annotations, decisions or failures."""
        fragments = self.snapshot(snapshot).of(name)
        if columns is not None:
            known = schema.SCHEMAS[name].names
            columns = arguments.items("columns", columns, f"some of {', '.join(known)}", lambda one: one in known)
        return parquet.read_table(self.storage, name, fragments, columns)

    def paths(self, name: str, snapshot: int | None = None) -> list[str]:
        """The files of one table in a snapshot, for DuckDB, pandas, Polars."""
        return [self.storage.location(fragment.path) for fragment in self.snapshot(snapshot).of(name)]

    def counts(self, snapshot: int | None = None) -> dict[str, Any]:
        """Totals by status of images and annotations, failures and decisions."""
        return scan.counts(self.storage, self.snapshot(snapshot))

    def image_statuses(self, snapshot: int | None = None) -> Counter[str]:
        """How many pictures have each status."""
        return scan.image_statuses(self.storage, self.snapshot(snapshot))

    def reasons(self, snapshot: int | None = None) -> dict[str, dict[str, int]]:
        """Reason words counted: of images, of failures, of annotations that are not kept."""
        return scan.reasons(self.storage, self.snapshot(snapshot))

    def current_failures(self, snapshot: int | None = None) -> list[dict[str, Any]]:
        """The rows of `failures` that count: of a picture that was retried, those of the last attempt."""
        return schema.rows(failures.current(self.storage, self.snapshot(snapshot)))

    def tally(self, snapshot: int | None = None) -> list[dict[str, Any]]:
        """Annotations counted by source, round, family, status, rule and reason."""
        return scan.tally(self.storage, self.snapshot(snapshot))

    def history(self, ann_id: str, snapshot: int | None = None) -> dict[str, Any]:
        """All that is known of one annotation: its row, the run that made it, and its verdicts, the last one last."""
        ann_id = arguments.text("ann_id", ann_id)
        found = {
            name: [
                row
                for fragment in self.snapshot(snapshot).of(name)
                for row in schema.rows(parquet.read(self.storage, fragment).filter(pc.field("ann_id") == ann_id))
            ]
            for name in ("annotations", "decisions")
        }
        if not found["annotations"]:
            raise ValueError(f"{self.root}: no annotation {ann_id!r}; expected an ann_id of the newest snapshot")
        (row,) = found["annotations"]
        decisions = sorted(found["decisions"], key=lambda d: (d["round"], d["seq"]))
        return {"annotation": row, "run": self.run(row["run_id"]), "decisions": decisions}

    # reading, group by group: what goes over all of it works on

    def groups(self, snapshot: Snapshot | int | None = None) -> list[scan.UnitGroup]:
        """The pictures in the order they came in, in groups of the units that lie together."""
        return scan.unit_groups(self._opened(snapshot))

    def group_samples(self, group: scan.UnitGroup, view: str = "current") -> list[Sample]:
        """The samples of a group's good pictures: what is kept, or all with the verdicts."""
        return scan.group_samples(self.storage, group, view)

    def pictures(self, group: scan.UnitGroup) -> list[ImageRef]:
        """A group's good pictures: id, size and URI alone."""
        return scan.pictures(self.storage, group)

    def picture_names(self, ids: Collection[str]) -> dict[str, str]:
        """Where some of the newest snapshot's pictures lie, by id: a member of an archive or table, else a URI."""
        return scan.picture_names(self.storage, self.snapshot(), ids)

    def judged(self, group: scan.UnitGroup) -> Iterator[scan.JudgedAnnotation]:
        """A group's annotations, each with its last verdict."""
        return scan.judged(self.storage, group)

    def attributes(self, group: scan.UnitGroup, key: str) -> dict[str, str]:
        """What a group's annotations hold under one key of their attributes, by annotation id."""
        return scan.attributes(self.storage, group, key)

    # reading, unit by unit: what the engine works on

    def units(self, snapshot: Snapshot | int | None = None) -> Iterator[Unit]:
        """Every unit in the order they came in, each with its good pictures as bare samples and its others beside."""
        return unit_reading.units(self.storage, self._opened(snapshot))

    def count_images(self, snapshot: Snapshot | int | None = None, selector: Selector | None = None) -> int:
        """How many good pictures there are, of those that a selector takes."""
        return unit_reading.count_images(self.storage, self._opened(snapshot), selector)

    def annotations(self, unit: Unit, runs: Collection[str]) -> list[Sample]:
        """A unit's samples with the annotations of these runs, without verdicts; other fragments are not opened."""
        return unit_reading.annotations_of(self.storage, unit, runs)

    def decisions(
        self, unit: Unit, samples: Sequence[Sample], runs: Collection[str], before: tuple[int, int]
    ) -> list[Sample]:
        """A unit's samples with the verdicts that come before (round, seq); only fragments of `runs` are opened."""
        return unit_reading.decisions_of(self.storage, unit, samples, runs, before)

    def failures(self, fragment: Fragment) -> list[Failure]:
        """The failures that one fragment holds, each with the id of its picture."""
        return unit_reading.failures_of(self.storage, fragment)

    def newest_seq(self, round: int, snapshot: Snapshot | int | None = None) -> int:
        """The highest seq of a round's verdicts, -1 where there are none."""
        return unit_reading.newest_seq(self.storage, self._opened(snapshot), round)

    # reading, picture by picture: what a person who leafs through it asks for

    def picture_index(self, snapshot: Snapshot | int | None = None, whole: bool = True) -> PictureIndex:
        """Its pictures and annotations as columns in memory: filtered, counted and paged without making records.

        Without `whole` its pictures alone.
        """
        return PictureIndex(self.storage, self._opened(snapshot), whole)

    def image_rows(self, fragment: Fragment) -> list[ImageRow]:
        """The pictures of one fragment of `images`; ValueError where it is damaged."""
        return scan.image_rows(self.storage, [fragment])

    def _opened(self, snapshot: Snapshot | int | None) -> Snapshot:
        return snapshot if isinstance(snapshot, Snapshot) else self.snapshot(snapshot)

    # writing

    def put(
        self, path: str, rows: Sequence[schema.Row], units: Sequence[str], run_id: str, about: Mapping[str, Any]
    ) -> Fragment:
        """Commit rows as the fragment `path` (its first folder names the table), or take what is there already."""
        return self.put_all([PendingFragment(path, rows, units, run_id, about)])[0]

    def put_all(self, pending: Sequence[PendingFragment]) -> list[Fragment]:
        """Commit several fragments, synced together."""
        data = [each.to_bytes() for each in pending]
        if self.restoring is not None:
            return [self._restored(each, bytes_, self.restoring) for each, bytes_ in zip(pending, data)]
        new = self.storage.put_if_absent([(each.path, bytes_) for each, bytes_ in zip(pending, data)])
        return [
            Fragment(each.path, len(each.rows), hashlib.sha256(bytes_).hexdigest(), tuple(each.units), each.run_id)
            if ours
            else self.fragment(each.path, each.units, each.run_id)
            for each, bytes_, ours in zip(pending, data, new)
        ]

    def _restored(self, pending: PendingFragment, data: bytes, restoring: Mapping[str, str]) -> Fragment:
        """The fragment, written where it is one of those to be restored and hashes to what it did."""
        sha256 = hashlib.sha256(data).hexdigest()
        if restoring.get(pending.path) == sha256:
            if self.has(pending.path) and self.storage.sha256(pending.path) != sha256:
                self.storage.discard(pending.path)
            self.storage.put_if_absent([(pending.path, data)])
        return Fragment(pending.path, len(pending.rows), sha256, tuple(pending.units), pending.run_id)

    def has(self, path: str) -> bool:
        """Whether a fragment lies at `path`, whether a snapshot names it or not."""
        return self.storage.exists(path)

    def fragment(self, path: str, units: Sequence[str], run_id: str) -> Fragment:
        """The fragment that lies at `path`; ValueError if it cannot be read."""
        probe = Fragment(path, 0, "", tuple(units), run_id)
        rows = parquet.read(self.storage, probe).num_rows
        return Fragment(path, rows, self.storage.sha256(path), tuple(units), run_id)

    def fragment_facts(self, fragment: Fragment) -> dict[str, str]:
        """The metadata of a fragment's file: which operator wrote it, and from what."""
        return parquet.facts(self.storage, fragment)

    def unreferenced(self, table: str, snapshot: Snapshot | int | None = None) -> list[str]:
        """Fragments of a table that the snapshot does not name: what interrupted commands left."""
        return verification.unreferenced(self.storage, {f.path for f in self._opened(snapshot).fragments}, [table])

    def cause_of_damage(self, fragment: Fragment) -> str:
        """ "" if a fragment is what its snapshot says, else missing, changed or unreadable."""
        return verification.check(self.storage, fragment)

    def quarantine(self, path: str) -> None:
        """Move a damaged fragment out of the way, so that its name is free to be made again."""
        self.storage.discard(path)

    def discard_unnamed(self, paths: Collection[str]) -> None:
        """Move those of these fragments out of the way that no snapshot ever named."""
        left = set(paths) if self.restoring is None else set()
        for number in reversed(self.snapshots()) if left else ():
            left -= {fragment.path for fragment in self.snapshot(number).fragments}
            if not left:
                break
        for path in left:
            self.quarantine(path)

    def delete_temporary(self, age_s: float = STALE_S) -> int:
        """Delete what interrupted writes left in tmp/; returns how many files."""
        return self.storage.delete_temporary(age_s)

    @contextmanager
    def beacon(self) -> Iterator[str]:
        """A path that `has` finds until the block ends: another machine that finds it there sees this very store."""
        path = layout.beacon(os.urandom(8).hex())
        self.storage.put_if_absent([(path, b"")], durable=False)
        try:
            yield path
        finally:
            self.storage.delete([path])

    def save(
        self,
        base: Snapshot,
        fragments: Iterable[Fragment],
        operators: Iterable[Operator],
        phase: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """Write the snapshot that ends a command; the base itself where the command added nothing.

        StaleBase where another command ended since `base` was read: results computed from it may be outdated.
        """
        made = snapshots.extended(base, fragments, operators, phase)
        base_paths = {fragment.path for fragment in base.fragments}
        added = [fragment for fragment in made.fragments if fragment.path not in base_paths]
        newest_round = max((f.round for f in made.of(layout.DECISIONS)), default=-1)
        lost = [p for p in self.unreferenced(layout.DECISIONS, made) if layout.round_of(p) <= newest_round]
        try:
            if base.number and not added and made.operators == base.operators:
                made = base
                if snapshots.newest(self.storage) != base.number:
                    raise snapshots.StaleBase(f"{self.root}: another command ended meanwhile")
            elif all(self.storage.exists(fragment.path) for fragment in added):
                made = snapshots.write(self.storage, made, base.number)
            else:
                raise snapshots.StaleBase(f"{self.root}: a fragment was moved away meanwhile")
        except snapshots.StaleBase as stale:
            stale.store = self
            stale.fragments = tuple(fragment.path for fragment in added)
            raise
        Chain(self.storage).extend(made.number)
        self.discard_unnamed(lost)  # verdicts of commands that died, or that come too late: no reader is to see them
        return made

    def turn_after(self, overtaken: int) -> AbstractContextManager[None]:
        """What a command holds that was overtaken so often: at last the right to commit, so that others wait for it."""
        return turn_after(self.storage, overtaken)

    def record_run(self, run_id: str, facts: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        """Add one start of a run: what it is, then when, where and on what it was started."""
        if self.restoring is None:
            runs.record(self.storage, run_id, facts, start)

    def run(self, run_id: str) -> dict[str, Any] | None:
        """What is recorded of a run, its "starts" in order; None where nothing ever was.

        Missing or Damaged (ValueError) where it was and is gone or changed.
        """
        return runs.read(self.storage, run_id)

    def keep_run_state(self, run: str, state: Mapping[str, Any]) -> None:
        """Write how a run of a command stands; no part of the data, and nothing where only fragments are written."""
        if self.restoring is None:
            run_states.keep(self.storage, run, state)

    def run_states(self) -> list[Any]:
        """How the newest runs of commands stood when they last said so, oldest first."""
        return run_states.read(self.storage)

    def forget_old_run_states(self) -> None:
        """Keep the newest of them alone."""
        run_states.forget_old(self.storage)

    def journal(self, key: str) -> Journal:
        """The journal of a unit of work."""
        return Journal(self.storage, key)

    def pieces(self, uid: str) -> pieces.Pieces:
        """The parts of a unit of work that are done while the whole is not."""
        return pieces.Pieces(self.storage, uid)

    def begun_units(self) -> set[str]:
        """The units of work of which there are pieces."""
        return pieces.begun(self.storage)

    def picture_times(self) -> dict[str, tuple[int, ...]]:
        """Path -> the size and times of a picture's file when it was last seen; a cache, empty where it is damaged."""
        try:
            data = parse_json(self.storage.read(layout.PICTURE_TIMES).decode("utf-8", "surrogatepass"))
            return {str(path): tuple(map(int, stamp)) for path, stamp in data.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def keep_picture_times(self, known: Mapping[str, Sequence[int]]) -> None:
        """Write what `picture_times` reads."""
        self.storage.replace(layout.PICTURE_TIMES, json.dumps(known).encode())

    def student_folder(self, key: str) -> Path:
        """Where a trained student lies, or is to lie."""
        return self.storage.folder(layout.student(key))

    def keep_student(self, key: str, made: Path) -> None:
        """Move a trained student's folder into place, whole; where another process was first, its student stays."""
        self.storage.keep_folder(made, layout.student(key))

    def temporary_folder(self, name: str) -> Path:
        """A folder for work in progress, made if it is not there; nothing in it is part of the store."""
        return self.storage.temporary_folder(name)

    # upkeep

    def verify(self) -> list[verification.Damage]:
        """Every damaged or missing fragment of any snapshot, and snapshots and records of runs that are damaged."""
        return verification.verify(self.storage)

    def mend_json(self, damaged: Sequence[verification.Damage]) -> list[tuple[verification.Damage, str]]:
        """Mend damaged or missing records, links and snapshots where the store itself says what they held.

        Returns those that cannot be, each with why and what to do. A start that is lost is given up with that.
        """
        return verification.mend_json(self.storage, damaged)

    def compact(self, snapshot: int | None = None, rows: int = compaction.COMPACT_ROWS) -> Snapshot:
        """A new snapshot with the same rows in few large files."""
        return compaction.compact(self.storage, snapshot, rows)

    def compact_again(self, snapshot: Snapshot, lost: Collection[Fragment]) -> None:
        """Write those of a compacted snapshot's large files that are lost; Missing where that cannot be."""
        compaction.compact_again(self.storage, snapshot, lost)

    def undo(self, to: int | None = None) -> Snapshot:
        """A new snapshot that holds what an earlier one held."""
        return snapshots.undo(self.storage, to)

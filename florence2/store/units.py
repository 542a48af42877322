"""Units as the engine sees them: the pictures of a unit, the annotations of some runs, and verdicts up to a point.

The engine asks for these and gets records; which fragments, columns and rows hold them is known here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow.compute as pc

from florence2.records import Failure, Sample
from florence2.store import import_metadata, parquet, scan, schema
from florence2.store.parquet import Fragment
from florence2.store.snapshots import Snapshot
from florence2.store.storage import Storage

Selector = Callable[[Sample], bool]


@dataclass(frozen=True)
class Unit:
    """A unit's good pictures as bare samples, and the snapshot's fragments about it. It can be sent to a worker.

    Pictures that were good when the unit was cut stay in it, `gone` where they are not now: its work keeps its name.
    """

    uid: str
    samples: tuple[Sample, ...]
    group: scan.UnitGroup
    others: tuple[Sample, ...] = ()  # rejected and failed
    gone: frozenset[str] = frozenset()  # ids of samples that were good when the unit was cut, and are not now

    def selected(self, selector: Selector | None) -> Unit:
        """The unit with only the good pictures that a selector takes."""
        if selector is None:
            return self
        return dataclasses.replace(self, samples=tuple(s for s in self.samples if selector(s)))

    def reading(self, runs: Collection[str]) -> Unit:
        """The unit with only those fragments that hold annotations of these runs: what a worker needs to read them."""
        found = self.group.fragments.get("annotations", ()) if runs else ()
        reads = tuple(f for f in found if not f.run_id or f.run_id in runs)
        return dataclasses.replace(self, group=scan.UnitGroup(self.group.units, {"annotations": reads}), others=())


def units(storage: Storage, snapshot: Snapshot) -> Iterator[Unit]:
    """Every unit in the order they came in, those without a good picture too."""
    for group in scan.unit_groups(snapshot):
        bare: dict[tuple[str, bool], list[Sample]] = {}
        turned: dict[str, list[Sample]] = {}  # that became good later: each is work of its own
        gone = set()
        for row in scan.image_rows(storage, group.fragments["images"]):
            was_ok, sample = row.first_verdict == "ok", row.sample()
            if row.status == "ok" and not was_ok:
                turned.setdefault(row.unit, []).append(sample)
                continue
            bare.setdefault((row.unit, was_ok), []).append(sample)
            if was_ok and row.status != "ok":
                gone.add(row.id)
        metadata = scan.import_metadata_of(storage, group.imports, whole=False)
        for uid in group.units:
            ok, others = (import_metadata.apply(bare.get((uid, good), ()), metadata) for good in (True, False))
            yield Unit(uid, tuple(ok), group, tuple(others), frozenset(s.image.id for s in ok if s.image.id in gone))
            for sample in turned.get(uid, ()):
                yield Unit(uid, tuple(import_metadata.apply([sample], metadata)), group)


def count_images(storage: Storage, snapshot: Snapshot, selector: Selector | None = None) -> int:
    """How many good pictures there are, of those that a selector takes; it sees bare samples."""
    images = snapshot.of("images")
    if selector is None:
        return sum(scan.count_ok(storage, fragment) for fragment in images)
    rows = (row for f in images for row in scan.image_rows(storage, [f], ["id", "uri", "member", "status"]))
    return sum(selector(row.sample()) for row in rows if row.status == "ok")


def annotations_of(storage: Storage, unit: Unit, runs: Collection[str]) -> list[Sample]:
    """A unit's samples with the annotations of these runs, without verdicts. Other fragments are not opened."""
    wanted = unit.reading(runs).group.fragments["annotations"]
    if not wanted:
        return list(unit.samples)
    table = parquet.read_table(storage, "annotations", wanted).filter(pc.field("run_id").isin(sorted(runs)))
    return schema.samples(unit.samples, table, None)


def decisions_of(
    storage: Storage, unit: Unit, samples: Sequence[Sample], runs: Collection[str], before: tuple[int, int]
) -> list[Sample]:
    """A unit's samples with the verdicts that come before (round, seq).

    Of the fragments only those of `runs` are opened (and compacted ones): others may be what is to be made again.
    """
    wanted = [f for f in unit.group.fragments.get("decisions", ()) if not f.run_id or f.run_id in runs]
    rounds, seqs = pc.field("round"), pc.field("seq")
    earlier = (rounds < before[0]) | ((rounds == before[0]) & (seqs < before[1]))
    table = parquet.read_table(storage, "decisions", wanted).filter(earlier)
    return schema.samples(samples, None, table)


def failures_of(storage: Storage, fragment: Fragment) -> list[Failure]:
    """The failures of a fragment, each with the id of its picture."""
    rows = schema.rows(parquet.read(storage, fragment, ["image_id", "reason", "detail"]))
    return [Failure(id=row["image_id"], reason=row["reason"] or "", detail=row["detail"] or "") for row in rows]


def newest_seq(storage: Storage, snapshot: Snapshot, round: int) -> int:
    """The highest seq of a round's verdicts, -1 where there are none."""
    found = (_newest_seqs(storage, fragment).get(round, -1) for fragment in snapshot.of("decisions") if fragment.rows)
    return max(found, default=-1)


def _newest_seqs(storage: Storage, fragment: Fragment) -> dict[int, int]:
    """The highest seq of each round in a fragment; kept, as a fragment is never changed."""
    key = storage.location(fragment.path), fragment.sha256
    if key not in _SEQS:
        table = parquet.read(storage, fragment, ["round", "seq"])
        highest = table.group_by("round").aggregate([("seq", "max")])
        _SEQS[key] = dict(zip(highest["round"].to_pylist(), highest["seq_max"].to_pylist()))
    return _SEQS[key]


_SEQS: dict[tuple[str, str], dict[int, int]] = {}

"""A store: a folder of Parquet fragments that holds a data set, every verdict on it and every earlier state of it.

Knows files and records; what is worked out when, and by whom, is the engine's. The layout: docs/store.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from florence2.records import Sample
from florence2.store import commit, maintenance, random_access, scan, schema, snapshots
from florence2.store.snapshots import Fragment, Operator, Snapshot


def is_store(path: str | Path) -> bool:
    """Whether a folder is a store."""
    return (Path(path) / snapshots.FOLDER).is_dir()


@dataclass(frozen=True)
class PendingFragment:
    """A fragment to be written: path, rows, image units, run, and the facts of its maker that go into the file."""

    path: str
    rows: Sequence[schema.Row]
    units: Sequence[str]
    run_id: str
    about: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        name = self.path.split("/")[0]
        facts = tuple((f"florence2.{key}", str(value)) for key, value in self.about.items())
        return _data(name, self.rows, facts) if self.rows else _empty(name, facts)


def _data(name: str, rows: Sequence[schema.Row], facts: tuple[tuple[str, str], ...]) -> bytes:
    return commit.parquet_bytes(schema.table(name, rows), dict(facts))


@lru_cache(maxsize=1024)
def _empty(name: str, facts: tuple[tuple[str, str], ...]) -> bytes:
    """A fragment of no rows: a chain of rules writes the same one for most units."""
    return _data(name, (), facts)


class Store:
    """The data set in a folder. Reading never locks; writing adds fragments, and a snapshot makes them visible."""

    def __init__(self, path: str | Path, create: bool = False):
        self.root = Path(path)
        if is_store(self.root):
            return
        if not create:
            raise ValueError(f"{self.root}: not a store; make one with florence2 annotate FOLDER --out {self.root}")
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise ValueError(f"{self.root}: holds other files and is not a store; name a new or empty folder")
        commit.make_folder(self.root, self.root)
        commit.make_folder(self.root, self.root / snapshots.FOLDER)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # reading

    def snapshots(self) -> list[int]:
        """Numbers of its snapshots, oldest first."""
        return snapshots.numbers(self.root)

    def snapshot(self, number: int | None = None) -> Snapshot:
        """One snapshot, the newest unless named."""
        return snapshots.read(self.root, number)

    def samples(self, snapshot: int | None = None, view: str = "current", limit: int | None = None) -> Iterator[Sample]:
        """Its good pictures in order: with what stands ("current"), or with all and every verdict ("all")."""
        if view not in scan.VIEWS:
            raise ValueError(f"view {view!r}: expected one of {', '.join(scan.VIEWS)}")
        return islice(scan.samples(self.root, self.snapshot(snapshot), view), limit)

    def random(self, snapshot: int | None = None, view: str = "current") -> random_access.RandomSamples:
        """Its samples by position, in bounded memory."""
        return random_access.RandomSamples(self.root, self.snapshot(snapshot), view)

    def images(self, snapshot: int | None = None) -> Iterator[dict[str, Any]]:
        """Every row of `images`, rejected and failed pictures included."""
        for fragment in self.snapshot(snapshot).of("images"):
            yield from schema.rows(scan.read_fragment(self.root, fragment))

    def table(self, name: str, snapshot: int | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """One of the four tables as a whole: images, annotations, decisions or failures."""
        return scan.read_table(self.root, name, self.snapshot(snapshot).of(name), columns)

    def paths(self, name: str, snapshot: int | None = None) -> list[str]:
        """The files of one table in a snapshot, for DuckDB, pandas, Polars."""
        return [str(self.root / fragment.path) for fragment in self.snapshot(snapshot).of(name)]

    def counts(self, snapshot: int | None = None) -> dict[str, Any]:
        """Totals by status of images and annotations, failures and decisions."""
        return scan.counts(self.root, self.snapshot(snapshot))

    def reasons(self, snapshot: int | None = None) -> dict[str, dict[str, int]]:
        """Reason words counted: of images, of failures, of annotations that are not kept."""
        return scan.reasons(self.root, self.snapshot(snapshot))

    def tally(self, snapshot: int | None = None) -> list[dict[str, Any]]:
        """Annotations counted by source, round, family, status, rule and reason."""
        return scan.tally(self.root, self.snapshot(snapshot))

    def history(self, ann_id: str, snapshot: int | None = None) -> dict[str, Any]:
        """All that is known of one annotation: its row, the run that made it, and its verdicts, the last one last."""
        found = {
            name: [
                row
                for fragment in self.snapshot(snapshot).of(name)
                for row in schema.rows(scan.read_fragment(self.root, fragment).filter(pc.field("ann_id") == ann_id))
            ]
            for name in ("annotations", "decisions")
        }
        if not found["annotations"]:
            raise ValueError(f"{self.root}: no annotation {ann_id!r}; expected an ann_id of the newest snapshot")
        (row,) = found["annotations"]
        decisions = sorted(found["decisions"], key=lambda d: (d["round"], d["seq"]))
        return {"annotation": row, "run": self.run(row["run_id"]), "decisions": decisions}

    # writing

    def put(
        self, path: str, rows: Sequence[schema.Row], units: Sequence[str], run_id: str, about: Mapping[str, Any]
    ) -> Fragment:
        """Commit rows as the fragment `path` (its first folder names the table), or take what is there already."""
        return self.put_all([PendingFragment(path, rows, units, run_id, about)])[0]

    def put_all(self, drafts: Sequence[PendingFragment]) -> list[Fragment]:
        """Commit several fragments, synced together."""
        data = [draft.to_bytes() for draft in drafts]
        new = commit.commit_all(self.root, [(draft.path, bytes_) for draft, bytes_ in zip(drafts, data)])
        return [
            Fragment(draft.path, len(draft.rows), hashlib.sha256(bytes_).hexdigest(), tuple(draft.units), draft.run_id)
            if ours
            else self.fragment(draft.path, draft.units, draft.run_id)
            for draft, bytes_, ours in zip(drafts, data, new)
        ]

    def fragment(self, path: str, units: Sequence[str], run_id: str) -> Fragment:
        """The fragment that lies at `path`; ValueError if it cannot be read."""
        probe = Fragment(path, 0, "", tuple(units), run_id)
        rows = scan.read_fragment(self.root, probe).num_rows
        return Fragment(path, rows, commit.sha256_of(self.root / path), tuple(units), run_id)

    def save(
        self,
        base: Snapshot,
        fragments: Iterable[Fragment],
        operators: Iterable[Operator],
        phase: Mapping[str, Any] | None = None,
    ) -> Snapshot:
        """Write the snapshot that ends a command; the base itself where the command added nothing."""
        newest = self.snapshot()
        if newest.number != base.number:  # another command ended meanwhile: both sets of fragments stand
            base = newest
        made = snapshots.extended(base, fragments, operators, phase)
        if base.number and made.fragments == base.fragments and made.operators == base.operators:
            return base
        return snapshots.write(self.root, made)

    def record_run(self, run_id: str, facts: Mapping[str, Any], start: Mapping[str, Any]) -> None:
        """Add one start of a run to runs/<run_id>.json: what it is, then when, where and on what it was started."""
        relative = f"runs/{run_id}.json"
        kept = self.run(run_id) or {"run_id": run_id, **facts, "starts": []}
        kept["starts"].append(dict(start))
        commit.replace(self.root, relative, commit.sealed(json.loads(commit.json_bytes(kept))))

    def run(self, run_id: str) -> dict[str, Any] | None:
        """What runs/<run_id>.json says, if it is there and whole."""
        try:
            return commit.unsealed((self.root / "runs" / f"{run_id}.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    # maintenance

    def verify(self) -> list[maintenance.Damage]:
        """Every damaged or missing fragment of any snapshot, and snapshots and records of runs that are damaged."""
        return maintenance.verify(self.root)

    def compact(self, snapshot: int | None = None, rows: int = maintenance.COMPACT_ROWS) -> Snapshot:
        """A new snapshot with the same rows in few large files."""
        return maintenance.compact(self.root, snapshot, rows)

    def undo(self, to: int | None = None) -> Snapshot:
        """A new snapshot that holds what an earlier one held."""
        return maintenance.undo(self.root, to)

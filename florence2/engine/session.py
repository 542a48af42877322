"""What one command adds to a store: finds the work that is done already, collects the rest, ends with one snapshot.

A fragment is taken as done when it is what the snapshot says it is, or, if no snapshot names it (an interrupted command
left it), when it can be read through. A damaged one is set aside and made again under its name.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from florence2.engine.operator import OperatorInput, unit_id
from florence2.engine.selectors import ImageSelector
from florence2.records import Sample
from florence2.store import Store, commit, import_metadata, maintenance, scan, schema
from florence2.store.dataset import PendingFragment
from florence2.store.schema import TABLES
from florence2.store.snapshots import Fragment, Operator, Snapshot, extended

REOPEN, RECOMPUTED = "reopen", "recomputed"  # operators that turn verdicts around
ANNOTATORS = ("specialist", "simulated", "model", "import", "human", "merge")  # kinds that write annotations


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit's good pictures as bare samples, and the snapshot's fragments about it."""

    uid: str
    samples: tuple[Sample, ...]
    group: scan.UnitGroup
    others: tuple[Sample, ...] = ()  # rejected and failed


class Session:
    """One command's view of a store: the snapshot it started from and what it has added since."""

    def __init__(self, store: Store, base: Snapshot | None = None):
        commit.delete_stale_temp(store.root)
        self.store = store
        self.base = store.snapshot() if base is None else base
        self.fragments: list[Fragment] = []
        self.operators: dict[str, Operator] = {operator.run_id: operator for operator in self.base.operators}
        self._named = {fragment.path: fragment for fragment in self.base.fragments}
        self._compacted = self._covered()

    def _covered(self) -> dict[str, Fragment]:
        """Fragments whose rows the base holds in compacted files."""
        out: dict[str, Fragment] = {}
        number = self.base.compacts
        while number:
            earlier = self.store.snapshot(number)
            out.update({fragment.path: fragment for fragment in earlier.fragments})
            number = earlier.compacts
        return out

    def done(self, path: str, units: Iterable[str], run_id: str) -> Fragment | None:
        """The fragment at `path` if it is there and whole; noted as part of this command's snapshot."""
        if path in self._compacted:
            return self._compacted[path]
        known = self._named.get(path)
        if known is not None:
            if not maintenance.check(self.store.root, known):
                return known
            maintenance.quarantine(self.store.root, path)
            return None
        if not (self.store.root / path).exists():
            return None
        try:
            fragment = self.store.fragment(path, tuple(units), run_id)
        except ValueError:
            maintenance.quarantine(self.store.root, path)
            return None
        self.fragments.append(fragment)
        return fragment

    def add(self, fragments: Iterable[Fragment]) -> None:
        """Note fragments that this command made."""
        self.fragments += fragments

    def current(self) -> Snapshot:
        """The base with all that was added so far."""
        return extended(self.base, self._in_order(), self.operators.values())

    def _in_order(self) -> list[Fragment]:
        """What was added, by table, operator and unit: the same whatever finished first."""
        images = [f for f in (*self.base.of("images"), *self.fragments) if f.table == "images"]
        place = {unit: n for n, unit in enumerate(dict.fromkeys(u for f in images for u in f.units))}
        turn = {run: n for n, run in enumerate(self.operators)}
        return sorted(
            self.fragments,
            key=lambda f: (TABLES.index(f.table), turn.get(f.run_id, -1), min(place.get(u, -1) for u in f.units)),
        )

    def units(self, selector: ImageSelector | None = None) -> Iterator[Unit]:
        """Every unit of the store with its good pictures (those taken), in the order they came in; none is empty."""
        for unit in self.all_units():
            samples = tuple(s for s in unit.samples if selector(s)) if selector else unit.samples
            if samples:
                yield dataclasses.replace(unit, samples=samples)

    def count(self, selector: ImageSelector | None = None) -> int:
        """How many good pictures there are (of those taken)."""
        images = self.current().of("images")
        if selector is None:
            return sum(scan.count_ok(self.store.root, fragment) for fragment in images)
        rows = (schema.rows(scan.read_fragment(self.store.root, f, ["id", "uri", "member", "status"])) for f in images)
        found = (schema.samples([row for row in each if row["status"] == "ok"], None, None) for each in rows)
        return sum(selector(sample) for samples in found for sample in samples)

    def all_units(self) -> Iterator[Unit]:
        """Every unit, those without a good picture too."""
        for group in scan.unit_groups(self.current()):
            table = scan.read_table(self.store.root, "images", group.fragments["images"])
            rows: dict[tuple[str, bool], list[schema.Row]] = {}
            for row in schema.rows(table):
                rows.setdefault((row["unit"], row["status"] == "ok"), []).append(row)
            metadata = scan.import_metadata_of(self.store.root, group.imports, whole=False)
            for uid in group.units:
                found = (schema.samples(rows.get((uid, good), ()), None, None) for good in (True, False))
                ok, others = (import_metadata.apply(samples, metadata) for samples in found)
                yield Unit(uid, tuple(ok), group, tuple(others))

    def samples(self, unit: Unit, runs: Iterable[str], maker: Operator, seq: int) -> list[Sample]:
        """A unit's samples as an operator saw them: the annotations of `runs`, the verdicts before (its round, seq).

        Fragments that hold none of these are not opened: they may be what is to be made again.
        """
        root, wanted, round = self.store.root, set(runs), maker.round
        found = unit.group.fragments
        annotations = scan.read_table(
            root, "annotations", [f for f in found.get("annotations", ()) if not f.run_id or f.run_id in wanted]
        ).filter(pc.field("run_id").isin(sorted(wanted)))
        earlier = [f for f in found.get("decisions", ()) if not f.run_id or self._precedes(f.run_id, maker)]
        rounds, seqs = pc.field("round"), pc.field("seq")
        decisions = scan.read_table(root, "decisions", earlier).filter(
            (rounds < round) | ((rounds == round) & (seqs < seq))
        )
        return schema.samples([schema.image_row(sample) for sample in unit.samples], annotations, decisions)

    def _precedes(self, run: str, maker: Operator) -> bool:
        """Whether a run's verdicts may be older than an operator's: in a round filters, then merging, then the rest."""
        other, order = self.operators[run], ("filter", "merge", "recomputed")
        turn, own = ((o.round, order.index(o.kind) if o.kind in order else -1) for o in (other, maker))
        return turn < own or (turn == own and other.kind == "recomputed" and run != maker.run_id)

    def live(self) -> list[Operator]:
        """The operators whose annotations stand, in the order they came."""
        return [o for o in self.operators.values() if not o.replaced and o.kind in ANNOTATORS]

    def names(self, path: str) -> bool:
        """Whether the snapshot this command started from names a fragment."""
        return path in self._named or path in self._compacted

    def newest_round(self, table: str) -> int:
        """The highest round of a table's fragments, -1 where there are none."""
        rounds = [round_of(f.path) for f in (*self.base.of(table), *self._compacted.values()) if f.table == table]
        return max(rounds, default=-1)

    def start(self, operator: Operator, facts: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
        """Enter an operator, and this start of it in runs/."""
        self.operators[operator.run_id] = operator
        about = {"operator": dataclasses.asdict(operator), **facts}
        self.store.record_run(operator.run_id, about, {**where_and_when(), **inputs})

    def path_of(self, table: str, operator: Operator, unit: Unit) -> str:
        """Where an operator's work on a unit lies."""
        uid = unit_id([sample.image.id for sample in unit.samples], operator.fingerprint, operator.round)
        return fragment_path(table, operator.round, operator.name, operator.version, uid)

    def draft(
        self, path: str, operator: Operator, unit: Unit, rows: Sequence[schema.Row], **more: str
    ) -> PendingFragment:
        """An operator's rows about a unit, to be put; `more` goes into the file's metadata."""
        about = {name: getattr(operator, name) for name in ("name", "version", "fingerprint", "round")} | more
        return PendingFragment(path, rows, [unit.uid], operator.run_id, about)

    def verdicts(self, operator: Operator, unit: Unit, rows: Sequence[schema.Row]) -> PendingFragment:
        """An operator's verdicts on a unit, to be put."""
        return self.draft(self.path_of("decisions", operator, unit), operator, unit, rows)

    def put(self, drafts: Sequence[PendingFragment]) -> None:
        """Commit fragments, and note them as this command's."""
        self.add(self.store.put_all(drafts))

    def finish(self, phase: Mapping[str, Any] | None = None) -> Snapshot:
        """Write the snapshot that ends the command."""
        return self.store.save(self.base, self._in_order(), self.operators.values(), phase)


def fragment_path(table: str, round: int, name: str, version: str, uid: str) -> str:
    """The path of a fragment; `uid` names the unit's work by this operator in this round."""
    return f"{table}/round-{round}/{safe(name)}@{safe(version)}/unit-{uid}.parquet"


def round_of(path: str) -> int:
    """The round in a fragment's path, -1 where it has none."""
    found = re.search(r"/round-(\d+)/", path)
    return int(found[1]) if found else -1


def safe(name: str) -> str:
    """A name that can be a folder's: no slash, no equals sign."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", name) or "-"


def inputs_of(operators: Iterable[Operator]) -> list[OperatorInput]:
    """What an operator that reads these runs takes into its fingerprint."""
    return [OperatorInput(operator.fingerprint, operator.round) for operator in operators]


def where_and_when() -> dict[str, Any]:
    """The facts of a start that must stay out of fragments."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
    }

"""A snapshot is a list of fragments: what the store held when a command ended. Written once, never changed.

`snapshots/000012.json` is {"parent", "fragments": [{"path", "rows", "sha256", ...}], "operators", "phase", "sha256"}.
It holds no time and no host, so equal work gives equal bytes. An older snapshot opened is time travel; undo writes a
new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florence2.store import commit
from florence2.store.schema import TABLES

FOLDER = "snapshots"


@dataclass(frozen=True)
class Fragment:
    """One Parquet file of a snapshot. `units` are the image units its rows belong to."""

    path: str
    rows: int
    sha256: str
    units: tuple[str, ...] = ()
    run_id: str = ""

    @property
    def table(self) -> str:
        """Which of the four tables it is part of."""
        parts = self.path.split("/")
        return parts[2] if parts[0] == "compact" else parts[0]


@dataclass(frozen=True)
class Operator:
    """Who wrote the fragments of one run, as later operators need to know it. `replaced` = its rows are superseded."""

    run_id: str
    name: str
    version: str
    fingerprint: str
    round: int
    kind: str = "specialist"  # images, specialist, model, simulated, import, human, filter, merge
    produces: tuple[str, ...] = ()
    replaced: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A view of the store: number, parent's number, fragments and the operators that wrote them."""

    number: int = 0
    parent: int = 0
    fragments: tuple[Fragment, ...] = ()
    operators: tuple[Operator, ...] = ()
    phase: Mapping[str, Any] = field(default_factory=dict)
    compacts: int = 0  # the snapshot whose fragments were compacted into this one's

    def of(self, table: str) -> list[Fragment]:
        """Its fragments of one table, in order."""
        if table not in TABLES:
            raise ValueError(f"table {table!r}: expected one of {', '.join(TABLES)}")
        return [fragment for fragment in self.fragments if fragment.table == table]

    def to_bytes(self) -> bytes:
        """The file's bytes: what it holds, and its hash."""
        return commit.sealed(self._body())

    def _body(self) -> dict[str, Any]:
        data: dict[str, Any] = {"parent": self.parent or None}
        if self.phase:
            data["phase"] = dict(self.phase)
        if self.compacts:
            data["compacts"] = self.compacts
        data["operators"] = [_without_defaults(operator) for operator in self.operators]
        data["fragments"] = [_without_defaults(fragment) for fragment in self.fragments]
        return data

    @property
    def sha256(self) -> str:
        """Hex SHA-256 of what it holds."""
        return hashlib.sha256(commit.json_bytes(self._body())).hexdigest()


def numbers(root: Path) -> list[int]:
    """The numbers of the snapshots a store has, oldest first."""
    return sorted(int(path.stem) for path in (root / FOLDER).glob("*.json") if path.stem.isdigit())


def read(root: Path, number: int | None = None) -> Snapshot:
    """One snapshot, the newest unless named; an empty one where none was written yet."""
    known = numbers(root)
    if number is None:
        number = known[-1] if known else 0
    if number == 0:
        return Snapshot()
    if number not in known:
        raise ValueError(f"{root}: no snapshot {number}; it has {known[0]}..{known[-1]}" if known else f"{root}: empty")
    path = root / file_of(number)
    try:
        data = json.loads(path.read_bytes())
        return Snapshot(
            number=number,
            parent=data["parent"] or 0,
            fragments=tuple(_fragment(entry) for entry in data["fragments"]),
            operators=tuple(_operator(entry) for entry in data.get("operators", ())),
            phase=data.get("phase", {}),
            compacts=data.get("compacts", 0),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}: not a snapshot ({error}); remove it to go back to the one before") from None


def write(root: Path, snapshot: Snapshot) -> Snapshot:
    """Commit a snapshot under the next free number; returns it with that number."""
    while True:
        known = numbers(root)
        number = (known[-1] if known else 0) + 1
        snapshot = dataclasses.replace(snapshot, number=number)
        if commit.commit(root, file_of(number), snapshot.to_bytes()):
            return snapshot


def file_of(number: int) -> str:
    """The path of a snapshot relative to its store."""
    return f"{FOLDER}/{number:06d}.json"


def extended(
    base: Snapshot,
    fragments: Iterable[Fragment],
    operators: Iterable[Operator],
    phase: Mapping[str, Any] | None = None,
) -> Snapshot:
    """`base` with more fragments and operators; a path or run it has already is not added twice."""
    paths = {fragment.path for fragment in base.fragments}
    added = []
    for fragment in fragments:
        if fragment.path not in paths:
            paths.add(fragment.path)
            added.append(fragment)
    by_run = {operator.run_id: operator for operator in base.operators}
    by_run.update({operator.run_id: operator for operator in operators})
    return Snapshot(
        number=base.number,
        parent=base.number,
        fragments=(*base.fragments, *added),
        operators=tuple(by_run.values()),
        phase=dict(phase or {}),
        compacts=base.compacts,
    )


def _without_defaults(record: Fragment | Operator) -> dict[str, Any]:
    out = {}
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if item.default is dataclasses.MISSING or value != item.default:
            out[item.name] = list(value) if isinstance(value, tuple) else value
    return out


def _fragment(entry: Mapping[str, Any]) -> Fragment:
    return Fragment(
        entry["path"], entry["rows"], entry["sha256"], tuple(entry.get("units", ())), entry.get("run_id", "")
    )


def _operator(entry: Mapping[str, Any]) -> Operator:
    return Operator(**{**entry, "produces": tuple(entry.get("produces", ()))})

"""A snapshot is a list of fragments: what the store held when a command ended. Written once, never changed.

`snapshots/000012.json` is {"parent", "fragments": [{"path", "rows", "sha256", ...}], "operators", "phase", "sha256"}.
It holds no time and no host, so equal work gives equal bytes. An older snapshot opened is time travel; undo writes a
new one. A new one is made by compare-and-swap: it takes the number after the one that its command started from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from florence2 import arguments
from florence2.store import layout, sealed
from florence2.store.chain import Chain
from florence2.store.layout import TABLES
from florence2.store.parquet import Fragment
from florence2.store.sealed import Damaged, Missing
from florence2.store.storage import Storage, turn_after
from florence2.structuring import brief


class StaleBase(RuntimeError):
    """Another command ended since this one read its base: compute its results again from the new snapshot."""

    store: Any = None  # the Store that was to be saved
    fragments: tuple[str, ...] = ()  # that were written and are not in a snapshot; the next attempt may find them


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
        return sealed.seal(self._body())

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
        return hashlib.sha256(sealed.json_bytes(self._body())).hexdigest()


def numbers(storage: Storage) -> list[int]:
    """The numbers of the snapshots a store has, oldest first."""
    return sorted(filter(None, map(layout.number_of, storage.list(layout.SNAPSHOTS))))


def newest(storage: Storage) -> int:
    """The number of the newest snapshot, 0 without any; Missing where the chain knows of a newer one."""
    number = max(numbers(storage), default=0)
    known = Chain(storage).newest_snapshot()
    if known > number:
        raise Missing(f"{storage.location(layout.snapshot(known))}: missing; {remedy(storage, known)}")
    return number


def read(storage: Storage, number: int | None = None) -> Snapshot:
    """One snapshot, the newest unless named; an empty one where none was written yet."""
    number = newest(storage) if number is None else arguments.whole("snapshot", number)
    if number == 0:
        return Snapshot()
    path, known = layout.snapshot(number), numbers(storage)
    if 0 < number < max(known, default=0) and number not in known:
        raise Missing(f"{storage.location(path)}: missing; {remedy(storage, number)}")
    if number not in known:
        span = f"it has {known[0]}..{known[-1]}" if known else "it has none yet"
        raise ValueError(f"{storage.location()}: no snapshot {number}; {span}")
    data = Chain(storage).read(path, remedy(storage, number))
    parent = data.get("parent") or 0
    if parent != number - 1 and not (_is_undo(data) and _follows(storage, number, parent)):
        raise Damaged(f"{storage.location(path)}: damaged (it follows {brief(parent)}); {remedy(storage, number)}")
    try:
        fragments = tuple(_fragment(entry) for entry in data["fragments"])
        operators = tuple(_operator(entry) for entry in data.get("operators", ()))
        _no_twice([fragment.path for fragment in fragments])
        _no_twice([operator.run_id for operator in operators])
        return Snapshot(
            number=number,
            parent=data["parent"] or 0,
            fragments=fragments,
            operators=operators,
            phase=_mapping(data.get("phase", {})),
            compacts=_earlier(data.get("compacts", 0), number),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{storage.location(path)}: not a snapshot ({error}); {remedy(storage, number)}") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, got {value!r:.40}")
    return value


def _no_twice(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise TypeError(f"it names {brief(twice)} twice")


def _earlier(value: Any, number: int) -> int:
    if type(value) is not int or not 0 <= value < number:
        raise TypeError(f"expected the number of an earlier snapshot, got {value!r:.40}")
    return value


def _is_undo(data: Mapping[str, Any]) -> bool:
    """Whether a snapshot says it was written by an undo, which alone can follow one that is not the one before."""
    return type(data.get("parent")) is int and isinstance(data.get("phase"), Mapping) and "undo" in data["phase"]


def _follows(storage: Storage, number: int, parent: int) -> bool:
    """Whether a snapshot can follow one that is not the one before: those between are lost, or the chain says so."""
    stated = Chain(storage).known().get(layout.snapshot(number))
    if parent >= number:
        return False
    if stated is not None:
        return stated == storage.sha256(layout.snapshot(number))
    return not any(_is_sealed(storage, between) for between in range(parent + 1, number))


def _is_sealed(storage: Storage, number: int) -> bool:
    try:
        return bool(Chain(storage).read(layout.snapshot(number), ""))
    except ValueError:
        return False


def remedy(storage: Storage, number: int) -> str:
    """What to do about a snapshot that is damaged or missing."""
    if number < max(numbers(storage), default=0):
        return (
            "an earlier snapshot, which cannot be made again; later ones do not need it, but to add to what was "
            f"compacted from it: florence2 undo {storage.location()} --to N goes back to one before it"
        )
    return f"florence2 undo {storage.location()} goes back to the newest before it that is whole"


def write(storage: Storage, snapshot: Snapshot, base: int) -> Snapshot:
    """Commit the snapshot that follows `base`; returns it with its number. StaleBase where another one has."""
    Chain(storage).hashes()  # a link that is damaged is named before another one relies on it
    snapshot = dataclasses.replace(snapshot, number=base + 1)
    with storage.commit_turn():
        ours = storage.put_if_absent([(layout.snapshot(snapshot.number), snapshot.to_bytes())])[0]
    if not ours:
        raise StaleBase(f"{storage.location()}: snapshot {snapshot.number} was written by another command")
    return snapshot


def attempts(storage: Storage, command: Callable[[], Snapshot]) -> Snapshot:
    """What a command makes, begun again where another one ended meanwhile; at last while the others wait."""
    for overtaken in itertools.count():
        with turn_after(storage, overtaken):
            try:
                return command()
            except StaleBase:
                continue
    raise AssertionError("unreachable")


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
        fragments=_placed((*base.fragments, *added)),
        operators=tuple(by_run.values()),
        phase=dict(phase or {}),
        compacts=base.compacts,
    )


def _placed(fragments: Iterable[Fragment]) -> tuple[Fragment, ...]:
    """Fragments in order, each revised one in the place of those whose units it holds."""
    out: list[Fragment] = []
    for fragment in fragments:
        units = set(fragment.units) if layout.is_revised(fragment.path) else set()
        holds = [n for n, old in enumerate(out) if old.table == fragment.table] if units else []
        places = [n for n in holds if units.issuperset(out[n].units)]
        if places:
            out[places[0]] = fragment
            for n in reversed(places[1:]):
                del out[n]
        else:
            out.append(fragment)
    return tuple(out)


def _without_defaults(record: Fragment | Operator) -> dict[str, Any]:
    out = {}
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if item.default is dataclasses.MISSING or value != item.default:
            out[item.name] = list(value) if isinstance(value, tuple) else value
    return out


def _fragment(entry: Mapping[str, Any]) -> Fragment:
    path, rows, sha256 = entry["path"], entry["rows"], entry["sha256"]
    found = Fragment(path, rows, sha256, tuple(entry.get("units", ())), entry.get("run_id", ""))
    if not (all(isinstance(each, str) for each in (path, sha256, found.run_id, *found.units)) and type(rows) is int):
        raise TypeError(f"a fragment of other types: {brief(entry)}")
    if not layout.is_fragment(path) or not found.units:
        raise TypeError(f"{brief(path)} is no fragment of a store's units")
    return found


def _operator(entry: Mapping[str, Any]) -> Operator:
    found = Operator(**{**entry, "produces": tuple(entry.get("produces", ()))})
    texts = (found.run_id, found.name, found.version, found.fingerprint, found.kind, *found.produces)
    if not all(isinstance(each, str) for each in texts) or type(found.round) is not int:
        raise TypeError(f"an operator of other types: {brief(entry)}")
    if not layout.is_name(found.run_id):
        raise TypeError(f"{brief(found.run_id)} is the name of no run")
    return found


def undo(storage: Storage, to: int | None = None) -> Snapshot:
    """A new snapshot that holds what snapshot `to` held: the one before the newest, unless named.

    Where the newest is damaged or missing, the one before it is the newest that is whole, and what is lost is given up.
    One that was interrupted is ended by the same again, and steps back once.
    """
    to = None if to is None else arguments.whole("to", to)
    return attempts(storage, lambda: _undo_once(storage, to))


def _undo_once(storage: Storage, to: int | None) -> Snapshot:
    last = max([*numbers(storage), Chain(storage).newest_snapshot()])
    newest_, lost = _newest_whole(storage, last)
    if not lost and newest_.phase.get("undo") and Chain(storage).newest_snapshot() < newest_.number:
        return _ended(storage, newest_)
    made = _back(storage, newest_, to, bool(lost))
    return newest_ if made is None else _ended(storage, write(storage, made, last))


def _newest_whole(storage: Storage, last: int) -> tuple[Snapshot, list[str]]:
    """The newest snapshot up to `last` that can be read, and the paths of those after it."""
    lost: list[str] = []
    for number in reversed(layout.up_to([*numbers(storage), last])):
        try:
            return read(storage, number), lost
        except ValueError:
            lost.append(layout.snapshot(number))
    raise ValueError(f"{storage.location()}: nothing to undo, no snapshot is whole; remove the folder instead")


def _back(storage: Storage, newest_: Snapshot, to: int | None, lost: bool) -> Snapshot | None:
    """The snapshot that steps back from `newest_`; None where it holds what is asked for already."""
    if to == 0:
        raise ValueError(f"{storage.location()}: no snapshot 0; it has 1..{newest_.number}")
    if not lost and to and newest_.phase == {"undo": to}:
        return None
    if to is None:
        done = newest_
        while "undo" in done.phase and not lost:  # a second undo goes one step further back
            done = read(storage, done.phase["undo"])
        to = newest_.number if lost else done.parent
    if not to:
        raise ValueError(
            f"{storage.location()}: nothing to undo, snapshot {newest_.number} is the first; remove the folder instead"
        )
    back = newest_ if to == newest_.number else read(storage, to)
    return Snapshot(
        parent=newest_.number,
        fragments=back.fragments,
        operators=back.operators,
        phase={"undo": to},
        compacts=back.compacts,
    )


def _ended(storage: Storage, made: Snapshot) -> Snapshot:
    """Seal an undo, and give up the snapshots between it and its parent: they could not be read."""
    between = layout.up_to([made.parent, made.number])[:-1]
    lost = [layout.snapshot(number) for number in between if number > made.parent]
    Chain(storage).extend(made.number, given_up=lost)
    for path in lost:
        storage.discard(path)
    return made

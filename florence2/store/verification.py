"""Whether a store is whole: every fragment of every snapshot, the snapshots, and the records of runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from florence2.object_store import NoAnswer
from florence2.store import layout, parquet, runs, snapshots
from florence2.store.chain import Chain
from florence2.store.layout import TABLES
from florence2.store.parquet import Fragment
from florence2.store.sealed import Missing
from florence2.store.storage import Storage


@dataclass(frozen=True)
class Damage:
    """A fragment that is not what its snapshot says, and how: missing, changed or unreadable."""

    path: str
    cause: str
    fragment: Fragment | None = None

    @property
    def is_json(self) -> bool:
        """Whether it is a snapshot, a record of a run or a link of the chain."""
        return self.path.endswith(".json")

    @property
    def snapshot(self) -> int:
        """The number of the snapshot that it is, 0 where it is none."""
        return layout.number_of(self.path) if self.path.startswith(f"{layout.SNAPSHOTS}/") else 0


def verify(storage: Storage) -> list[Damage]:
    """Every damaged or missing fragment of every snapshot, JSON file and link, and strays that cannot be read."""
    found = [Damage(path, cause) for path, cause in Chain(storage).damage()]
    hashes = Chain(storage).known()
    wanted: dict[str, Fragment] = {}
    run_ids: set[str] = set()
    there = set(layout.up_to([Chain(storage).newest_known(), *snapshots.numbers(storage)]))
    for number in snapshots.numbers(storage):
        try:
            snapshot = snapshots.read(storage, number)
        except ValueError:
            found.append(Damage(layout.snapshot(number), "changed"))
            continue
        for fragment in snapshot.fragments:
            wanted.setdefault(fragment.path, fragment)
        run_ids.update(operator.run_id for operator in snapshot.operators)
        if snapshot.parent < number - 1:  # an undo gave up what is between
            there = {other for other in there if not snapshot.parent < other < number}
    recorded = set(map(layout.snapshot, there)) | runs.recorded(storage, run_ids, hashes)
    given_up = {path for path, sha256 in hashes.items() if sha256 is None}
    records = (recorded - given_up) | (hashes.keys() - given_up) | set(storage.list(layout.RUNS))
    known = {damage.path for damage in found}
    found += [Damage(p, cause) for p in sorted(records - known) if (cause := _check_json(storage, p, hashes.get(p)))]
    found += [Damage(path, cause, f) for path, f in wanted.items() if (cause := check(storage, f))]
    strays = unreferenced(storage, wanted.keys(), TABLES)
    return found + [Damage(path, "unreadable") for path in strays if not parquet.readable(storage, path)]


def _check_json(storage: Storage, path: str, sha256: str | None) -> str:
    try:
        runs.read_one(storage, path)
    except Missing:
        return "missing"
    except ValueError:
        return "changed"
    return "" if sha256 in (None, storage.sha256(path)) else "changed"


def check(storage: Storage, fragment: Fragment) -> str:
    """ "" if the fragment is what the snapshot says, else one word."""
    try:
        return "" if storage.sha256(fragment.path) == fragment.sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except NoAnswer:
        raise  # it says nothing of the fragment
    except OSError:
        return "unreadable"


def unreferenced(storage: Storage, known: Collection[str], tables: Sequence[str]) -> list[str]:
    """Fragments that no snapshot names: what an interrupted command left, to be taken up by the next."""
    return [p for name in tables for p in storage.list(name) if p.endswith(".parquet") and p not in known]


def mend_json(storage: Storage, damaged: Sequence[Damage]) -> list[tuple[Damage, str]]:
    """Mend damaged or missing JSON files, and name those that cannot be, with why not and what to do.

    Links of the chain come first, as what they say helps with the rest; then records of what a run is, which may help
    with links; then links for which nothing helps, and the others.
    """
    chain, out = Chain(storage), list[tuple[Damage, str]]()
    links = [damage for damage in damaged if damage.path.startswith(layout.CHAIN)]
    records = [d for d in damaged if d.path.startswith(layout.RUNS) and d.path.count("/") == 1]
    lost_files = {damage.path for damage in damaged if damage not in links}

    def is_lost(link: Damage) -> bool:
        return link.path in dict(chain.damage()) and not chain.restore(link.path, lost_files)

    lost = [link for link in links if is_lost(link)]
    for record in records:
        if runs.restore(storage, record.path, chain.known().get(record.path)):
            lost_files.remove(record.path)
        else:
            out.append((record, "no start of the run says what it was; run its command again"))
    lost = [link for link in lost if is_lost(link)]
    chain.substitute([link.path for link in lost], lost_files)
    out += [(link, "what it named is lost with it; one over what is there takes its place") for link in lost]
    for damage in (damage for damage in damaged if damage not in links and damage not in records):
        if damage.snapshot:
            out.append((damage, snapshots.remedy(storage, damage.snapshot)))
        else:
            chain.extend(chain.newest_snapshot(), given_up=[damage.path])
            storage.discard(damage.path)
            out.append((damage, "when and on what the run was started is given up; run its command again to record it"))
    return [(damage, f"{storage.location(damage.path)}: {damage.cause}; {why}") for damage, why in out]

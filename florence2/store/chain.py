"""The chain of hashes: which snapshots and records of runs a store has had, so that one that is gone is noticed.

`chain/000007.json` is {"previous": sha256 of link 6, "snapshot": the newest at that time, "files": {path: sha256}}.
Each command adds one link for what it wrote. A path named again holds what the last link says; null: given up.
Unlike snapshots, links hold the hashes of records with times and hosts: equal work gives different links.
A store written before there was a chain has none; its next command seals all that is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

from florence2.object_store import NoAnswer
from florence2.store import layout, sealed
from florence2.store.storage import Storage, next_number

Hashes = dict[str, str | None]
_READ: dict[Any, Any] = {}  # what was read of links, by place and stamp
R = TypeVar("R")
INSTEAD = "instead_of"  # what a link that could not be restored hashed to, in the one that was put in its place


def _is_sealed(data: bytes) -> bool:
    try:
        sealed.unseal(data)
    except ValueError:
        return False
    return True


class Chain:
    """The links of a store, read and added to."""

    def __init__(self, storage: Storage):
        self.storage = storage

    def read(self, path: str, remedy: str) -> dict[str, Any]:
        """A snapshot or a record of a run, read through its seal; Missing and Damaged say what to do.

        One without a seal, of an early version of the store, is taken where no link says otherwise.
        """

        def opened(data: bytes) -> dict[str, Any]:
            try:
                return sealed.unseal(data)
            except ValueError:
                expected = self.hashes().get(path) if self.storage.list(layout.CHAIN) else None
                early = not self.storage.list(layout.CHAIN) or hashlib.sha256(data).hexdigest() == expected
                if not early:
                    raise
                return sealed.unseal(data, unsealed=True)

        return sealed.read(self.storage, path, remedy, opened)

    def newest_snapshot(self) -> int:
        """The number of the newest snapshot that the last link knows of, 0 without any."""
        links = self.storage.list(layout.CHAIN)
        return int(self._read(links[-1])["snapshot"]) if links else 0

    def hashes(self) -> Hashes:
        """Every file the links name, with what it should hash to (None: given up). Damaged and Missing name a link."""
        out: Hashes = {}
        previous: tuple[str | None, ...] = (None,)
        for number in range(1, self._last() + 1):
            link = self._read(layout.chain(number))
            if link["previous"] not in previous:
                path, cause = self.damage()[0]
                raise sealed.Damaged(f"{self.storage.location(path)}: {cause}; {self._remedy()}")
            out.update(link["files"])
            previous = self._hash_of(number), link.get(INSTEAD) or ""
        return out

    def known(self) -> Hashes:
        """`hashes` of those links that are whole, whatever became of the others."""
        damaged = {path for path, _ in self.damage()}
        links = (path for path in self.storage.list(layout.CHAIN) if path not in damaged)
        return {name: sha256 for link in links for name, sha256 in self._read(link)["files"].items()}

    def damage(self) -> list[tuple[str, str]]:
        """(path, "missing" or "changed") of every link that is not whole, or not the one its neighbours know."""
        last = self._last()
        found: dict[int, str] = {}
        whole: dict[int, tuple[str, str | None, str]] = {}  # a link's hash, that of the one before, what it replaces
        for number in range(1, last + 1):
            try:
                data = self.storage.read(layout.chain(number))
                link = sealed.unseal(data)
                whole[number] = hashlib.sha256(data).hexdigest(), link["previous"], link.get(INSTEAD) or ""
            except FileNotFoundError:
                found[number] = "missing"
            except NoAnswer:
                raise  # it says nothing of the link
            except (ValueError, KeyError, OSError):
                found[number] = "changed"

        def fits(number: int) -> bool | None:
            """Whether a link is what the next one says; None where one of the two is lost."""
            if number == 0:
                return whole[1][1] is None if 1 in whole else None
            if not {number, number + 1} <= whole.keys():
                return None
            return whole[number + 1][1] in (whole[number][0], whole[number][2] or whole[number][0])

        for number in range(last):
            if fits(number) is False:  # of the two, the one that does not fit its other neighbour either
                later = number == 0 or (fits(number - 1) is True and fits(number + 1) is not True)
                found[number + 1 if later else number] = "changed"
        return [(layout.chain(number), found[number]) for number in sorted(found)]

    def extend(self, snapshot: int, written: Iterable[str] = (), given_up: Iterable[str] = ()) -> None:
        """Add a link for every whole file that none names yet, for those `written` anew, and for those `given_up`."""
        while True:
            known = self.hashes()
            new: Hashes = {path: None for path in given_up if known.get(path, "") is not None}
            for path in self._sealable():
                if path in new or (known.get(path) is not None and path not in written):
                    continue
                data = self.storage.read(path)
                try:
                    sealed.unseal(data, unsealed=not known)
                except ValueError:
                    continue  # was damaged before its first link: not sealed anew
                new[path] = hashlib.sha256(data).hexdigest()
            newest = max([snapshot, *(layout.number_of(p) for p in new if p.startswith(layout.SNAPSHOTS))])
            if self._add(newest, new):
                return

    def _add(self, snapshot: int, files: Hashes) -> bool:
        """Add a link; False where another process added one first."""
        number = next_number(self.storage, layout.CHAIN)
        previous = None
        if number > 1:
            previous = self._hash_of(number - 1)
            known = self._read(layout.chain(number - 1))["snapshot"]
            if not files and known >= snapshot:
                return True
            snapshot = max(snapshot, known)
        link = {"previous": previous, "snapshot": snapshot, "files": files}
        return self.storage.put_if_absent([(layout.chain(number), sealed.seal(link))])[0]

    def restore(self, path: str) -> bool:
        """Write a damaged or missing link again, to the byte, from what the others do not name; whether it could."""
        number = layout.number_of(path)
        others = [layout.number_of(p) for p in self.storage.list(layout.CHAIN) if p != path]
        if {*others, number} != set(range(1, max([*others, number]) + 1)):
            return False  # more than one is gone
        try:
            links = {n: self._read(layout.chain(n)) for n in others}
        except (sealed.Damaged, sealed.Missing):
            return False
        named = {name for link in links.values() for name in link["files"]}
        files = {name: self.storage.sha256(name) for name in self._sealable() if name not in named}
        previous = self._hash_of(number - 1) if number > 1 else None
        snapshots = [layout.number_of(n) for n in files if n.startswith(layout.SNAPSHOTS)]
        newest = max([*snapshots, links[number - 1]["snapshot"] if number > 1 else 0])
        data = sealed.seal({"previous": previous, "snapshot": newest, "files": files})
        after = links.get(number + 1)
        if after is not None and after["previous"] != hashlib.sha256(data).hexdigest():
            return False
        self.storage.discard(path)
        return self.storage.put_if_absent([(path, data)])[0]

    def substitute(self, path: str, damaged_files: Collection[str]) -> None:
        """Put a link over whole files that no other names in the place of one that is lost; the next stays as it is."""
        number, damaged = layout.number_of(path), dict(self.damage())
        named, files = self.known(), dict[str, str]()
        for name in self._sealable():
            data = self.storage.read(name)
            if name not in named and name not in damaged_files and _is_sealed(data):
                files[name] = hashlib.sha256(data).hexdigest()
        newest = [layout.number_of(name) for name in files if name.startswith(layout.SNAPSHOTS)]
        link = {"previous": self._hash_of(number - 1) if number > 1 else None, "snapshot": max(newest, default=0)}
        if number > 1:
            link["snapshot"] = max(link["snapshot"], self._read(layout.chain(number - 1))["snapshot"])
        after = layout.chain(number + 1)
        if after not in damaged and self.storage.exists(after):
            link[INSTEAD] = self._read(after)["previous"]
        self.storage.discard(path)
        self.storage.put_if_absent([(path, sealed.seal({**link, "files": files}))])

    def _sealable(self) -> list[str]:
        return [*self.storage.list(layout.SNAPSHOTS), *self.storage.list(layout.RUNS)]

    def _hash_of(self, number: int) -> str:
        path = layout.chain(number)
        return self._kept("hash", path, lambda: hashlib.sha256(self.storage.read(path)).hexdigest())

    def _last(self) -> int:
        return max(map(layout.number_of, self.storage.list(layout.CHAIN)), default=0)

    def _read(self, path: str) -> dict[str, Any]:
        return self._kept("link", path, lambda: sealed.read(self.storage, path, self._remedy()))

    def _kept(self, what: str, path: str, make: Callable[[], R]) -> R:
        """What was read of a link before, while its file is the same: every command goes through all of them."""
        try:
            key = what, self.storage.location(path), self.storage.stamp(path)
        except OSError:
            return make()
        if key not in _READ:
            _READ[key] = make()
        found: R = _READ[key]
        return found

    def _remedy(self) -> str:
        return f"florence2 verify {self.storage.location()} --repair writes it again"

"""The chain of hashes: which snapshots and records of runs a store has had, so that one that is gone is noticed.

`chain/000007.json` is {"previous": sha256 of link 6, "snapshot": the newest at that time, "files": {path: sha256}}.
Each command adds one link for what it wrote. A path named again holds what the last link says; null: given up.
Unlike snapshots, links hold the hashes of records with times and hosts: equal work gives different links.
A store written before there was a chain has none; its next command seals all that is there.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from florence2.object_store import NoAnswer
from florence2.store import layout, sealed
from florence2.store.storage import Storage, next_number

Hashes = dict[str, str | None]
_READ: dict[Any, Any] = {}  # what was read of links, by place and stamp
R = TypeVar("R")
INSTEAD = "instead_of"  # what a link that could not be restored hashed to, in the one that was put in its place


class _Hashes(NamedTuple):
    """What a link hashes to, what it says that the one before does, and what the one did that it took the place of."""

    sha256: str | None
    previous: str | None
    instead_of: str | None


def _is_number(value: Any) -> bool:
    """Whether a value can be the number of a snapshot, 0 for none: their names have six digits."""
    return type(value) is int and 0 <= value < 10**6


def _link(data: bytes) -> dict[str, Any]:
    """What a link says; ValueError where it is none: a stranger's may say anything under a right seal."""
    found = sealed.unseal(data)
    files = found.get("files")
    hashes = [found.get("previous"), found.get(INSTEAD), *(files.values() if isinstance(files, dict) else [files])]
    right = _is_number(found.get("snapshot")) and isinstance(files, dict) and "previous" in found
    if not right or not all(value is None or isinstance(value, str) for value in hashes):
        raise ValueError("it is no link of the chain")
    return found


def _in_place(links: Mapping[int, _Hashes]) -> set[int]:
    """The numbers of the links that are where they belong: the longest stretches that agree with each other.

    In a stretch each is what the next one says. Of two as long that do not agree, neither can be relied on.
    """
    stretches: list[list[int]] = []
    for number, link in sorted(links.items()):
        before = links.get(number - 1)
        if before is not None and link.previous in (before.sha256, before.instead_of):
            stretches[-1].append(number)
        else:
            stretches.append([number])
    placed: list[list[int]] = []

    def rank(stretch: list[int]) -> tuple[bool, int]:
        return stretch[0] != 0, -len(stretch)  # only the first link follows none

    for _, equals in itertools.groupby(sorted(stretches, key=rank), key=rank):
        group = [one for one in equals if all(_agree(links, one, other) for other in placed)]
        placed += [one for one in group if all(one is other or _agree(links, one, other) for other in group)]
    return {number for stretch in placed for number in stretch}


def _agree(links: Mapping[int, _Hashes], one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two stretches do not meet, and no hash is of one number in the one and of another in the other."""

    def numbers(stretch: Sequence[int]) -> dict[str | None, int]:
        found = {links[number].previous: number - 1 for number in stretch}
        return found | {sha256: number for number in stretch for sha256 in (links[number][0], links[number][2])}

    said = numbers(other)
    meet = one[-1] + 1 == other[0] or other[-1] + 1 == one[0]
    return not meet and all(said.get(sha256, number) == number for sha256, number in numbers(one).items())


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

    def newest_known(self) -> int:
        """`newest_snapshot` of those links that are whole, whatever became of the others."""
        return max((int(link["snapshot"]) for link in self._whole()), default=0)

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
        return {name: sha256 for link in self._whole() for name, sha256 in link["files"].items()}

    def _whole(self) -> list[dict[str, Any]]:
        damaged = {path for path, _ in self.damage()}
        return [self._read(path) for path in self.storage.list(layout.CHAIN) if path not in damaged]

    def damage(self) -> list[tuple[str, str]]:
        """(path, "missing" or "changed") of every link that is not whole, or not the one its neighbours know."""
        found: dict[int, str] = {}
        whole: dict[int, _Hashes] = {0: _Hashes(None, "", None)}  # before the first there is none
        for number in layout.up_to(map(layout.number_of, self.storage.list(layout.CHAIN))):
            try:
                data = self.storage.read(layout.chain(number))
                link, sha256 = _link(data), hashlib.sha256(data).hexdigest()
                whole[number] = _Hashes(sha256, link["previous"], link.get(INSTEAD) or sha256)
            except FileNotFoundError:
                found[number] = "missing"
            except NoAnswer:
                raise  # it says nothing of the link
            except (ValueError, OSError):
                found[number] = "changed"
        found.update(dict.fromkeys(whole.keys() - _in_place(whole), "changed"))
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

    def restore(self, path: str, lost: Collection[str] = ()) -> bool:
        """Write a damaged or missing link again, to the byte, from what the others do not name; whether it could.

        The next link says whether it is what it was. Nothing says so of the last one: it is made again where no other
        link is damaged, and of the other files none (`lost`) that it could have named.
        """
        number = layout.number_of(path)
        if any(damaged != path for damaged, _ in self.damage()):
            return False  # what is named by none may have been named by any of them
        named = self.known()
        files = {name: self.storage.sha256(name) for name in self._sealable() if name not in named}
        before = self._read(layout.chain(number - 1))["snapshot"] if number > 1 else 0
        newest = max([before, *(layout.number_of(name) for name in files if name.startswith(layout.SNAPSHOTS))])
        previous = self._hash_of(number - 1) if number > 1 else None
        data = sealed.seal({"previous": previous, "snapshot": newest, "files": files})
        if number < self._last():
            if self._read(layout.chain(number + 1))["previous"] != hashlib.sha256(data).hexdigest():
                return False
        elif not files or any(name not in named or not self.storage.exists(name) for name in lost):
            return False
        self.storage.discard(path)
        return self.storage.put_if_absent([(path, data)])[0]

    def substitute(self, paths: Collection[str], lost: Collection[str]) -> None:
        """Put links in the place of those that are lost, the others stay: the first names what no other one does.

        It names whole files only, none of the `lost`.
        """
        damaged = {path for path, _ in self.damage()} | set(paths)
        others = [self._read(path) for path in self.storage.list(layout.CHAIN) if path not in damaged]
        named = {name for link in others for name in link["files"]} | set(lost)
        for path in sorted(paths):
            read = {name: self.storage.read(name) for name in self._sealable() if name not in named}
            files = {name: hashlib.sha256(data).hexdigest() for name, data in read.items() if _is_sealed(data)}
            named.update(files)
            number = layout.number_of(path)
            before = self._read(layout.chain(number - 1))["snapshot"] if number > 1 else 0
            newest = max([before, *(layout.number_of(name) for name in files if name.startswith(layout.SNAPSHOTS))])
            link = {"previous": self._hash_of(number - 1) if number > 1 else None, "snapshot": newest}
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
        return self._kept("link", path, lambda: sealed.read(self.storage, path, self._remedy(), _link))

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

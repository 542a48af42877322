"""What became of the store's pictures since they came in: moved, changed, gone, back; and who is a duplicate now.

A picture is its bytes and its name below its source. A row whose file is elsewhere by the same name and hash is moved
there; one whose file is gone, or holds other bytes, is `missing` until they are back. The rows are written once more by
`revision`; what is new is left to be taken in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from florence2.engine.ingest.inspection import ImageCandidate, image_id
from florence2.engine.ingest.picture_times import PictureTimes
from florence2.engine.ingest.revision import CHANGED, GONE, Change, Extent, Revision, revise, revise_again
from florence2.engine.session import Session
from florence2.object_store import root_of
from florence2.pixels import BadImage
from florence2.sources import files
from florence2.store import ImageRow

HASHING = 4  # threads


@dataclass
class Life:
    """What was found: of a source's listing what may be taken in, what changed in place, and lines for the user."""

    listing: list[ImageCandidate]
    revision: Revision = field(default_factory=Revision)
    messages: list[str] = field(default_factory=list)


def follow(
    session: Session, times: PictureTimes, source: Path, listing: Sequence[ImageCandidate], complete: bool = False
) -> Life:
    """Write anew the rows of pictures that moved, changed, went or came back.

    `listing` is what a source holds now: all of it (`complete`), or some. Without one the store's own files are
    checked.
    """
    rows = image_rows(session)
    for candidate in listing:  # as they are now, before they are read: what is remembered of them later
        times.now(files.path_of(candidate.uri))
    if not rows:
        return Life(list(listing))
    life = _Comparison(rows, times, files.absolute_of(source), complete).all(listing)
    revise(session, life.revision)
    return life


def image_rows(session: Session) -> list[ImageRow]:
    """Every row of `images` as this command sees it, in order; those of damaged fragments are taken in once more."""
    out: list[ImageRow] = []
    for fragment in session.current().of("images"):
        try:
            out += session.store.image_rows(fragment)
        except ValueError:
            facts = session.store.run(fragment.run_id) if fragment.is_revised else None
            if facts is not None:
                revise_again(session, session.operators[fragment.run_id], facts)
                out += session.store.image_rows(fragment)
    return out


class _Comparison:
    """Compares the store's rows with what lies on the disk."""

    def __init__(self, rows: Sequence[ImageRow], times: PictureTimes, source: str, complete: bool):
        self.rows, self.times, self.source, self.complete = rows, times, source, complete
        self.here = {row.place: row for row in rows if row.status != "missing"}
        self.by_id = {row.id: row for row in rows}
        self.sizes = {row.bytes for row in rows}
        self.life = Life([])
        self.same: set[str] = set()  # ids of rows whose picture is there: where it was, or found again
        self.roots: dict[str, str] = {}  # folder -> where it is now

    def all(self, listing: Sequence[ImageCandidate]) -> Life:
        """Check each candidate, then the rows that no candidate matches."""
        pairs = [(c, self.here.get((c.uri, c.member, c.offset))) for c in listing]
        with ThreadPoolExecutor(HASHING) as threads:
            judged = list(threads.map(lambda pair: self._is_same(*pair) if pair[1] else False, pairs))
            new = []
            for (candidate, row), same in zip(pairs, judged):
                if row is not None and same:
                    self.same.add(row.id)
                    self.life.listing.append(candidate)
                elif row is not None and not candidate.reason and self._stamp(candidate.uri) is None:
                    pass  # listed, and not there: gone, below
                else:
                    new.append(candidate)
                    if row is not None:
                        self._set(row, "missing", CHANGED)
            self._found_again(new, list(threads.map(self._name_of, new)))
            own = [row for row in self.rows if row.id not in self.same | set(self.life.revision.rows)]
            own = [row for row in own if row.status != "missing" and not self._is_gone(row)]
            if not self.complete and not listing:
                kept = threads.map(lambda row: self._is_same(candidate_of(row, ""), row), own)
                for row, same in zip(own, list(kept)):
                    if not same:
                        self._set(row, "missing", CHANGED)
        self._gone()
        self._say()
        self._shorten()
        return self.life

    def _is_same(self, candidate: ImageCandidate, row: ImageRow) -> bool:
        """Whether a candidate at a row's place holds the row's picture."""
        if candidate.reason:
            return candidate.reason == row.reason
        if row.status == "failed" and not row.image.sha256:  # it could not be read
            return not _hash(candidate)
        if self.times.unchanged(files.path_of(candidate.uri)):
            return True
        return self._stamp(candidate.uri) is not None and _hash(candidate) == row.image.sha256

    def _name_of(self, candidate: ImageCandidate) -> str:
        """The id that a candidate would have, "" where no row can be of its bytes."""
        if candidate.reason or candidate.bytes not in self.sizes:
            return ""
        sha256 = _hash(candidate)
        return image_id(sha256, candidate.relative) if sha256 else ""

    def _found_again(self, new: Sequence[ImageCandidate], names: Sequence[str]) -> None:
        """Rows whose picture is at another place by the same name, or back; a folder that moved takes all along."""
        for candidate, name in zip(new, names):
            row = self.by_id.get(name)
            if row is None:
                self.life.listing.append(candidate)
                continue
            if name in self.same:
                continue  # the same picture once more under the same name
            if row.status != "missing" and name not in self.life.revision.rows and not self._is_gone(row):
                continue  # it is where it was, too
            extent = Extent(candidate.member, candidate.bytes, candidate.offset, candidate.length)
            self.same.add(name)
            self.life.listing.append(candidate)
            old = files.path_of(row.image.uri)
            status, _, reason = row.first_verdict.partition(" ")
            self.life.revision.rows[name] = Change(status, reason, candidate.uri, extent)
            if row.status == "missing" and row.reason == CHANGED:
                self.life.revision.back.append(name)
            self._moved_along(old, files.path_of(candidate.uri))

    def _moved_along(self, old: str, new: str) -> None:
        """Where a file's folder moved, what else the store knows below it is searched for in the new place."""
        try:
            inner = PurePosixPath(new).relative_to(self.source).as_posix()
        except ValueError:
            return
        root = old.removesuffix("/" + inner)
        if root != old and root != self.source:
            self.roots[root] = self.source

    def _is_gone(self, row: ImageRow) -> bool:
        path = files.path_of(row.image.uri)
        if self.complete and _is_below(path, self.source):
            return True  # whatever is listed was found above
        return row.status != "failed" and self.times.now(path) is None

    def _gone(self) -> None:
        changes = self.life.revision.rows
        for row in self.rows:
            known = row.id in self.same or row.id in changes
            if not known and row.status != "missing" and self._is_gone(row):
                self._set(row, "missing", GONE)
            place = self._moved_to(row)
            if place and row.id not in self.same and (row.status == "missing" or row.id in changes):
                same = changes.get(row.id) or Change(row.status, row.reason)
                changes[row.id] = replace(same, uri=files.uri_of(place))

    def _moved_to(self, row: ImageRow) -> str:
        path = files.path_of(row.image.uri)
        return next((new + path.removeprefix(old) for old, new in self.roots.items() if _is_below(path, old)), "")

    def _shorten(self) -> None:
        """One line for a folder that moved as a whole, in place of one for each of its pictures."""
        changes = self.life.revision.rows
        for old, new in self.roots.items():
            below = [row for row in self.rows if _is_below(files.path_of(row.image.uri), old)]
            if not all(row.id in changes and changes[row.id].uri for row in below):
                continue
            self.life.revision.moved[old] = new
            for row in below:
                change = changes[row.id]
                if files.path_of(change.uri) == self._moved_to(row):
                    changes[row.id] = replace(change, uri="")
                    if changes[row.id].apply(row) == row:
                        del changes[row.id]

    def _set(self, row: ImageRow, status: str, reason: str) -> None:
        self.life.revision.rows[row.id] = Change(status, reason)
        if reason == CHANGED:
            self.life.revision.changed.append(row.id)

    def _stamp(self, uri: str) -> Any:
        return self.times.now(files.path_of(uri))

    def _say(self) -> None:
        """A line for each kind of what happened, with a picture of it."""
        revision = self.life.revision
        kinds: dict[str, list[str]] = {}
        for name, change in revision.rows.items():
            row = self.by_id[name]
            if change.status != "missing":
                kinds.setdefault("found again, such as", []).append(f"{row.image.uri} at {change.uri}")
            elif row.status != "failed":
                word = "changed under their names" if change.reason == CHANGED else "gone"
                kinds.setdefault(f"{word}, such as", []).append(row.image.uri)
        self.life.messages += [f"{len(found)} pictures {what} {found[0]}" for what, found in kinds.items()]


def candidate_of(row: ImageRow, relative: str) -> ImageCandidate:
    """A row's picture as it would be listed."""
    ref = row.image
    return ImageCandidate(
        relative, ref.uri, ref.member, ref.offset, ref.length, row.bytes, ref.licence, row.split, row.origin
    )


def changed_candidates(session: Session, changed: Iterable[str]) -> dict[Path, list[ImageCandidate]]:
    """What lies now at the places of rows whose picture changed, by the source that it came from, to be taken in."""
    sources = _sources(session)
    out: dict[Path, list[ImageCandidate]] = {}
    wanted = set(changed)
    for row in image_rows(session):
        if row.id in wanted:
            source, relative = _relative(row, sources)
            path = files.path_of(row.image.uri)
            size = 0 if row.image.member else files.size_of(path)
            out.setdefault(source, []).append(replace(candidate_of(row, relative), bytes=size))
    return out


def _sources(session: Session) -> list[str]:
    runs = [session.store.run(o.run_id) for o in session.operators.values() if o.kind == "images"]
    return list(dict.fromkeys(start["source"] for run in runs if run for start in run["starts"] if "source" in start))


def _relative(row: ImageRow, sources: Sequence[str]) -> tuple[Path, str]:
    """A row's source and its name below it: the one by which it got its id; else its file's folder and name."""
    path = files.path_of(row.image.uri)
    member = f"/{row.image.member}" if row.image.member else ""
    for source in (*sources, os.path.dirname(path)):
        inner = os.path.relpath(path, source) if path != source else ""
        for relative in (row.origin, f"{inner}{member}".lstrip("/")):
            if relative and image_id(row.image.sha256, relative) == row.id:
                return root_of(source), relative
    return root_of(os.path.dirname(path)), f"{os.path.basename(path)}{member}"


def relocate(session: Session, old: str, new: str) -> tuple[int, list[str]]:
    """Say that what lay below `old` lies below `new`; returns how many pictures that is, and the places of the absent.

    An archive's pictures are where it is.
    """
    old, new = files.absolute_of(old), files.absolute_of(new)
    rows = [row for row in image_rows(session) if _is_below(files.path_of(row.image.uri), old)]
    revision = Revision(moved={old: new})
    absent = []
    for row in rows:
        place = new + files.path_of(row.image.uri).removeprefix(old)
        if not files.is_there(place):
            absent.append(place)
        elif row.status == "missing" and row.reason == GONE:
            status, _, reason = row.first_verdict.partition(" ")
            revision.rows[row.id] = Change(status, reason)
    if rows:
        revise(session, revision)
    return len(rows), absent


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _hash(candidate: ImageCandidate) -> str:
    """The SHA-256 of a candidate's bytes, "" where they cannot be read."""
    try:
        return hashlib.sha256(files.bytes_or_no_answer(candidate.ref())).hexdigest()
    except BadImage:
        return ""

"""Rows of `images` written once more: pictures that moved, went, changed or came back. The rows that were stay, too.

A revised fragment takes the place of one whose units it holds, in the snapshot that ends the command; it lies with the
compacted files, so that the four tables hold each picture once. Annotations of earlier bytes are superseded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from florence2.engine.operator import digest, run_id
from florence2.engine.session import ANNOTATORS, ASKED_AGAIN, HUMAN, PICTURES, Session
from florence2.records import Decision, Sample
from florence2.sources import files
from florence2.store import Fragment, ImageRow, Operator, pending

NAME, VERSION = PICTURES, "1"
GONE, CHANGED, BACK = "missing", "picture_changed", "picture_back"


@dataclass(frozen=True)
class Extent:
    """Where in its file a picture lies, and of how many bytes it is; `ImageCandidate`'s fields."""

    member: str
    bytes: int
    offset: int
    length: int


@dataclass(frozen=True)
class Change:
    """What is new of a picture's row: its status, and its place where that is another ("" and None: as it was)."""

    status: str
    reason: str = ""
    uri: str = ""
    extent: Extent | None = None

    def apply(self, row: ImageRow) -> ImageRow:
        """The row with what is new."""
        image = replace(row.image, uri=self.uri or row.image.uri)
        size = row.bytes
        if self.extent is not None:
            place = {name: getattr(self.extent, name) for name in ("member", "offset", "length")}
            image, size = replace(image, **place), self.extent.bytes
        made = replace(row, image=image, bytes=size, status=self.status, reason=self.reason)
        return replace(made, earlier=row.first_verdict if row.first_verdict != made.verdict else "")

    def to_json(self) -> dict[str, Any]:
        """By column, as runs/ keeps it."""
        out: dict[str, Any] = {"status": self.status, "reason": self.reason or None}
        if self.uri:
            out["uri"] = self.uri
        if self.extent is not None:
            known = {name: v if v >= 0 else None for name, v in vars(self.extent).items() if name != "member"}
            out |= {**known, "member": self.extent.member or None}
        return out

    @classmethod
    def from_json(cls, columns: Mapping[str, Any]) -> Change:
        """What `to_json` wrote."""
        extent = None
        if "bytes" in columns:
            offset, length = (-1 if columns[name] is None else columns[name] for name in ("offset", "length"))
            extent = Extent(columns["member"] or "", columns["bytes"], offset, length)
        return cls(columns["status"], columns["reason"] or "", columns.get("uri") or "", extent)


@dataclass
class Revision:
    """What is new of rows by image id, folders that moved, and whose annotations are superseded or kept again."""

    rows: dict[str, Change] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)  # folder -> where it is now
    changed: list[str] = field(default_factory=list)  # ids of pictures whose bytes are others now
    back: list[str] = field(default_factory=list)  # ids of those whose bytes are what they were, again
    answers: dict[str, list[str]] = field(default_factory=dict)  # image id -> annotations that a later answer replaces

    def apply(self, row: ImageRow) -> ImageRow:
        """A row as it is now."""
        change = self.rows.get(row.id)
        path = files.path_of(row.image.uri)
        for old, new in self.moved.items():
            if not (change and change.uri) and (path == old or path.startswith(old + "/")):
                same = change or Change(row.status, row.reason)
                change = replace(same, uri=files.uri_of(new + path.removeprefix(old)))
        return row if change is None else change.apply(row)

    def to_json(self) -> dict[str, Any]:
        """As runs/ keeps it."""
        return {**vars(self), "rows": {name: change.to_json() for name, change in self.rows.items()}}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Revision:
        """What `to_json` wrote; other facts are passed over."""
        known = {key: facts[key] for key in ("moved", "changed", "back", "answers")}
        return cls({name: Change.from_json(columns) for name, columns in facts["rows"].items()}, **known)


def revise(session: Session, revision: Revision) -> None:
    """Write the fragments of `images` that a revision touches, and the verdicts that follow from it."""
    todo: list[tuple[Fragment, list[ImageRow]]] = []
    for fragment in session.current().of("images") if revision.rows or revision.moved else ():
        try:
            old = session.store.image_rows(fragment)
        except ValueError:
            continue  # damaged: taken in once more, as it is now
        new = [revision.apply(row) for row in old]
        if new != old:
            todo.append((fragment, new))
    if not todo and not revision.answers:
        return
    facts = {**revision.to_json(), "of": {fragment.path: list(fragment.units) for fragment, _ in todo}}
    round = max(session.newest_round("decisions"), 0)
    seq = 1 + session.store.newest_seq(round, session.current())
    made_by = digest([NAME, VERSION, facts, round, seq])
    operator = Operator(
        run_id(made_by, round), ASKED_AGAIN if revision.answers else NAME, VERSION, made_by, round, NAME
    )
    session.start(operator, {**facts, "seq": seq}, {})
    for fragment, rows in todo:
        session.add([_put(session, operator, fragment, rows)])
    write_verdicts(session, operator, revision, seq)


def _put(session: Session, operator: Operator, fragment: Fragment, rows: list[ImageRow]) -> Fragment:
    about = {"operator": NAME, "version": VERSION, "of": fragment.path}
    made = pending.revised_images_of(operator, _key(operator, fragment.path), fragment, rows, about)
    return session.store.put_all([made])[0]


def _key(operator: Operator, path: str) -> str:
    return digest([operator.fingerprint, path])


def write_verdicts(session: Session, operator: Operator, revision: Revision, seq: int) -> None:
    """Supersede annotations of pictures that changed, and annotations that a later attempt replaces.

    Annotations of pictures that are back have their earlier verdicts again.
    """
    changed, back = frozenset(revision.changed), frozenset(revision.back)
    touching = changed.union(back, (image for image, names in revision.answers.items() if names))
    if not touching:
        return
    runs = [o.run_id for o in session.operators.values() if o.kind in ANNOTATORS]
    for unit in session.all_units():
        touched = tuple(s for s in unit.samples if s.image.id in touching)
        if not touched:
            continue
        verdicts: list[tuple[str, Decision]] = []
        inputs = session.inputs(replace(unit, samples=touched), runs, operator, seq)
        for sample in inputs.load(session.store):
            found = _superseded(sample, revision.answers.get(sample.image.id))
            if sample.image.id not in changed and sample.image.id in back:
                found = _returned(sample)
            signed = (
                replace(d, rule=d.rule if d.rule == HUMAN else NAME, round=operator.round, seq=seq) for d in found
            )
            verdicts += [(sample.image.id, decision) for decision in signed]
        if verdicts:
            made = pending.decisions_of(operator, inputs.uid(operator), unit.uid, verdicts)
            if not session.done(made.path, [unit.uid], operator.run_id):
                session.add(session.store.put_all([made]))


def _superseded(sample: Sample, only: Collection[str] | None) -> list[Decision]:
    last = {d.item_id: d for d in sample.decisions}
    items = [item.id for item in sample.items() if only is None or item.id in only]
    reason = CHANGED if only is None else ASKED_AGAIN
    return [Decision(name, "superseded", NAME, reason) for name in items if not _was_superseded(last.get(name))]


def _returned(sample: Sample) -> list[Decision]:
    last = {d.item_id: d for d in sample.decisions}
    before = {d.item_id: d for d in sample.decisions if d.rule != NAME}
    names = [item.id for item in sample.items() if _was_superseded(last.get(item.id), CHANGED)]
    return [before[name] if name in before else Decision(name, "kept", NAME, BACK) for name in names]


def _was_superseded(decision: Decision | None, reason: str = "") -> bool:
    superseded = decision is not None and (decision.rule, decision.status) == (NAME, "superseded")
    return superseded and (not reason or (decision is not None and decision.reason == reason))


def revise_again(session: Session, operator: Operator, facts: Mapping[str, Any]) -> None:
    """Write again what a revision wrote and is lacking, from what its run says."""
    revision = Revision.from_json(facts)
    for path, units in facts["of"].items():
        lies = pending.revised_path(_key(operator, path))
        if not session.done(lies, units, operator.run_id):
            rows = session.store.image_rows(Fragment(path, 0, "", tuple(units)))
            session.add([_put(session, operator, Fragment(path, 0, "", tuple(units)), list(map(revision.apply, rows)))])
    write_verdicts(session, operator, revision, facts["seq"])

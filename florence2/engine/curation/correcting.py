"""A person's corrections of single pictures, made one at a time, by several people at once.

A correction is what one person did to one picture: verdicts on its annotations, changed and new ones, labels for which
it is complete. It is entered as a reviewer's file is (`human_verdicts`), as a whole or not at all, on the newest
snapshot; its name is ROUND.SEQ, the place of its verdicts. Nothing is overwritten: undoing one brings further verdicts,
which leave each item as it was before, and is itself a correction.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Union, cast

from florence2 import geometry
from florence2.engine.curation import human_verdicts
from florence2.engine.curation.human_verdicts import AnyItem, HumanRows, PictureChanges, last_verdicts, place_of
from florence2.engine.execution.provenance import attach_provenance
from florence2.engine.operator import digest, run_id
from florence2.engine.session import HUMAN, Session, retry_when_stale
from florence2.labels import fold_spaces, is_unicode
from florence2.records import (
    DETAILS,
    REGION_KINDS,
    Coverage,
    Decision,
    ImageRef,
    Item,
    Parsed,
    Region,
    Sample,
    Source,
    Text,
)
from florence2.store import ImportMetadata, Operator, PictureIndex, PictureState, Store, pending

NAME, VERSION = human_verdicts.CORRECTED, "1"
VERDICTS = ("kept", "rejected", "changed", "added")
UNDONE = "undone"  # a reason; and the rule that leaves an item that nobody had judged as it was
MADE = ("added", "changed")  # reasons of the verdicts that come with new items
LETTERS = 20_000  # of a label or text
NAME_LETTERS = 100
CHANGES = 20_000  # in one correction
POINTS = 20_000  # of one outline


class CorrectionRefused(ValueError):
    """A correction that cannot be entered; `field` names what is wrong in it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class NotInStore(CorrectionRefused):
    """It is about a picture, annotation or correction that the newest snapshot does not hold."""


class Overtaken(CorrectionRefused):
    """What it is about was changed meanwhile."""


@dataclass(frozen=True)
class AnnotationChange:
    """One verdict: `kept` or `rejected`, `changed` (what is given here takes the place of what was), or `added`."""

    verdict: str
    ann_id: str = ""
    """Whose verdict it is; empty for what is added."""
    seen: str | None = None
    """ROUND.SEQ of its last verdict as the person saw it ("" where there was none); None: whatever it is."""
    label: str | None = None
    """Of a region: its label, or the text read there."""
    text: str | None = None
    """Of a text about the picture."""
    box: tuple[float, ...] | None = None
    quad: tuple[float, ...] | None = None
    polygons: tuple[tuple[float, ...], ...] | None = None
    kind: str = "object"
    """Of what is added: object, text (a word that is read) or one of the details of a text about the picture."""


@dataclass(frozen=True)
class Correction:
    """What one person did to one picture. With `undoes`, the name of one of its corrections, nothing else is given."""

    person: str
    image_id: str
    changes: tuple[AnnotationChange, ...] = ()
    complete: tuple[str, ...] = ()
    """Labels of which the picture holds every object, so that another box is wrong."""
    incomplete: tuple[str, ...] = ()
    """Labels of which it is no longer said."""
    undoes: str = ""


@dataclass(frozen=True)
class Corrected:
    """A correction that stands in the store: its name, the snapshot, for each change the annotation now."""

    image_id: str
    name: str
    snapshot: int
    ann_ids: tuple[str, ...] = ()


Outcome = Union[Corrected, CorrectionRefused]


@retry_when_stale
def correct(
    store: Store, corrections: Sequence[Correction], index: PictureIndex | None = None
) -> tuple[list[Outcome], PictureIndex]:
    """Enter corrections, each on what those before it left; one outcome each, and the index of the newest snapshot.

    Those that are refused hold up no others. All that stand do so in one snapshot, on top of whatever other people and
    commands have added meanwhile. `index`, of any earlier snapshot, saves reading the store anew.
    """
    session = Session(store)
    index = store.picture_index(session.base) if index is None else index.follow(session.base)
    batch = _Batch(session, index)
    outcomes: list[Outcome] = []
    for number, correction in enumerate(corrections):
        try:
            outcomes.append(batch.enter(correction))
        except CorrectionRefused as refused:
            outcomes.append(refused if refused.field else CorrectionRefused(f"corrections[{number}]", str(refused)))
    if batch.entered:
        made = session.finish({"phase": "correct", "round": batch.round, "corrections": batch.entered})
        index = index.follow(made)
        outcomes = [dataclasses.replace(o, snapshot=made.number) if isinstance(o, Corrected) else o for o in outcomes]
    return outcomes, index


class _Batch:
    """Corrections on their way into one snapshot."""

    def __init__(self, session: Session, index: PictureIndex) -> None:
        self.session, self.index = session, index
        self.round = max(session.newest_round("decisions"), 0)
        self.seq = session.store.newest_seq(self.round, session.base)
        self.entered = 0
        self._states: dict[str, PictureState] = {}  # of pictures that this batch has changed

    def enter(self, correction: Correction) -> Corrected:
        """Enter one; CorrectionRefused says why not, and then nothing of it is."""
        person = _person(correction.person)
        state = self._states.get(correction.image_id) or self.index.state(correction.image_id)
        if state is None:
            raise NotInStore("image_id", f"the store has no picture {correction.image_id!r:.80}")
        if state.row.status != "ok":
            raise CorrectionRefused("image_id", f"expected a good picture; this one is {state.row.verdict}")
        stated = (one.correction.partition(".") for one in state.stated)  # without a verdict of its own, some of them
        newest = max((int(seq) for round, _, seq in stated if round == str(self.round)), default=-1)
        operator, seq = self._operator(person), 1 + max(self.seq, newest)
        name = f"{self.round}.{seq}"
        uid = digest([NAME, operator.run_id, name, correction.image_id, dataclasses.asdict(correction)])
        rows = HumanRows(operator, seq, person, uid)
        if correction.undoes:
            corrections = {o.run_id for o in self.session.operators.values() if o.name == NAME}
            verdicts, statement = _undoing(state, correction, name, corrections)
            rows.judge(correction.image_id, verdicts)
            ann_ids: list[str] = []
        else:
            asked = _once(state, correction.changes, self.index, person)
            changes = _changes(state, asked, self.index)
            statement = _statement(state, correction, self.index, name)
            if statement is None and not correction.changes:
                raise CorrectionRefused("changes", "expected a verdict or labels that are complete, got none")
            if statement is None and (first := human_verdicts.sent_before(state.sample, correction.changes, asked)):
                return Corrected(correction.image_id, first, self.index.snapshot.number, tuple(o.ann_id for o in asked))
            new_ids = iter(_added(rows, state.sample, changes))
            made = {old.id for _, old in changes.new if old is not None} | {""}
            ann_ids = [next(new_ids) if one.ann_id in made else one.ann_id for one in asked]
        self._commit(operator, uid, state, rows, statement)
        self.seq = seq
        self.entered += 1
        return Corrected(correction.image_id, name, 0, tuple(ann_ids))

    def _operator(self, person: str) -> Operator:
        """A person's work in a round is one run."""
        made_by = digest([NAME, VERSION, person])
        made = ("region_text/object", "text")
        return Operator(run_id(made_by, self.round), NAME, VERSION, made_by, self.round, HUMAN, made)

    def _commit(
        self, operator: Operator, uid: str, state: PictureState, rows: HumanRows, statement: ImportMetadata | None
    ) -> None:
        if operator.run_id not in self.session.operators:
            self.session.start(operator, {"person": rows.source.name, "reads": []}, {})
        unit, image = state.row.unit, state.row.id
        found = [pending.decisions_of(operator, uid, unit, rows.decisions)] if rows.decisions else []
        if statement is not None or any(sample.items() for sample in rows.annotated):
            metadata = {image: statement} if statement is not None else {}
            found.append(pending.annotations_of(operator, uid, unit, rows.annotated, metadata=metadata))
        self.session.add(self.session.store.put_all(found))
        sample, more = state.sample, [decision for _, decision in rows.decisions]
        for new in rows.annotated:
            sample = dataclasses.replace(
                sample, regions=(*sample.regions, *new.regions), texts=(*sample.texts, *new.texts)
            )
        sample = dataclasses.replace(sample, decisions=(*sample.decisions, *more))
        stated = state.stated if statement is None else (*state.stated, statement)
        if statement is not None:
            sample = dataclasses.replace(sample, coverage={**sample.coverage, **statement.coverage})
        runs = (*state.runs, *(operator.run_id for _ in more))
        self._states[image] = PictureState(state.row, sample, runs, stated)


def _added(rows: HumanRows, sample: Sample, changes: PictureChanges) -> list[str]:
    try:
        return rows.add(sample, changes)
    except ValueError as error:  # a shape that is none
        raise CorrectionRefused("changes", str(error)) from None


def _person(name: str) -> str:
    name = fold_spaces(name)
    if not name or len(name) > NAME_LETTERS or not is_unicode(name) or not name.isprintable():
        raise CorrectionRefused("person", f"expected your name, in 1 to {NAME_LETTERS} letters, got {name!r:.120}")
    return name


def _once(state: PictureState, asked: Sequence[AnnotationChange], index: PictureIndex, person: str) -> tuple[Any, ...]:
    """The changes; what is added a second time, as where a connection dropped before the answer, confirms the first."""
    theirs, out = human_verdicts.said_by(person, state.sample), list(asked)
    for number, change in enumerate(asked):
        if change.verdict == "added" and theirs:
            made = _made(change, f"changes.{number}", index, state.row.image.size_wh)
            if twin := human_verdicts.take_same(theirs, made):
                out[number] = AnnotationChange("kept", twin.id)
    return tuple(out)


def _changes(state: PictureState, changes: Sequence[AnnotationChange], index: PictureIndex) -> PictureChanges:
    """The changes as they are entered, each checked against what the picture holds now."""
    if len(changes) > CHANGES:
        raise CorrectionRefused("changes", f"expected at most {CHANGES:,}, got {len(changes):,}")
    out = PictureChanges()
    items: dict[str, Item] = {item.id: item for item in state.sample.items()}
    last = last_verdicts(state.sample)
    judged: set[str] = set()
    for number, change in enumerate(changes):
        where = f"changes.{number}"
        if change.verdict not in VERDICTS:
            raise CorrectionRefused(f"{where}.verdict", f"expected {', '.join(VERDICTS)}; got {change.verdict!r:.40}")
        if change.verdict == "added":
            out.new.append((_made(change, where, index, state.row.image.size_wh), None))
            continue
        item = items.get(change.ann_id)
        if item is None:
            raise NotInStore(f"{where}.ann_id", f"the picture has no annotation {change.ann_id!r:.60}")
        if item.id in judged:
            raise CorrectionRefused(f"{where}.ann_id", f"{item.id} is judged twice; give one verdict on it")
        judged.add(item.id)
        _check_seen(change, last.get(item.id), where)
        given = [name for name in ("label", "text", "box", "quad", "polygons") if getattr(change, name) is not None]
        if given and change.verdict != "changed":
            raise CorrectionRefused(f"{where}.{given[0]}", f"`{change.verdict}` changes nothing else; `changed` does")
        if change.verdict == "kept":
            out.confirmed.append(item)
        elif change.verdict == "rejected":
            out.deleted.append(item)
        else:
            edited = _edited(item, change, where, index, state.row.image.size_wh)
            if edited == item:
                out.confirmed.append(item)
            else:
                out.new.append((edited, cast(AnyItem, item)))
    return out


def _check_seen(change: AnnotationChange, last: Decision | None, where: str) -> None:
    """Overtaken where the person saw another state of the annotation, or another person's work took its place."""
    if change.seen is not None and change.seen != place_of(last):
        what = f"is {last.status} now ({last.reason or last.rule})" if last else "has no verdict now"
        raise Overtaken(f"{where}.ann_id", f"{change.ann_id} {what}: it was judged meanwhile; look at it again")
    if last is not None and (last.status, last.rule) == ("superseded", HUMAN):
        raise Overtaken(f"{where}.ann_id", f"{change.ann_id} was replaced by {last.by_id}; judge that one")


def _made(change: AnnotationChange, where: str, index: PictureIndex, size_wh: tuple[int, int]) -> Region | Text:
    """A new item."""
    if change.ann_id:
        raise CorrectionRefused(f"{where}.ann_id", "what is added has none yet; leave it out")
    if change.kind in REGION_KINDS:
        label = _label(change.label, f"{where}.label", change.kind, index)
        space = (index.space_of(label) or NAME) if change.kind == "object" else ""
        region = Region(kind=change.kind, label=label, label_space=space)
        if change.box is None and change.quad is None and change.polygons is None:
            raise CorrectionRefused(where, "expected a box, a quad or polygons")
        return _shaped(region, change, where, size_wh)
    if change.kind not in DETAILS:
        kinds = ", ".join((*REGION_KINDS, *DETAILS))
        raise CorrectionRefused(f"{where}.kind", f"expected one of {kinds}; got {change.kind!r:.40}")
    return Text(text=_letters(change.text, f"{where}.text", required=True), detail=change.kind)


def _edited(item: Item, change: AnnotationChange, where: str, index: PictureIndex, size_wh: tuple[int, int]) -> Any:
    """The item with what a change gives; what it leaves out stays."""
    if isinstance(item, Text):
        if change.text is None or change.label is not None:
            raise CorrectionRefused(f"{where}.text", "expected the new text of a text")
        return dataclasses.replace(item, text=_letters(change.text, f"{where}.text", required=True))
    if not isinstance(item, Region):
        raise CorrectionRefused(f"{where}.verdict", "a phrase of a text can be kept or rejected")
    if change.text is not None:
        raise CorrectionRefused(f"{where}.text", "a region has a label; give that")
    if all(value is None for value in (change.label, change.box, change.quad, change.polygons)):
        raise CorrectionRefused(where, "expected what changes: label, box, quad or polygons")
    if change.label is not None:
        item = dataclasses.replace(item, label=_label(change.label, f"{where}.label", item.kind, index))
    return _shaped(item, change, where, size_wh)


def _shaped(region: Region, change: AnnotationChange, where: str, size_wh: tuple[int, int]) -> Region:
    """The region in the shape that is given, cut at the picture's edges: of several the finest; a box alone drops an
    outline it no longer fits."""
    if not (change.polygons or change.quad or change.box):
        return region
    if sum(map(len, change.polygons or ())) > POINTS:
        raise CorrectionRefused(f"{where}.polygons", f"expected at most {POINTS:,} numbers")
    polygons, quad = tuple(change.polygons or ()), tuple(change.quad or ())
    box = None if polygons or quad else tuple(change.box or ())
    field = where if box is None else f"{where}.box"
    bare = Region(label=region.label, polygons=polygons, quad=quad, box=cast(Any, box))
    try:
        parsed, image = Parsed((), (bare,)), ImageRef("", width=size_wh[0], height=size_wh[1])
        (bare,) = attach_provenance(parsed, Sample("", image), Source(HUMAN, NAME), "").regions
    except ValueError as error:
        raise CorrectionRefused(field, str(error)) from None
    outlines = bare.polygons or ((bare.quad,) if bare.quad else (geometry.box_quad(bare.box or ()),))
    if not human_verdicts.has_area(outlines):
        given = list(box or quad or polygons[0])
        raise CorrectionRefused(
            field, f"expected a shape with an area inside the picture of {size_wh[0]} x {size_wh[1]}, got {given!r:.80}"
        )
    box = geometry.polygon_box(*outlines)
    return dataclasses.replace(region, polygons=bare.polygons, quad=bare.quad, mask=None, box=box)


def _label(text: str | None, field: str, kind: str, index: PictureIndex) -> str:
    """A category as the store writes it, a new one with its white space folded; or the words of a text, as they are."""
    text = _letters(text, field, required=kind == "object")
    if kind != "object" or index.codes["label"].find(text) >= 0:
        return text
    text = fold_spaces(text)
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        raise CorrectionRefused(field, f"expected a label without control characters, got {text!r:.60}")
    return text


def _letters(text: str | None, field: str, required: bool) -> str:
    if text is None or (required and not text.strip()):
        raise CorrectionRefused(field, "expected a text, got none")
    if len(text) > LETTERS or not is_unicode(text):
        raise CorrectionRefused(field, f"expected valid Unicode of at most {LETTERS:,} letters")
    return text


def _statement(state: PictureState, correction: Correction, index: PictureIndex, name: str) -> ImportMetadata | None:
    """What the picture's coverage is from now on, in the label spaces that are concerned; None: as before."""
    both = set(correction.complete) & set(correction.incomplete)
    if both:
        raise CorrectionRefused("complete", f"{min(both)!r:.60} is also in `incomplete`; name it once")
    coverage: dict[str, tuple[Coverage, ...]] = {}
    for field, labels in (("complete", correction.complete), ("incomplete", correction.incomplete)):
        for number, label in enumerate(dict.fromkeys(labels)):
            label = _label(label, f"{field}.{number}", "object", index)
            space = _space_in(state.sample, label) or index.space_of(label) or NAME
            states = coverage.get(space, tuple(state.sample.coverage.get(space, ())))
            coverage[space] = _stated(states, label, field == "complete")
    changed = {s: states for s, states in coverage.items() if states != tuple(state.sample.coverage.get(s, ()))}
    if not changed and coverage and not correction.changes:
        changed = coverage  # said once more
    return ImportMetadata("", changed, name) if changed else None


def _stated(states: Iterable[Coverage], label: str, complete: bool) -> tuple[Coverage, ...]:
    """A space's states where all objects of a label are, or are no longer, said to be there."""
    out, whole = [], None
    for one in states:
        if one.state == "exhaustive" and whole is None:
            whole = one
        else:
            out.append(one)
    if whole is not None and not whole.labels:  # the whole space
        if not complete:
            raise CorrectionRefused(
                "incomplete", f"{label!r:.60}: the set that the picture came with states all of its labels in full"
            )
        return tuple(states)
    known = [each for each in (whole.labels if whole is not None else ()) if each != label]
    labels = sorted({*known, *([label] if complete else [])})
    return (*([Coverage("exhaustive", tuple(labels))] if labels else []), *out)


def _space_in(sample: Sample, label: str) -> str:
    return next(
        (r.label_space for r in sample.regions if r.kind == "object" and r.label == label and r.label_space), ""
    )


def _undoing(
    state: PictureState, correction: Correction, name: str, corrections: Collection[str]
) -> tuple[list[Decision], ImportMetadata | None]:
    """The verdicts and the statement that leave everything as it was before one of the picture's corrections.

    What it said must be what stands now: what came since was undone. `corrections`: the runs that are people's.
    """
    if correction.changes or correction.complete or correction.incomplete:
        raise CorrectionRefused("undoes", "expected nothing else beside it")
    wanted, verdicts, found = correction.undoes, list[Decision](), False
    history: dict[str, list[Decision]] = {}
    for decision in state.sample.decisions:
        history.setdefault(decision.item_id, []).append(decision)
    made = {item.id for item in state.sample.items() if item.source is not None and item.source.kind == HUMAN}
    for item_id, judged in history.items():
        at = next((n for n, d in enumerate(judged) if place_of(d) == wanted), None)
        if at is None:
            continue
        found = True
        if dataclasses.replace(judged[-1], round=judged[at].round, seq=judged[at].seq) != judged[at]:
            raise Overtaken("undoes", f"{item_id} was judged again since; undo that first")
        if at:
            verdicts.append(judged[at - 1])
        elif judged[at].status == "kept" and judged[at].reason in MADE and item_id in made:
            verdicts.append(Decision(item_id, "rejected", HUMAN, UNDONE))
        else:
            verdicts.append(Decision(item_id, "kept", UNDONE, UNDONE))
    statement = _earlier_statement(state, wanted, name)
    if not found and statement is None:
        raise NotInStore("undoes", f"the picture has no correction {wanted!r:.40}")
    if not {state.runs[n] for n, d in enumerate(state.sample.decisions) if place_of(d) == wanted} <= set(corrections):
        raise CorrectionRefused("undoes", f"{wanted} is no correction, but the work of a command")
    return verdicts, statement


def _earlier_statement(state: PictureState, wanted: str, name: str) -> ImportMetadata | None:
    """The coverage that there was before a correction, of the spaces that it states; None where it states none."""
    for number, one in enumerate(state.stated):
        if one.correction == wanted:
            if any(state.sample.coverage.get(space, ()) != states for space, states in one.coverage.items()):
                raise Overtaken("undoes", "what the picture is complete for was stated again since; undo that first")
            before = state.coverage_before(number)
            return ImportMetadata("", {space: before.get(space, ()) for space in one.coverage}, name)
    return None

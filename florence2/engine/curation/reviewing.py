"""A reviewer's changes: what a person deleted, changed, added or left as it was in an export comes back as verdicts.

A picture of the file is complete for the labels of its export (else for all that the file uses): what the export held
of them and the file lacks was deleted. A person's verdicts have the rule `human`; filters do not judge what it keeps,
nor reopen what it rejects. The pictures reviewed become exhaustive for these labels. A picture of which the file holds
something that cannot be read stays as it was: what it seems to lack may be that.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from florence2 import geometry
from florence2.engine.curation.human_verdicts import OUTCOMES, REVIEWED, AnyItem, HumanRows, PictureChanges, has_area
from florence2.engine.inputs import UnitInputs
from florence2.engine.operator import digest, run_id
from florence2.engine.session import ANNOTATORS, HUMAN, Session
from florence2.formats import export_files
from florence2.formats.reviews import Review, Reviewed
from florence2.records import Coverage, Region, Sample, Text, to_json
from florence2.sources import files
from florence2.store import ImportMetadata, Operator, Unit, pending

NAME, VERSION = REVIEWED, "2"
SAME_PX = 0.5  # pixels that a corner may differ by, for writing and reading percents
AGREE = 0.5  # IoU from which a box without a name is a box of the export that was moved
RELABELLED = 0.9  # IoU from which it is one with another label
SHOWN = 20  # pictures that a line of the report names
HOLDS = frozenset(("texts", "regions", "split", "licence", "source"))


@dataclasses.dataclass(frozen=True)
class Scope:
    """What a reviewer's pictures of one export cover: what it held of them, which labels, and their label spaces."""

    exported: Mapping[str, Sample]
    labels: Collection[str]
    spaces: Mapping[str, str]

    def covers(self, item: AnyItem, reviewed: Sample) -> bool:
        """Whether the lack of an exported item means that it was deleted."""
        if isinstance(item, Text):
            return False
        if item.kind == "text":  # words are complete where the person's annotation holds any
            return any(region.kind == "text" for region in reviewed.regions)
        return item.label in self.labels

    def coverage(self) -> dict[str, tuple[Coverage, ...]]:
        """What a person's review means for the absence of labels."""
        out: dict[str, list[str]] = {}
        for label in sorted(self.labels):
            out.setdefault(self.spaces.get(label, NAME), []).append(label)
        return {space: (Coverage("exhaustive", tuple(labels)),) for space, labels in out.items()}


@dataclasses.dataclass
class ReviewReport:
    """What came of a reviewer's file: counts of pictures, and of items deleted, changed, added and confirmed.

    By their names the pictures that nothing was entered of, as the store does not hold them, not all of them could be
    read, or two entries differ on them; and those of which the later of two entries was entered.
    """

    counts: Counter[str] = dataclasses.field(default_factory=Counter)
    unknown: list[str] = dataclasses.field(default_factory=list)
    unread: list[str] = dataclasses.field(default_factory=list)
    refused: list[str] = dataclasses.field(default_factory=list)
    """What of those that could not be read is no annotation, a line each."""
    disputed: list[str] = dataclasses.field(default_factory=list)
    later: list[str] = dataclasses.field(default_factory=list)
    before: bool = False
    """Whether the same file was entered before: nothing was added."""

    def lines(self) -> list[str]:
        """The report for the screen, the sum last."""
        out = []
        if self.unknown:
            out.append(f"{len(self.unknown)} pictures are none of the store's and are left out")
        out += [f"left out: {line}" for line in self.refused[:SHOWN]]
        if self.unread:
            out.append(
                f"{len(self.unread)} pictures stay as they were, as not all that the file holds of them can be read: "
                f"{_names(self.unread)}; correct that and import the file again"
            )
        if self.disputed:
            out.append(
                f"{len(self.disputed)} pictures stay as they were, as entries of the file differ on them: "
                f"{_names(self.disputed)}; take out all but one of each and import the file again"
            )
        if self.later:
            out.append(
                f"{len(self.later)} pictures are in the file with entries of several exports that differ; the one "
                f"submitted last was taken: {_names(self.later)}"
            )
        if self.before:
            pictures = self.counts["pictures"]
            return [*out, f"reviewed: {pictures} pictures; entered before: nothing is added, what came since stands"]
        found = ", ".join(f"{self.counts[outcome]} {outcome}" for outcome in OUTCOMES)
        return [*out, f"reviewed: {self.counts['pictures']} pictures; {found}"]


def _names(found: Sequence[str]) -> str:
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")


def review(
    session: Session, given: Review, format: str, origin: Mapping[str, str], skip_bad: bool = False
) -> ReviewReport:
    """Enter a reviewer's file."""
    report = ReviewReport()
    placed = _placed(session, given, report)
    chosen = {image: _the_one(found, report, skip_bad) for image, found in placed.items()}
    pictures = {image: one for image, one in chosen.items() if one is not None}
    unknown = report.unknown
    if unknown and not skip_bad:
        raise ValueError(
            f"{origin['reviewed']}: {unknown[0]} is none of the store's pictures ({len(unknown)} in all are not); "
            "name the store that was exported, or leave them out with --skip-bad"
        )
    report.counts["unknown"] = len(unknown)
    exports = "+".join(sorted({one.export for one in pictures.values()} - {""}))
    made_by = digest([NAME, VERSION, format, exports, sorted(map(_import_metadata, pictures.values()))])
    operator, facts = _operator(session, made_by)
    scopes = _scopes(session, facts["snapshot"], pictures)
    found: list[tuple[Unit, HumanRows]] = []  # of the whole file before any is written: a refusal enters nothing
    for unit in list(session.units()):
        taken = tuple(sample for sample in unit.samples if sample.image.id in pictures)
        if not taken:
            continue
        unit = dataclasses.replace(unit, samples=taken)
        rows = HumanRows(operator, facts["seq"], format)
        for sample in session.samples(unit, facts["reads"], operator, facts["seq"]):
            one = pictures[sample.image.id]
            scope = scopes[one.export]
            before = scope.exported.get(sample.image.id, Sample(sample.id, sample.image))
            if not one.whole or given.adrift.intersection(item.id for item in before.items()):
                report.unread.append(one.sample.image.id)
                continue
            try:
                changes = _compared(sample, before, one.sample, one.ann_ids, scope)
                if given.homeless and changes.deleted:
                    report.unread.append(one.sample.image.id)
                    continue
                rows.add(sample, changes)
            except ValueError as error:
                if not skip_bad:
                    raise ValueError(f"{one.where}: {error}") from None
                report.refused.append(f"{one.where}: {error}")
                report.unread.append(one.sample.image.id)
        if rows.images:
            found.append((unit, rows))
    if not found:
        return report
    report.before = any(old.run_id == operator.run_id for old in session.base.operators)
    session.start(operator, {"format": format, **facts}, origin)
    for unit, rows in found:
        report.counts += rows.counts
        report.counts["pictures"] += len(rows.images)
        covered = {image: scopes[pictures[image].export] for image in rows.images}
        report.before &= not _put(session, operator, unit, rows, covered)
    return report


def _placed(session: Session, given: Review, report: ReviewReport) -> dict[str, list[Reviewed]]:
    """The file's entries by the store's ids of their pictures; the names of those that it does not hold are noted."""
    by: dict[str, dict[str, str]] = {"sha256": {}, "uri": {}, "name": {}}
    ids, twice = set(), set()
    for row in session.store.images(session.base.number):
        if row.status != "ok":
            continue
        ids.add(row.id)
        name = (row.image.member or files.path_of(row.image.uri)).rpartition("/")[2]
        twice |= {name} if name in by["name"] else set()
        for key, value in (("sha256", row.image.sha256), ("uri", files.name_of(row.image)), ("name", name)):
            by[key][value] = row.id
    out: dict[str, list[Reviewed]] = {}
    for one in given.pictures:
        name = one.sample.image.id.replace("\\", "/").rpartition("/")[2]
        found = one.image_id if one.image_id in ids else by["sha256"].get(one.sha256) or by["uri"].get(one.uri)
        found = found or (by["name"].get(name) if name not in twice else None)
        if found is None:
            report.unknown.append(one.sample.image.id)
        else:
            out.setdefault(found, []).append(one)
    return out


def _the_one(entries: Sequence[Reviewed], report: ReviewReport, skip_bad: bool) -> Reviewed | None:
    """What the entries of a picture say: all the same, or what was submitted last if each is of another export.

    Where they differ otherwise: None with `skip_bad`, else ValueError.
    """
    first, last = entries[0], entries[-1]
    same = all(_alike(first.sample, one.sample) for one in entries[1:])
    times = {one.submitted: one for one in entries if one.submitted is not None}
    if len({one.export for one in entries}) == len(times) == len(entries):
        last = times[max(times)]
    elif not same and skip_bad:
        report.disputed.append(f"{first.sample.image.id} ({', '.join(one.where for one in entries)})")
        return None
    elif not same:
        other = next(one for one in entries if not _alike(first.sample, one.sample))
        raise ValueError(
            f"{other.where}: differs from {first.where}, and both are of {first.sample.image.id}; take one of them "
            "out, or leave the picture as it was with --skip-bad"
        )
    else:  # one says what all say
        last = dataclasses.replace(last, whole=all(one.whole for one in entries))
    if not same and last.whole:
        report.later.append(last.sample.image.id)
    return last


def _alike(a: Sample, b: Sample) -> bool:
    """Whether two entries say the same of a picture."""
    left = _items(b)
    for item in _items(a):
        found = next((n for n, other in enumerate(left) if _same(item, other)), None)
        if found is None:
            return False
        left.pop(found)
    return not left


def _import_metadata(one: Reviewed) -> str:
    bare = dataclasses.replace(one.sample, image=dataclasses.replace(one.sample.image, uri=""))
    return digest(to_json(bare))


def _operator(session: Session, made_by: str) -> tuple[Operator, dict[str, Any]]:
    """Who brings the verdicts, and when: where the same file was entered before, as then."""
    for old in session.base.operators:
        if old.name == NAME and old.fingerprint == made_by:
            return old, {key: (session.store.run(old.run_id) or {})[key] for key in ("seq", "reads", "snapshot")}
    round = max(session.newest_round("decisions"), 0)
    seq = 1 + session.store.newest_seq(round, session.base)
    operator = Operator(run_id(made_by, round), NAME, VERSION, made_by, round, HUMAN, ("region_text/object",))
    reads = [o.run_id for o in session.operators.values() if o.kind in ANNOTATORS]
    return operator, {"seq": seq, "reads": reads, "snapshot": session.base.number}


def _scopes(session: Session, newest: int, pictures: Mapping[str, Reviewed]) -> dict[str, Scope]:
    """The scope of each export: as the store remembers it, else the store as it is and all labels that are used."""
    used: dict[str, set[str]] = {}
    for one in pictures.values():
        objects = {region.label for region in one.sample.regions if region.kind == "object"}
        used.setdefault(one.export, set()).update(objects)
    known = {export: (session.store.run(export) or {}) if export else {} for export in used}
    of_export = {export: run.get("snapshot", newest) for export, run in known.items()}
    held = {snapshot: _held(session, snapshot, pictures) for snapshot in set(of_export.values())}
    return {
        export: Scope(held[of_export[export]][0], labels.union(run.get("labels", ())), held[of_export[export]][1])
        for (export, labels), run in zip(used.items(), known.values())
    }


def _held(session: Session, snapshot: int, images: Collection[str]) -> tuple[dict[str, Sample], dict[str, str]]:
    """What a snapshot held of some pictures, and the label space that most of the objects of a label have in it."""
    spaces: dict[str, Counter[str]] = {}
    exported: dict[str, Sample] = {}
    for sample in session.store.samples(snapshot):
        if sample.image.id in images:
            exported[sample.image.id] = sample
        for region in sample.regions:
            if region.kind == "object" and region.label_space:
                spaces.setdefault(region.label, Counter())[region.label_space] += 1
    return exported, {label: found.most_common(1)[0][0] for label, found in spaces.items()}


def _compared(now: Sample, before: Sample, reviewed: Sample, ids: Mapping[str, str], scope: Scope) -> PictureChanges:
    """The file's items beside those of the export, as they are now."""
    out = PictureChanges()
    held, holds = (export_files.count_lost(sample, Counter(), HOLDS, words=True) for sample in (before, now))
    left = {item.id: item for item in _items(held) if _exportable(item)}
    current = {item.id: item for item in _items(holds)}  # as they would be exported now: a box with its outline
    items = _items(reviewed)
    named = _named(items, left, ids)
    for old in named.values():
        left.pop(old.id, None)
    claimed: dict[str, bool] = {}  # the current items that one of the file's is, and whether it is as it was
    for n in sorted(range(len(items)), key=lambda n: n not in named):
        item = items[n]
        found = named.get(n) or _closest(item, left.values())
        if found is None:
            known = _closest(item, current.values(), exact=True)
        else:
            left.pop(found.id, None)
            known = current.get(_winner(found.id, now), found)  # rejected since: the person's verdict restores it
        same = known is not None and _same(item, known)
        if known is not None and known.id in claimed:
            if same and claimed[known.id]:
                continue  # drawn twice at one place
            known, same = None, False
        if known is not None:
            claimed[known.id] = same
        if known is not None and same:
            out.confirmed.append(known)
        else:
            _check(item)
            out.new.append((item, known))
    for gone in left.values():
        winner = current.get(_winner(gone.id, now))
        if winner is not None and scope.covers(gone, reviewed):
            out.deleted.append(winner)
    return out


def _named(items: Sequence[AnyItem], left: Mapping[str, AnyItem], ids: Mapping[str, str]) -> dict[int, AnyItem]:
    """The exported item that each of the file's is by name: of several of one name, as tools copy it too, the nearest.

    By the places of `items`.
    """
    nearest: dict[str, tuple[float, bool, int]] = {}
    for n, item in enumerate(items):
        old = left.get(ids.get(item.id, ""))
        if isinstance(item, Region) and isinstance(old, Region):
            box, theirs = geometry.region_box(item), geometry.region_box(old)
            away = float(np.abs(np.subtract(box, theirs)).max()) if box and theirs else 0.0
            found = (away, item.label != old.label, n)
            nearest[old.id] = min(found, nearest.get(old.id, found))
        elif isinstance(item, Text) and isinstance(old, Text):
            nearest.setdefault(old.id, (0.0, False, n))
    return {n: left[name] for name, (_, _, n) in nearest.items()}


def _check(item: AnyItem) -> None:
    """ValueError for what is no annotation, of what a person changed or added: as on the correcting page."""
    if isinstance(item, Text):
        if not item.text.strip():
            raise ValueError(f"text {item.id}: expected a text, got none")
        return
    if item.kind == "object" and not item.label.strip():
        raise ValueError(f"region {item.id}: expected a label, got none; give it one, or delete it")
    if item.kind == "text" and not item.label.strip():
        raise ValueError(f"region {item.id}: expected the words at this place, got none; write them, or delete it")
    box = geometry.region_box(item)
    named = {"outline": item.polygons, "quad": (item.quad,), "box": (geometry.box_quad(box),) if box else ()}
    flat = next((name for name, shape in named.items() if any(shape) and not has_area(shape)), "" if box else "box")
    if flat:
        shown = [round(side, 2) for side in box or ()]
        raise ValueError(
            f"region {item.id}: expected a shape with an area, got its {flat} without one (in {shown}); draw it "
            "anew, or delete it"
        )


def _items(sample: Sample) -> list[AnyItem]:
    return [*sample.regions, *sample.texts]


def _exportable(item: AnyItem) -> bool:
    return isinstance(item, Text) or (bool(item.label) and geometry.region_box(item) is not None)


def _winner(name: str, now: Sample) -> str:
    """The item that replaces one that was superseded."""
    last = {d.item_id: d for d in now.decisions}
    seen: set[str] = set()
    while name in last and last[name].status == "superseded" and last[name].by_id and name not in seen:
        seen.add(name)
        name = last[name].by_id
    return name


def _closest(item: AnyItem, others: Iterable[AnyItem], exact: bool = False) -> AnyItem | None:
    """The exported item that an item without a name is: the same, one moved, or one with another label."""
    same = next((other for other in others if _same(item, other)), None)
    if same is not None or exact:
        return same
    if isinstance(item, Text):
        kind = (item.detail, item.question)
        return next((o for o in others if isinstance(o, Text) and (o.detail, o.question) == kind), None)
    box = geometry.region_box(item)
    best = 0.0
    found: Region | None = None
    for other in others:
        if not isinstance(other, Region) or other.kind != item.kind:
            continue
        theirs = geometry.region_box(other)
        if box is None or theirs is None:
            continue
        overlap = float(geometry.iou(geometry.as_boxes([box]), geometry.as_boxes([theirs]))[0, 0])
        alike = other.label == item.label
        if overlap >= (AGREE if alike else RELABELLED) and overlap + alike > best:
            best, found = overlap + alike, other
    return found


def _same(item: AnyItem, old: AnyItem) -> bool:
    """Whether a person left an item as it was."""
    if isinstance(item, Text) or isinstance(old, Text):
        return isinstance(item, Text) and isinstance(old, Text) and (item.text, item.detail) == (old.text, old.detail)
    if (item.kind, item.label) != (old.kind, old.label):
        return False
    if item.mask is not None:
        return old.mask == item.mask
    if item.polygons or item.quad:
        ours, theirs = _parts(item), _parts(old)
        return len(ours) == len(theirs) and all(_near(a, b) for a, b in zip(ours, theirs))
    return _near(geometry.region_box(item) or (), geometry.region_box(old) or ())


def _near(a: Sequence[float], b: Sequence[float]) -> bool:
    return len(a) == len(b) and bool(np.all(np.abs(np.subtract(a, b)) <= SAME_PX))


def _parts(region: Region) -> list[Sequence[float]]:
    """The outline as the writers give it."""
    if region.polygons or region.quad:
        return [part for part in (region.polygons or (region.quad,)) if len(part) >= 6]
    if region.mask is not None:
        return list(geometry.mask_polygons(geometry.decode_rle(region.mask)))
    return [geometry.box_quad(region.box)] if region.box is not None else []


def _put(session: Session, operator: Operator, unit: Unit, rows: HumanRows, scopes: Mapping[str, Scope]) -> bool:
    """Commit a unit's rows, with what a person's review of each picture means for the absence of labels.

    Returns whether any of it was not there.
    """
    metadata = {image: ImportMetadata("", scope.coverage()) for image, scope in scopes.items() if scope.labels}
    inputs = UnitInputs.of(unit)
    uid = inputs.uid(operator)
    if session.all_done(
        [(pending.path(table, operator, uid), operator) for table in ("decisions", "annotations")], unit
    ):
        return False
    annotations = pending.annotations_of(operator, uid, unit.uid, rows.annotated, metadata=metadata)
    for found in (pending.decisions_of(operator, uid, unit.uid, rows.decisions), annotations):
        session.add(session.store.put_all([found]))
    return True

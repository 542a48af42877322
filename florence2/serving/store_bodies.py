"""What the store's routes take and give, in JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from florence2 import geometry
from florence2.engine.curation.correcting import CHANGES, AnnotationChange, Correction
from florence2.engine.curation.human_verdicts import last_verdicts, place_of
from florence2.records import Decision, Grounding, Item, Region, Text
from florence2.serving.store_browser import StoreBrowser
from florence2.sources import files
from florence2.store import PictureIndex, PictureState

Points = list[float]
MASK_POINTS = 4_000  # numbers of an outline made of a mask, for drawing


class StoreBody(BaseModel):
    """The store that is served."""

    name: str
    snapshot: int
    pictures: int
    annotations: int
    labels: dict[str, int]
    """How many objects have each label, the most frequent first."""
    queue_ready: bool
    """Whether the review order is computed."""
    model: bool
    """Whether a model helps drawing."""


class PictureSummary(BaseModel):
    """A picture in a listing."""

    id: str
    width: int
    height: int
    version: str
    """Changes with the picture's bytes: for addresses that may be cached."""
    picture: str
    """ok, rejected, failed or missing, and why."""
    review: str
    """open; touched, where a person has judged some of it; complete, where its labels are stated in full."""
    split: str
    kept: int | None
    """Annotations; null while they are being read."""
    rejected: int | None


class PicturesBody(BaseModel):
    """A page of a listing."""

    whole: bool
    """Whether the annotations are read; before, pictures can be paged through, not filtered by them."""
    listing: str
    """Its name: asked for with it, further pages are of the same pictures in the same order."""
    snapshot: int
    total: int
    offset: int
    queue_ready: bool
    pictures: list[PictureSummary]


class PlaceBody(BaseModel):
    """Where a picture is in a listing."""

    listing: str
    total: int
    place: int | None
    """Counted from 0; null where it is not in it."""


class FacetsBody(BaseModel):
    """For each facet how many annotations, or pictures, each of its values would leave, the others as asked."""

    label: dict[str, int]
    source: dict[str, int]
    status: dict[str, int]
    reason: dict[str, int]
    round: dict[str, int]
    split: dict[str, int]
    picture: dict[str, int]
    review: dict[str, int]


class SourceBody(BaseModel):
    """Who made an annotation."""

    kind: str
    name: str
    version: str
    round: int


class VerdictBody(BaseModel):
    """One verdict in an annotation's history."""

    name: str
    """ROUND.SEQ; of a person's verdict the name of the correction."""
    status: str
    rule: str
    reason: str
    value: float | None
    threshold: float | None
    by: str
    """The annotation that took its place, or outranked it."""
    person: str


class AnnotationBody(BaseModel):
    """One annotation with its history; places are pixels of the upright picture."""

    ann_id: str
    kind: str
    """object, text (a word that is read), phrase, or the detail of a text about the picture."""
    label: str
    text: str
    box: Points | None
    quad: Points
    polygons: list[Points]
    mask: bool
    """Its polygons are drawn from a mask."""
    refines: str
    score: float | None
    source: SourceBody | None
    status: Literal["kept", "rejected", "superseded"]
    seen: str
    """ROUND.SEQ of the last verdict, to be sent along with a change."""
    history: list[VerdictBody]


class PictureBody(BaseModel):
    """One picture with all that was ever said of it."""

    id: str
    name: str
    """Its file's name."""
    width: int
    height: int
    version: str
    snapshot: int
    picture: str
    review: str
    split: str
    complete: list[str]
    """Labels of which it holds every object."""
    whole: bool
    """Whether all that it may hold is stated."""
    annotations: list[AnnotationBody]


class ChangeBody(BaseModel):
    """One verdict on an annotation, or a new one."""

    model_config = ConfigDict(extra="forbid")
    verdict: Literal["kept", "rejected", "changed", "added"]
    ann_id: str = Field("", max_length=100)
    """Whose; not of what is added."""
    seen: str | None = Field(None, max_length=40)
    """The annotation's `seen` as you had it: 409 where it was judged meanwhile."""
    kind: str = Field("object", max_length=40)
    label: str | None = Field(None, max_length=20_000)
    text: str | None = Field(None, max_length=20_000)
    box: Points | None = Field(None, min_length=4, max_length=4)
    quad: Points | None = Field(None, min_length=8, max_length=8)
    polygons: list[Points] | None = Field(None, min_length=1, max_length=1_000)

    def change(self) -> AnnotationChange:
        """The record."""
        polygons = None if self.polygons is None else tuple(map(tuple, self.polygons))
        box, quad = (None if value is None else tuple(value) for value in (self.box, self.quad))
        return AnnotationChange(
            self.verdict, self.ann_id, self.seen, self.label, self.text, box, quad, polygons, self.kind
        )


class CorrectionBody(BaseModel):
    """What one person did to one picture; entered as a whole, or not at all."""

    model_config = ConfigDict(extra="forbid")
    person: str = Field(min_length=1, max_length=100)
    image_id: str = Field("", max_length=100)
    """The picture; may be left out where the first change names an annotation."""
    changes: list[ChangeBody] = Field([], max_length=CHANGES)
    complete: list[str] = Field([], max_length=10_000)
    """Labels of which the picture holds every object."""
    incomplete: list[str] = Field([], max_length=10_000)
    undoes: str = Field("", max_length=40)
    """The name of one of the picture's corrections, to leave all as it was before."""

    def correction(self) -> Correction:
        """The record."""
        changes = tuple(change.change() for change in self.changes)
        return Correction(
            self.person, self.image_id, changes, tuple(self.complete), tuple(self.incomplete), self.undoes
        )


class CorrectedBody(BaseModel):
    """A correction that stands in the store."""

    name: str
    snapshot: int
    ann_ids: list[str]
    """For each change the annotation that stands now: a new one for what was changed or added."""
    picture: PictureBody


def summary_of(index: PictureIndex, place: int) -> PictureSummary:
    """A picture of a listing, from the index alone."""
    rows = index.rows_of(place)
    status = index.columns["status"][rows]
    width, height = map(int, index.size_wh[place])
    return PictureSummary(
        id=index.ids[place],
        width=width,
        height=height,
        version=version_of(index.sha256[place].as_py() or index.ids[place]),
        picture=index.text("picture", index.picture[place]),
        review=index.text("review", index.review[place]),
        split=index.text("split", index.split[place]),
        kept=int((status == 0).sum()) if index.whole else None,
        rejected=int((status == 1).sum()) if index.whole else None,
    )


def version_of(sha256: str) -> str:
    """The part of a hash that goes into addresses."""
    return sha256[:16]


def picture_of(browser: StoreBrowser, index: PictureIndex, state: PictureState) -> PictureBody:
    """A picture with the history of each of its annotations."""
    row, sample = state.row, state.sample
    history: dict[str, list[VerdictBody]] = {}
    for decision, run in zip(sample.decisions, state.runs):
        history.setdefault(decision.item_id, []).append(_verdict(decision, browser.person_of(run)))
    last = last_verdicts(sample)
    states = [one for found in sample.coverage.values() for one in found if one.state == "exhaustive"]
    place = index.place[row.id]
    return PictureBody(
        id=row.id,
        name=(row.image.member or files.path_of(row.image.uri)).replace("\\", "/").rpartition("/")[2],
        width=row.image.width,
        height=row.image.height,
        version=version_of(row.image.sha256 or row.id),
        snapshot=index.snapshot.number,
        picture=row.verdict,
        review=index.text("review", index.review[place]),
        split=sample.split,
        complete=sorted({label for one in states for label in one.labels}),
        whole=any(not one.labels for one in states),
        annotations=[_annotation(item, last.get(item.id), history.get(item.id, [])) for item in sample.items()],
    )


def _verdict(decision: Decision, person: str) -> VerdictBody:
    return VerdictBody(
        name=place_of(decision),
        status=decision.status,
        rule=decision.rule,
        reason=decision.reason,
        value=decision.value,
        threshold=decision.threshold,
        by=decision.by_id,
        person=person,
    )


def _annotation(item: Item, last: Decision | None, history: list[VerdictBody]) -> AnnotationBody:
    region = item if isinstance(item, Region) else Region()
    polygons, masked = [list(polygon) for polygon in region.polygons], False
    if region.mask is not None and not polygons:
        outline = geometry.mask_polygons(geometry.decode_rle(region.mask))
        polygons, masked = [_thinned(polygon) for polygon in outline], True
    kind = item.kind if isinstance(item, Region) else item.detail if isinstance(item, Text) else "phrase"
    made_by = None
    if item.source is not None:
        made_by = SourceBody(**{name: getattr(item.source, name) for name in ("kind", "name", "version", "round")})
    return AnnotationBody(
        ann_id=item.id,
        kind=kind,
        label=region.label or region.description,
        text=item.text if isinstance(item, Text) else item.phrase if isinstance(item, Grounding) else "",
        box=list(region.box) if region.box else None,
        quad=list(region.quad),
        polygons=polygons,
        mask=masked,
        refines=region.refines,
        score=item.score,
        source=made_by,
        status=last.status if last else "kept",  # type: ignore[arg-type]
        seen=place_of(last),
        history=history,
    )


def _thinned(polygon: tuple[float, ...]) -> Points:
    """An outline with as many corners as can be drawn."""
    step = 2 * max(1, -(-len(polygon) // MASK_POINTS))
    return [value for at in range(0, len(polygon) - 1, step) for value in polygon[at : at + 2]]

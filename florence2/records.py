"""The records that flow through every floor: plain, frozen, to and from JSON. They know no file format and no model.

Coordinates are float pixels of the upright image (EXIF applied), origin top-left; a box is x1, y1, x2, y2.
A JSON form leaves out every field that holds its default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from florence2.structuring import structure

Box = tuple[float, float, float, float]
Polygon = tuple[float, ...]  # flat x, y, x, y, ...

REGION_KINDS = ("object", "text")
CAPTION_DETAILS = ("brief", "detailed", "more_detailed")
DETAILS = (*CAPTION_DETAILS, "ocr", "answer")
SOURCE_KINDS = ("human", "import", "specialist", "model", "simulated")
STATUSES = ("kept", "rejected", "superseded")
COVERAGE_STATES = ("exhaustive", "partial", "negatives")


@dataclass(frozen=True)
class Source:
    """Who made an item. Human outranks import, import the rest."""

    kind: str
    name: str
    version: str = ""
    round: int = 0
    run_id: str = ""


@dataclass(frozen=True)
class ImageRef:
    """Where the pixels are; never the pixels. `member`, `offset` and `length` address a tar or a table's cell."""

    id: str
    uri: str = ""
    member: str = ""
    frame: int = 0
    offset: int = -1
    length: int = -1
    width: int = 0
    height: int = 0
    sha256: str = ""
    licence: str = ""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height of the upright image in pixels."""
        return self.width, self.height


@dataclass(frozen=True)
class Rle:
    """A binary mask as COCO's compressed run lengths (column-major), of `height` by `width` pixels."""

    height: int
    width: int
    counts: str


@dataclass(frozen=True)
class Region:
    """One place in the picture with its annotations.

    `quad` holds four corners (x, y) from the top-left of the text, clockwise. `refines` names the item this one
    details (a mask its box); `derived_from` the items it was fused from.
    """

    id: str = ""
    kind: str = "object"
    box: Box | None = None
    label: str = ""
    label_space: str = ""
    description: str = ""
    polygons: tuple[Polygon, ...] = ()
    quad: Polygon = ()
    mask: Rle | None = None
    score: float | None = None
    ignore: bool = False
    source: Source | None = None
    refines: str = ""
    derived_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """One text about the whole image; `question` is set for an answer."""

    id: str = ""
    text: str = ""
    detail: str = "brief"
    question: str = ""
    score: float | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Grounding:
    """One phrase of a text and where it is. `spans` are [start, end) in code points of the text `text_id`.

    Without `text_id` it is a referring expression: the phrase is on its own.
    """

    id: str = ""
    text_id: str = ""
    phrase: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    region_ids: tuple[str, ...] = ()
    score: float | None = None
    source: Source | None = None


Item = Union[Region, Text, Grounding]


@dataclass(frozen=True)
class Decision:
    """A verdict on one item; appended, never overwritten. `reason` is one word that can be counted.

    `by_id` names the winner where the item was superseded or suppressed. (round, seq) orders the verdicts.
    """

    item_id: str
    status: str
    rule: str
    reason: str = ""
    value: float | None = None
    threshold: float | None = None
    by_id: str = ""
    round: int = 0
    seq: int = 0


@dataclass(frozen=True)
class Failure:
    """One unit of work that gave nothing, and why; the same record everywhere."""

    index: int = -1
    id: str = ""
    image: str = ""
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Coverage:
    """What the absence of a label means: `state` holds for `labels`, or for the whole space where none is named."""

    state: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """The record: one image with all its annotations, rejected items and their verdicts beside the kept."""

    id: str
    image: ImageRef
    texts: tuple[Text, ...] = ()
    regions: tuple[Region, ...] = ()
    groundings: tuple[Grounding, ...] = ()
    decisions: tuple[Decision, ...] = ()
    split: str = ""
    coverage: Mapping[str, tuple[Coverage, ...]] = field(default_factory=dict)

    def items(self) -> list[Item]:
        """Every region, text and grounding, in this order."""
        return [*self.regions, *self.texts, *self.groundings]

    def current(self) -> Sample:
        """The sample with only what the last verdict on each item keeps (kept where there is none).

        What leaned on a superseded region leans on its winner; what refined it (a mask its box) is called as that is.
        """
        last = {d.item_id: d for d in sorted(self.decisions, key=lambda d: (d.round, d.seq))}

        def keep(items: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(item for item in items if item.id not in last or last[item.id].status == "kept")

        def stands_for(name: str) -> str:
            seen = set()
            while name in last and last[name].status == "superseded" and last[name].by_id and name not in seen:
                seen.add(name)
                name = last[name].by_id
            return name

        labels = {region.id: region.label for region in self.regions}

        def leaning(region: Region) -> Region:
            winner = stands_for(region.refines)
            if winner == region.refines:
                return region
            if region.label != labels.get(region.refines) or winner not in labels or labels[winner] == region.label:
                return dataclasses.replace(region, refines=winner)
            outlined = bool(region.polygons) or region.mask is not None
            said = "" if outlined else region.description  # of what has another name now
            return dataclasses.replace(region, refines=winner, label=labels[winner], description=said)

        regions = tuple(leaning(r) if r.refines in last else r for r in keep(self.regions))
        present = {region.id for region in regions}
        groundings = []
        for grounding in keep(self.groundings):
            region_ids = tuple(dict.fromkeys(i for i in map(stands_for, grounding.region_ids) if i in present))
            if region_ids or not grounding.region_ids:
                groundings.append(dataclasses.replace(grounding, region_ids=region_ids))
        return dataclasses.replace(
            self, texts=keep(self.texts), regions=regions, groundings=tuple(groundings), decisions=()
        )


@dataclass(frozen=True)
class Ask:
    """One question to the model. `region` is in pixels: a box, or a flat polygon; `prompt` is sent as written."""

    task: str = ""
    text: str = ""
    text_id: str = ""
    labels: tuple[str, ...] = ()
    region: Polygon = ()
    prompt: str = ""


@dataclass(frozen=True)
class Parsed:
    """The content of a token sequence, or of a specialist's answer. Ids are names local to this record."""

    texts: tuple[Text, ...] = ()
    regions: tuple[Region, ...] = ()
    groundings: tuple[Grounding, ...] = ()
    truncated: bool = False


Result = Union[Parsed, Failure]

R = TypeVar("R")


def to_json(record: Any) -> dict[str, Any]:
    """A record as plain JSON types, fields that hold their default left out."""
    out: dict[str, Any] = {}
    for f in dataclasses.fields(record):
        value = getattr(record, f.name)
        if f.default is not dataclasses.MISSING and value == f.default:
            continue
        if f.default_factory is not dataclasses.MISSING and value == f.default_factory():
            continue
        out[f.name] = _plain(value)
    return out


def from_json(kind: type[R], data: Mapping[str, Any]) -> R:
    """The record of type `kind` that `to_json` wrote; ValueError names an unknown, missing or ill-typed field."""
    return structure(kind, data, kind.__name__)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value

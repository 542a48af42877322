"""How records become rows and rows records: four flat tables, one row an annotation. Knows no file and no folder.

A region, a text and a grounding share the annotations table; `ANNOTATIONS` is the whole mapping, a line a column.
Boxes and coordinates are float32 in the file and come back as the shortest decimal that names that float32.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from florence2.geometry import box_area, polygon_box, rle_box
from florence2.records import Decision, Failure, Grounding, Item, Region, Rle, Sample, Source, Text

STRING, INT32, INT64, FLOAT, BOOL = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
COORDS, INTS, STRINGS = pa.list_(pa.float32()), pa.list_(INT32), pa.list_(STRING)
COVERAGE = pa.list_(pa.struct([("label_space", STRING), ("label", STRING), ("state", STRING)]))

FAMILIES = {Text: "text", Region: "region_text", Grounding: "text_phrase_region"}


class Column(NamedTuple):
    """A column and the attribute of each record it holds ("" where that record has nothing to say)."""

    name: str
    type: pa.DataType
    region: str = ""
    text: str = ""
    grounding: str = ""


# fmt: off
ANNOTATIONS = (  # column, type, then what it holds of a Region, a Text, a Grounding; * = worked out in _worked_out
    Column("ann_id", STRING, "id", "id", "id"),
    Column("image_id", STRING, "*", "*", "*"),
    Column("family", STRING, "*", "*", "*"),
    Column("task", STRING),
    Column("granularity", STRING, "", "detail", ""),
    Column("kind", STRING, "kind", "", ""),
    Column("text", STRING, "label", "text", "phrase"),
    Column("description", STRING, "description", "", ""),
    Column("question", STRING, "", "question", ""),
    Column("lang", STRING),
    Column("parent_id", STRING, "refines", "", "text_id"),
    Column("region_ids", STRINGS, "", "", "region_ids"),
    Column("spans", INTS, "", "", "*"),
    Column("label_space", STRING, "label_space", "", ""),
    Column("label_id", STRING),
    Column("geom", STRING, "*", "", ""),
    Column("box", COORDS, "*", "", ""),
    Column("coords", COORDS, "*", "", ""),
    Column("rings", INTS, "*", "", ""),
    Column("rle", pa.binary(), "*", "", ""),
    Column("rle_size", INTS, "*", "", ""),
    Column("area", FLOAT, "*", "", ""),
    Column("score", FLOAT, "score", "score", "score"),
    Column("score_text", FLOAT),
    Column("ignore", BOOL, "ignore", "", ""),
    Column("attrs", pa.map_(STRING, STRING), "*", "", ""),
    Column("source_kind", STRING, "*", "*", "*"),
    Column("source", STRING, "*", "*", "*"),
    Column("source_version", STRING, "*", "*", "*"),
    Column("config_sha", STRING, "*", "*", "*"),
    Column("run_id", STRING, "*", "*", "*"),
    Column("round", INT32, "*", "*", "*"),
    Column("derived_from", STRINGS, "derived_from", "", ""),
)
# fmt: on

# record -> (column, attribute) of the columns that hold an attribute as it is
_PLAIN = {
    kind: tuple((column.name, column[place]) for column in ANNOTATIONS if column[place] not in ("", "*"))
    for place, kind in enumerate((Region, Text, Grounding), 2)
}

# columns that no record holds: for people and their tools
_UNREAD = {"task", "lang", "label_id", "area", "score_text", "config_sha"}
COLUMNS_READ: dict[str, list[str] | None] = {  # of each table what records are made of; None: all
    "images": None,
    "annotations": [column.name for column in ANNOTATIONS if column.name not in _UNREAD],
    "decisions": None,
}

SCHEMAS: dict[str, pa.Schema] = {
    "images": pa.schema(
        [
            *((name, STRING) for name in ("id", "unit", "dataset", "uri", "member")),
            *((name, INT64) for name in ("offset", "length")),
            ("frame", INT32),
            ("bytes", INT64),
            ("sha256", STRING),
            ("phash", STRING),
            *((name, INT32) for name in ("width", "height", "exif_orientation")),
            *((name, STRING) for name in ("format", "licence", "split", "status", "reason")),
            ("label_coverage", COVERAGE),
            ("origin", STRING),
            ("first_status", STRING),
        ]
    ),
    "annotations": pa.schema([(column.name, column.type) for column in ANNOTATIONS]),
    "decisions": pa.schema(
        [
            *((name, STRING) for name in ("ann_id", "image_id")),
            *((name, INT32) for name in ("round", "seq")),
            *((name, STRING) for name in ("rule", "rule_version", "status", "reason")),
            *((name, FLOAT) for name in ("value", "threshold")),
            *((name, STRING) for name in ("by_ann_id", "run_id")),
        ]
    ),
    "failures": pa.schema(
        [
            *((name, STRING) for name in ("image_id", "source", "source_version", "reason", "detail", "run_id")),
            ("round", INT32),
        ]
    ),
}

LATER = frozenset({"first_status"})  # columns that a file has only where a row needs them

Row = dict[str, Any]


def table(name: str, rows: Sequence[Row]) -> pa.Table:
    """Rows as an Arrow table of the named schema; what a row lacks is null."""
    used = {column for row in rows for column in LATER.intersection(row) if row[column] is not None}
    schema = pa.schema([f for f in SCHEMAS[name] if f.name not in LATER or f.name in used])
    return pa.Table.from_arrays(
        [pa.array([row.get(f.name) for row in rows], type=f.type) for f in schema], schema=schema
    )


def annotation_rows(sample: Sample, config_sha: str = "") -> list[Row]:
    """One row for each region, text and grounding of a sample, in that order."""
    text_of = {text.id: text.text for text in sample.texts}
    return [_annotation_row(item, sample.image.id, config_sha, text_of) for item in sample.items()]


def decision_row(decision: Decision, image_id: str, rule_version: str, run_id: str) -> Row:
    """One row of `decisions`."""
    return {
        "ann_id": decision.item_id,
        "image_id": image_id,
        "round": decision.round,
        "seq": decision.seq,
        "rule": decision.rule,
        "rule_version": rule_version,
        "status": decision.status,
        "reason": decision.reason or None,
        "value": decision.value,
        "threshold": decision.threshold,
        "by_ann_id": decision.by_id or None,
        "run_id": run_id,
    }


def failure_row(failure: Failure, source: str, version: str, run_id: str, round: int) -> Row:
    """One row of `failures`; the record's `id` is the image's."""
    return {
        "image_id": failure.id,
        "source": source,
        "source_version": version,
        "reason": failure.reason,
        "detail": failure.detail,
        "run_id": run_id,
        "round": round,
    }


def samples(bare: Sequence[Sample], annotations: pa.Table | None, decisions: pa.Table | None) -> list[Sample]:
    """The samples with the annotations that one table holds of them and the verdicts of the other; None: as they are.

    Rejected items are beside the kept.
    """
    items: dict[str, dict[type, list[Any]]] = defaultdict(lambda: defaultdict(list))
    sources: dict[tuple[Any, ...], Source] = {}
    if annotations is not None:
        for row in each_row(annotations.select([n for n in annotations.column_names if n not in _UNREAD])):
            item = _item(row, sources)
            items[row["image_id"]][type(item)].append(item)
    verdicts: dict[str, list[Decision]] = defaultdict(list)
    if decisions is not None:
        for row in each_row(decisions):
            verdicts[row["image_id"]].append(_decision(row))
    out = []
    for sample in bare:
        texts, regions, groundings = sample.texts, sample.regions, sample.groundings
        if annotations is not None:
            of = items.get(sample.image.id, {})
            texts, regions, groundings = (tuple(of.get(kind, ())) for kind in (Text, Region, Grounding))
        judged = sample.decisions
        if decisions is not None:
            judged = tuple(sorted(verdicts.get(sample.image.id, ()), key=lambda d: (d.round, d.seq)))
        split, coverage = sample.split, sample.coverage
        out.append(Sample(sample.id, sample.image, texts, regions, groundings, judged, split, coverage))
    return out


def rows(table: pa.Table) -> list[Row]:
    """The rows of a table as dictionaries; columns that are null throughout are left out, coordinates shortened."""
    return list(each_row(table))


def each_row(table: pa.Table) -> Iterator[Row]:
    """`rows` one by one: many dictionaries alive at once keep the garbage collector busy."""
    names, columns = [], []
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if column.null_count == len(column):
            continue
        names.append(name)
        columns.append(_coordinates(column) if name in ("box", "coords") else column.to_pylist())
    values = zip(*columns) if names else ((),) * table.num_rows
    return (dict(zip(names, row)) for row in values)


def _annotation_row(item: Item, image_id: str, config_sha: str, text_of: Mapping[str, str]) -> Row:
    row: Row = {}
    for name, attribute in _PLAIN[type(item)]:
        value = getattr(item, attribute)
        row[name] = None if value in ("", ()) and name not in ("text", "ann_id") else value
    row.update(_worked_out(item, image_id, config_sha))
    if isinstance(item, Grounding) and item.spans and item.text_id in text_of:
        row["text"] = " ".join(text_of[item.text_id][start:end] for start, end in item.spans)
    return row


def _worked_out(item: Item, image_id: str, config_sha: str) -> Row:
    source = item.source
    if source is None:
        raise ValueError(f"annotation {item.id!r} of image {image_id}: has no source; nothing is stored without one")
    row: Row = {
        "image_id": image_id,
        "family": FAMILIES[type(item)],
        "source_kind": source.kind,
        "source": source.name,
        "source_version": source.version,
        "config_sha": config_sha or None,
        "run_id": source.run_id,
        "round": source.round,
    }
    if isinstance(item, Grounding) and item.spans:
        row["spans"] = [n for span in item.spans for n in span]
    if isinstance(item, Region):
        row.update(_geometry(item))
    return row


def _geometry(region: Region) -> Row:
    """geom names the finest shape; a quad beside polygons goes to attrs, a mask beside either to rle."""
    row: Row = {"box": region.box}
    attrs: list[tuple[str, str]] = []
    if region.polygons:
        row["geom"] = "polygon"
        row["coords"] = [v for polygon in region.polygons for v in polygon]
        row["rings"] = np.cumsum([0, *(len(polygon) for polygon in region.polygons[:-1])]).tolist()
        if region.quad:
            attrs.append(("quad", " ".join(repr(float(v)) for v in region.quad)))
    elif region.quad:
        row["geom"], row["coords"] = "quad", list(region.quad)
    elif region.mask is None:
        row["geom"] = None if region.box is None else "box"
    if region.mask is not None:
        row.setdefault("geom", "rle")
        row["rle"] = region.mask.counts.encode("ascii")
        row["rle_size"] = [region.mask.height, region.mask.width]
    if row["box"] is None and row.get("coords"):
        row["box"] = polygon_box(row["coords"])
    elif row["box"] is None and region.mask is not None:
        row["box"] = rle_box(region.mask) or (0.0,) * 4
    if row["box"] is not None:
        row["area"] = box_area(row["box"])
    row["attrs"] = attrs or None
    return row


def _item(row: Row, sources: dict[tuple[Any, ...], Source]) -> Item:
    """A row's record; `sources` holds those met so far, as most rows share one."""
    get = row.get
    made = row["source_kind"], row["source"], get("source_version") or "", row["round"], get("run_id") or ""
    source = sources.get(made) or sources.setdefault(made, Source(*made))
    family = get("family")
    if family == "text":
        return Text(
            row["ann_id"], get("text") or "", get("granularity") or "brief", get("question") or "", get("score"), source
        )
    if family == "text_phrase_region":
        flat = get("spans") or ()
        return Grounding(
            id=row["ann_id"],
            text_id=get("parent_id") or "",
            phrase=get("text") or "",
            spans=tuple(zip(flat[0::2], flat[1::2])),
            region_ids=tuple(get("region_ids") or ()),
            score=get("score"),
            source=source,
        )
    return _region(row, source)


def _region(row: Row, source: Source) -> Region:
    get = row.get
    geom, rle, box = get("geom"), get("rle"), get("box")
    height, width = get("rle_size") or (0, 0)
    polygons: tuple[tuple[float, ...], ...] = ()
    quad: tuple[float, ...] = ()
    if geom == "quad":
        quad = tuple(get("coords") or ())
    elif geom == "polygon":
        coords = get("coords") or ()
        cuts = [*(get("rings") or [0]), len(coords)]
        polygons = tuple(tuple(coords[a:b]) for a, b in zip(cuts, cuts[1:]))
        kept = dict(get("attrs") or ()).get("quad")
        quad = tuple(float(v) for v in kept.split()) if kept else ()
    return Region(
        id=row["ann_id"],
        kind=get("kind") or "object",
        box=None if box is None else tuple(box),
        label=get("text") or "",
        label_space=get("label_space") or "",
        description=get("description") or "",
        polygons=polygons,
        quad=quad,
        mask=None if rle is None else Rle(height, width, rle.decode("ascii")),
        score=get("score"),
        ignore=bool(get("ignore")),
        source=source,
        refines=get("parent_id") or "",
        derived_from=tuple(get("derived_from") or ()),
    )


def _decision(row: Row) -> Decision:
    get = row.get
    return Decision(
        item_id=row["ann_id"],
        status=row["status"],
        rule=get("rule") or "",
        reason=get("reason") or "",
        value=get("value"),
        threshold=get("threshold"),
        by_id=get("by_ann_id") or "",
        round=row["round"],
        seq=row["seq"],
    )


def _coordinates(column: pa.Array) -> list[list[float] | None]:
    """Lists of float32 as Python floats, each the shortest decimal that names it."""
    if pa.types.is_fixed_size_list(column.type):  # boxes of an earlier version
        column = column.cast(COORDS)
    flat = shortest(np.asarray(column.values)).tolist()
    cuts = column.offsets.to_pylist()
    return [flat[a:b] if ok else None for a, b, ok in zip(cuts, cuts[1:], column.is_valid().to_pylist())]


def shortest(values: np.ndarray) -> np.ndarray:
    """float32 values as float64 with the fewest decimals (up to eight) that still name the same float32."""
    single = np.asarray(values, dtype=np.float32)
    out = single.astype(np.float64)
    left = np.ones(single.shape, dtype=bool)
    for decimals in range(9):
        near = np.round(single.astype(np.float64), decimals)
        same = left & (near.astype(np.float32) == single)
        out[same] = near[same]
        left &= ~same
        if not left.any():
            break
    return out

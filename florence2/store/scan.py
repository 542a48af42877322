"""Reading a snapshot: group by group of units, in bounded memory, in the order the pictures came in.

A group is what one `images` fragment covers, with every fragment of the other tables that belongs to its units.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.compute as pc

from florence2.records import ImageRef, Sample
from florence2.store import failures, import_metadata, parquet, schema
from florence2.store.image_rows import ImageRow, row_of, sample_of
from florence2.store.import_metadata import ImportMetadata
from florence2.store.parquet import Fragment
from florence2.store.snapshots import Snapshot
from florence2.store.storage import Storage

VIEWS = ("current", "all")


def known_view(view: str) -> str:
    """The name of a view, one of VIEWS; ValueError else."""
    if view not in VIEWS:
        raise ValueError(f"view {view!r}: expected one of {', '.join(VIEWS)}")
    return view


@dataclass(frozen=True)
class UnitGroup:
    """The fragments of all four tables about the pictures of some units; `imports` of its annotations are imports'."""

    units: tuple[str, ...]
    fragments: dict[str, tuple[Fragment, ...]]
    imports: tuple[Fragment, ...] = ()


def unit_groups(snapshot: Snapshot) -> list[UnitGroup]:
    """The snapshot's fragments sorted into groups; ValueError where one belongs to no pictures."""
    order: list[tuple[str, ...]] = []
    home: dict[str, int] = {}
    parts: list[dict[str, list[Fragment]]] = []
    for fragment in snapshot.of("images"):
        for unit in fragment.units:
            home[unit] = len(order)
        order.append(fragment.units)
        parts.append(defaultdict(list))
    for fragment in snapshot.fragments:
        for number in {home[unit] for unit in fragment.units if unit in home}:
            parts[number][fragment.table].append(fragment)
    live = {o.run_id for o in snapshot.operators if o.kind in ("import", "human") and not o.replaced}
    imports = [tuple(f for f in by.get("annotations", ()) if f.run_id in live) for by in parts]
    return [
        UnitGroup(units, {name: tuple(found) for name, found in by.items()}, imported)
        for units, by, imported in zip(order, parts, imports)
    ]


def import_metadata_of(
    storage: Storage, fragments: Sequence[Fragment], whole: bool = True
) -> dict[str, ImportMetadata]:
    """The imports' metadata by image id; without `whole`, damaged fragments (to be made again) are skipped."""
    parts = []
    for fragment in fragments:
        try:
            parts.append(import_metadata.decode(parquet.open_file(storage, fragment).schema_arrow.metadata))
        except ValueError:
            if whole:
                raise
    return import_metadata.combine(parts)


def image_rows(storage: Storage, fragments: Sequence[Fragment], columns: Sequence[str] | None = None) -> list[ImageRow]:
    """The pictures of fragments of `images`, in order; of some `columns` with `id` among them only those are known."""
    return [row_of(row) for row in schema.each_row(parquet.read_table(storage, "images", fragments, columns))]


def count_ok(storage: Storage, fragment: Fragment) -> int:
    """How many of an `images` fragment's pictures are good; read from its footer alone where all are."""
    metadata = parquet.open_file(storage, fragment).metadata
    column = next(n for n in range(metadata.num_columns) if metadata.schema.column(n).path == "status")
    groups = [metadata.row_group(n).column(column).statistics for n in range(metadata.num_row_groups)]
    if all(s is not None and s.has_min_max and s.min == s.max == "ok" and not s.null_count for s in groups):
        return int(metadata.num_rows)
    statuses: list[str] = parquet.read(storage, fragment, ["status"])["status"].to_pylist()
    return statuses.count("ok")


def group_samples(storage: Storage, group: UnitGroup, view: str = "current") -> list[Sample]:
    """The samples of a group's good pictures: with the kept annotations, or with all of them and the verdicts."""
    known_view(view)
    images = schema.each_row(parquet.read_table(storage, "images", group.fragments.get("images", ())))
    found = schema.samples(
        [sample_of(columns) for columns in images if columns["status"] == "ok"],
        parquet.read_table(storage, "annotations", group.fragments.get("annotations", ())),
        parquet.read_table(storage, "decisions", group.fragments.get("decisions", ())),
    )
    found = import_metadata.apply(found, import_metadata_of(storage, group.imports))
    return [sample.current() for sample in found] if view == "current" else found


def samples(storage: Storage, snapshot: Snapshot, view: str = "current") -> Iterator[Sample]:
    """Every good picture's sample, group by group."""
    for group in unit_groups(snapshot):
        yield from group_samples(storage, group, view)


def pictures(storage: Storage, group: UnitGroup) -> list[ImageRef]:
    """A group's good pictures, in order: id, size and URI alone."""
    columns = ["status", "id", "width", "height", "uri"]
    rows = image_rows(storage, group.fragments.get("images", ()), columns)
    return [row.image for row in rows if row.status == "ok"]


def picture_names(storage: Storage, snapshot: Snapshot, ids: Collection[str]) -> dict[str, str]:
    """Where some pictures lie, by id: the member of an archive or table, else the URI, else the id."""
    out = {}
    for fragment in snapshot.of("images") if ids else ():
        table = parquet.read(storage, fragment, ["id", "uri", "member"])
        rows = zip(*(table[name].to_pylist() for name in ("id", "uri", "member")))
        out.update({i: member or uri or i for i, uri, member in rows if i in ids})
    return out


class JudgedAnnotation(NamedTuple):
    """What a report counts of an annotation, and its last verdict (kept where there is none); box in xyxy pixels."""

    ann_id: str
    image_id: str
    family: str
    kind: str | None
    text: str | None
    source: str | None
    round: int | None
    score: float | None
    box: list[float] | None
    parent_id: str | None
    status: str
    rule: str | None
    reason: str | None


def judged(storage: Storage, group: UnitGroup) -> Iterator[JudgedAnnotation]:
    """Every annotation of a group with its last verdict; no records are made, so that millions can be counted."""
    last = _last_of(storage, group)
    names = list(JudgedAnnotation._fields[:-3])
    table = parquet.read_table(storage, "annotations", group.fragments.get("annotations", ()), names)
    for row in zip(*(table[name].to_pylist() for name in names)):
        yield JudgedAnnotation._make((*row, *last.get(row[0], ("kept", None, None))))


def attributes(storage: Storage, group: UnitGroup, key: str) -> dict[str, str]:
    """The attribute `key` of those of a group's annotations that have it, by annotation id."""
    fragments = group.fragments.get("annotations", ())
    table = parquet.read_table(storage, "annotations", fragments, ["ann_id", "attrs"])
    table = table.filter(pc.field("attrs").is_valid())
    rows = zip(table["ann_id"].to_pylist(), table["attrs"].to_pylist())
    return {ann_id: value for ann_id, attrs in rows for name, value in attrs if name == key}


TALLY = ("source_kind", "source", "source_version", "round", "family", "kind", "status", "rule", "reason")


def tally(storage: Storage, snapshot: Snapshot) -> list[dict[str, Any]]:
    """How many annotations are kept, rejected and superseded: a row for each combination of TALLY, with `count`.

    `status` is the last verdict's, kept where there is none; rule and reason are those of that verdict.
    """
    counts: Counter[tuple[Any, ...]] = Counter()
    for group in unit_groups(snapshot):
        last = _last_of(storage, group)
        wanted = ["ann_id", *TALLY[:6]]
        table = parquet.read_table(storage, "annotations", group.fragments.get("annotations", ()), wanted)
        for ann_id, *made in zip(*(table[name].to_pylist() for name in wanted)):
            key = (*made, *last.get(ann_id, ("kept", None, None)))
            counts[key] += 1
    return [
        {**dict(zip(TALLY, key)), "count": count}
        for key, count in sorted(counts.items(), key=lambda entry: [str(v or "") for v in entry[0]])
    ]


def _last_of(storage: Storage, group: UnitGroup) -> dict[str, tuple[str, str | None, str | None]]:
    """For each judged annotation of a group the status, rule and reason of its last verdict by (round, seq)."""
    names = ["ann_id", "round", "seq", "status", "rule", "reason"]
    decisions = parquet.read_table(storage, "decisions", group.fragments.get("decisions", ()), names)
    order = decisions.sort_by([("round", "ascending"), ("seq", "ascending")]) if decisions.num_rows else decisions
    return {row[0]: (row[3], row[4], row[5]) for row in zip(*(order[name].to_pylist() for name in names))}


def image_statuses(storage: Storage, snapshot: Snapshot) -> Counter[str]:
    """How many pictures are ok, rejected, failed and missing."""
    images: Counter[str] = Counter()
    for fragment in snapshot.of("images"):
        images.update(parquet.read(storage, fragment, ["status"])["status"].to_pylist())
    return images


def counts(storage: Storage, snapshot: Snapshot) -> dict[str, Any]:
    """Totals by status: images, annotations, the failures that count, and the rows of decisions."""
    images = image_statuses(storage, snapshot)
    annotations: Counter[str] = Counter()
    for row in tally(storage, snapshot):
        annotations[row["status"]] += row["count"]
    return {
        "snapshot": snapshot.number,
        "images": {
            "total": images.total(),
            **{name: images[name] for name in ("ok", "rejected", "failed")},
            **({"missing": images["missing"]} if images["missing"] else {}),
        },
        "annotations": {
            "total": annotations.total(),
            **{name: annotations[name] for name in ("kept", "rejected", "superseded")},
        },
        "failures": failures.current(storage, snapshot).num_rows,
        "decisions": sum(fragment.rows for fragment in snapshot.of("decisions")),
    }


def reasons(storage: Storage, snapshot: Snapshot) -> dict[str, dict[str, int]]:
    """Reason words counted, for images, failures and the annotations that are not kept."""
    out: dict[str, Counter[str]] = {"images": Counter(), "failures": Counter(), "annotations": Counter()}
    for fragment in snapshot.of("images"):
        words = parquet.read(storage, fragment, ["reason"])["reason"].to_pylist()
        out["images"].update(word for word in words if word)
    out["failures"].update(word for word in failures.current(storage, snapshot)["reason"].to_pylist() if word)
    for row in tally(storage, snapshot):
        if row["status"] != "kept":
            out["annotations"][row["reason"] or row["rule"]] += row["count"]
    return {name: dict(sorted(words.items())) for name, words in out.items()}

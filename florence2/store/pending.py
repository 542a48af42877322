"""Records as fragments to be written: the writer names operator, unit and records; rows and paths are made here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from florence2.records import Decision, Failure, Sample
from florence2.store import import_metadata, layout, schema
from florence2.store.failures import attempt_facts
from florence2.store.image_rows import ImageRow, columns_of
from florence2.store.import_metadata import ImportMetadata
from florence2.store.parquet import Fragment, PendingFragment
from florence2.store.snapshots import Operator

__all__ = [
    "annotations_of", "attempt_facts", "decisions_of", "failures_of", "images_of", "path",
    "revised_images_of", "revised_path",
]  # fmt: skip


def path(table: str, operator: Operator, uid: str) -> str:
    """Where an operator's work lies; `uid` is the hash of the pictures, the fingerprint and the round."""
    return layout.fragment(table, operator.round, operator.name, operator.version, uid)


def images_of(operator: Operator, uid: str, rows: Iterable[ImageRow]) -> PendingFragment:
    """The pictures that become a unit; `uid` is the unit's from now on."""
    return _pending(layout.images(uid), operator, uid, [columns_of(row) for row in rows])


def revised_path(key: str) -> str:
    """Where rows of `images` lie that are written once more; `key` is a hash of what they were and who writes them."""
    return layout.revised(key)


def revised_images_of(
    operator: Operator, key: str, old: Fragment, rows: Iterable[ImageRow], about: Mapping[str, Any]
) -> PendingFragment:
    """All rows of a fragment of `images`, some changed, to take its place."""
    return PendingFragment(revised_path(key), [columns_of(row) for row in rows], old.units, operator.run_id, about)


def annotations_of(
    operator: Operator,
    uid: str,
    unit: str,
    samples: Iterable[Sample],
    config_sha: str = "",
    about: Mapping[str, str] | None = None,
    metadata: Mapping[str, ImportMetadata] | None = None,
    attributes: Iterable[Sequence[tuple[str, str]]] = (),
) -> PendingFragment:
    """An operator's annotations of a unit; `about` goes into the file's metadata beside its maker.

    Of an import: `metadata` by image id, and further `attributes` of each annotation, in the order of `Sample.items`.
    """
    rows = [row for sample in samples for row in schema.annotation_rows(sample, config_sha)]
    for row, more in zip(rows, attributes):
        if more:
            row["attrs"] = [*(row.get("attrs") or ()), *more]
    if metadata:
        about = {**(about or {}), import_metadata.KEY: import_metadata.encode(metadata)}
    return _pending(path("annotations", operator, uid), operator, unit, rows, about)


def decisions_of(operator: Operator, uid: str, unit: str, verdicts: Iterable[tuple[str, Decision]]) -> PendingFragment:
    """An operator's verdicts on a unit's annotations, each with the id of its picture."""
    rows = [schema.decision_row(d, image, operator.version, operator.run_id) for image, d in verdicts]
    return _pending(path("decisions", operator, uid), operator, unit, rows)


def failures_of(
    operator: Operator, uid: str, unit: str, found: Iterable[Failure], about: Mapping[str, str] | None = None
) -> PendingFragment:
    """The pictures of a unit that an operator gave nothing for; a failure's id is its picture's."""
    made = operator.name, operator.version, operator.run_id, operator.round
    rows = [schema.failure_row(f, *made) for f in found]
    return _pending(path("failures", operator, uid), operator, unit, rows, about)


def _pending(
    path: str, operator: Operator, unit: str, rows: Sequence[schema.Row], more: Mapping[str, str] | None = None
) -> PendingFragment:
    # two keys with one value: both are part of the file format
    key = "name" if operator.kind in ("filter", "merge", "recomputed", "import") else "operator"
    about = {key: operator.name, **{name: getattr(operator, name) for name in ("version", "fingerprint", "round")}}
    return PendingFragment(path, rows, [unit], operator.run_id, {**about, **(more or {})})

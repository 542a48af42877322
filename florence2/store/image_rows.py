"""A picture as the table `images` holds it, good or not, and its columns. Knows no file.

A row is written once, when its picture comes in, and once more where the picture moved, changed, went or came back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from florence2.records import Coverage, ImageRef, Sample

Columns = dict[str, Any]


@dataclass(frozen=True)
class ImageRow:
    """Where a picture is, whether it is good (`status`: ok, rejected, failed or missing), and what is known of it."""

    image: ImageRef
    unit: str = ""
    status: str = "ok"
    reason: str = ""
    """One countable word; empty for a good picture."""
    split: str = ""
    coverage: Mapping[str, tuple[Coverage, ...]] = field(default_factory=dict)
    dataset: str = ""
    """The base name of the source it came from."""
    origin: str = ""
    """The URL it was fetched from."""
    bytes: int = 0
    """Of the file, or of the member; 0 where it is not known."""
    format: str = ""
    exif_orientation: int | None = None
    phash: str = ""
    """The perceptual hash: 16 hex digits; empty where the picture could not be decoded."""
    earlier: str = ""
    """`verdict` when it came in, where it is another now."""

    @classmethod
    def of(cls, sample: Sample, **fields: Any) -> ImageRow:
        """The row of a sample's picture; `fields` are those that a sample does not have."""
        return cls(sample.image, split=sample.split, coverage=sample.coverage, **fields)

    @property
    def id(self) -> str:
        """The picture's id."""
        return self.image.id

    @property
    def place(self) -> tuple[str, str, int]:
        """(uri, member, offset): where it is."""
        return self.image.uri, self.image.member, self.image.offset

    @property
    def verdict(self) -> str:
        """Its status, with the reason after a space where it has one."""
        return f"{self.status} {self.reason}".strip()

    @property
    def first_verdict(self) -> str:
        """Its `verdict` when it came in."""
        return self.earlier or self.verdict

    def sample(self) -> Sample:
        """The sample of the picture without annotations."""
        return Sample(self.image.id, self.image, split=self.split, coverage=self.coverage)


def columns_of(row: ImageRow) -> Columns:
    """A row by column; what is not known is null."""
    ref = row.image
    return {
        "id": ref.id,
        "unit": row.unit or None,
        "dataset": row.dataset or None,
        "uri": ref.uri,
        "member": ref.member or None,
        "offset": ref.offset if ref.offset >= 0 else None,
        "length": ref.length if ref.length >= 0 else None,
        "frame": ref.frame,
        "bytes": row.bytes,
        "sha256": ref.sha256 or None,
        "phash": row.phash or None,
        "width": ref.width,
        "height": ref.height,
        "exif_orientation": row.exif_orientation,
        "format": row.format or None,
        "licence": ref.licence or None,
        "split": row.split or None,
        "status": row.status,
        "reason": row.reason or None,
        "label_coverage": coverage_rows(row.coverage),
        "origin": row.origin or None,
        "first_status": row.earlier or None,
    }


def row_of(columns: Mapping[str, Any]) -> ImageRow:
    """The row that `columns_of` wrote; columns that are absent are as null."""
    get = columns.get
    return ImageRow(
        image=_image_of(columns),
        unit=get("unit") or "",
        status=get("status") or "ok",
        reason=get("reason") or "",
        split=get("split") or "",
        coverage=coverage_of(get("label_coverage")),
        dataset=get("dataset") or "",
        origin=get("origin") or "",
        bytes=get("bytes") or 0,
        format=get("format") or "",
        exif_orientation=get("exif_orientation"),
        phash=get("phash") or "",
        earlier=get("first_status") or "",
    )


def sample_of(columns: Mapping[str, Any]) -> Sample:
    """`row_of(columns).sample()`, in half the time."""
    image = _image_of(columns)
    coverage = coverage_of(columns.get("label_coverage"))
    return Sample(image.id, image, split=columns.get("split") or "", coverage=coverage)


def _image_of(columns: Mapping[str, Any]) -> ImageRef:
    get = columns.get
    offset, length = get("offset"), get("length")
    return ImageRef(
        id=columns["id"],
        uri=get("uri") or "",
        member=get("member") or "",
        frame=get("frame") or 0,
        offset=-1 if offset is None else offset,
        length=-1 if length is None else length,
        width=get("width") or 0,
        height=get("height") or 0,
        sha256=get("sha256") or "",
        licence=get("licence") or "",
    )


def coverage_rows(coverage: Mapping[str, Sequence[Coverage]]) -> list[Columns] | None:
    """A picture's coverage as the cell `label_coverage` holds it."""
    out = [
        {"label_space": space, "label": label, "state": entry.state}
        for space, entries in sorted(coverage.items())
        for entry in entries
        for label in (entry.labels or (None,))
    ]
    return out or None


def coverage_of(rows: Iterable[Mapping[str, Any]] | None) -> dict[str, tuple[Coverage, ...]]:
    """The coverage that a cell `label_coverage` holds."""
    if not rows:
        return {}
    labels: dict[str, dict[tuple[str, bool], list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found = labels[row["label_space"]][row["state"], row["label"] is None]
        if row["label"] is not None:
            found.append(row["label"])
    return {
        space: tuple(Coverage(state, tuple(names)) for (state, _), names in entries.items())
        for space, entries in labels.items()
    }

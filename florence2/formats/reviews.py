"""Files that a person has gone over: an export of ours in Label Studio or COCO, with all that ties it to the export.

What such a file holds of a picture is complete. Of Label Studio only tasks count that a person completed and did not
cancel (the last such annotation, no predictions); of COCO every picture that a file with categories lists. A picture
of which something could not be read is not `whole`: what it lacks may be that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from florence2.formats import coco, documents, labelstudio
from florence2.formats.export_files import MAPPING
from florence2.formats.labelstudio_writer import OURS
from florence2.formats.lookup import matching
from florence2.formats.problems import ReadProblems, picture_key
from florence2.records import Sample

FORMATS = ("labelstudio", "coco")


@dataclass(frozen=True)
class Reviewed:
    """One picture as a person left it; what the export called it, where the file still says so."""

    sample: Sample
    ann_ids: Mapping[str, str]
    """The annotation of the export that each item was, by its id in the file."""
    whole: bool = True
    """Whether all that the file holds of it was read."""
    where: str = ""
    """Its entry in the file."""
    export: str = ""
    """The export that the entry comes from, by its name in the store."""
    submitted: datetime | None = None
    """When the person saved it last, where the file says so."""
    image_id: str = ""
    sha256: str = ""
    uri: str = ""


@dataclass(frozen=True)
class Review:
    """The pictures of a reviewer's file."""

    pictures: tuple[Reviewed, ...]
    adrift: frozenset[str] = frozenset()
    """Annotations of the export that the file gives to no picture of its own: they were not deleted."""
    homeless: bool = False
    """Whether the file has others of no picture: what one of its pictures lacks may be one of these."""


def read(path: Path, format: str, images: str | Path | None = None, problems: ReadProblems | None = None) -> Review:
    """A reviewer's file, or the files of a folder."""
    problems = problems or ReadProblems()
    if format not in FORMATS:
        raise ValueError(f"{path}: --reviewed reads {' and '.join(FORMATS)}, got {format}; export in one of these")
    if format == "labelstudio":
        return _labelstudio(path, images, problems)
    return _coco(path, images, problems)


def _labelstudio(path: Path, images: str | Path | None, problems: ReadProblems) -> Review:
    pictures: list[Reviewed] = []
    for where, task, sample in labelstudio.read_completed(path, images, problems):
        ours = task["data"].get(OURS)
        export = ours["export"] if isinstance(ours, Mapping) and isinstance(ours.get("export"), str) else ""
        ids: dict[str, str] = {}
        submitted = None
        for annotation in _rows(task["annotations"]):
            submitted = _time(annotation.get("updated_at"))
            for result in _rows(annotation.get("result")):
                meta = result.get("meta")
                more = meta.get(OURS) if isinstance(meta, Mapping) else None
                if isinstance(more, Mapping) and isinstance(more.get("id"), str):
                    ids[str(result.get("id"))] = more["id"]
        whole = _whole(sample, problems)
        problems.incomplete.discard(picture_key(sample.image.uri))  # another entry of the picture may be whole
        pictures.append(Reviewed(sample, ids, whole, where, export, submitted, image_id=sample.id))
    return Review(tuple(pictures))


def _coco(path: Path, images: str | Path | None, problems: ReadProblems) -> Review:
    adrift, homeless = set[str](), False
    pictures: list[Reviewed] = []
    for file in _files(path, coco.is_coco):
        data = documents.read_json(file)
        if not isinstance(data, Mapping) or not data.get("categories"):
            continue  # captions: no word about objects
        info = data.get("info")
        export = info.get("florence2_export") if isinstance(info, Mapping) else ""
        export = export if isinstance(export, str) else ""
        ids = {
            str(r.get("id")): r["ann_id"] for r in _rows(data.get("annotations")) if isinstance(r.get("ann_id"), str)
        }
        sums = {str(row.get("id")): str(row.get("sha256") or "") for row in _rows(data.get("images"))}
        mapping = file.with_name(MAPPING)
        uris = documents.read_json(mapping) if mapping.is_file() else {}
        samples = list(coco.read(file, images, problems))
        astray = list(_astray(data, {region.id for sample in samples for region in sample.regions}))
        adrift.update(name for name in astray if name)
        homeless |= "" in astray
        for sample in samples:
            uri = str(uris.get(f"images/{sample.image.id}", ""))
            whole, where = _whole(sample, problems), f"{file}: image {sample.id}"
            pictures.append(Reviewed(sample, ids, whole, where, export, sha256=sums.get(sample.id, ""), uri=uri))
    return Review(tuple(pictures), frozenset(adrift), homeless)


def _astray(data: Mapping[str, Any], taken: Collection[str]) -> Iterator[str]:
    """Of the annotations that a file gives to no picture of its own: what they were in the export, "" for others."""
    pictures = {str(row.get("id")) for row in _rows(data.get("images"))}
    annotations = data.get("annotations")
    for n, row in enumerate(annotations if isinstance(annotations, list) else ()):
        if not isinstance(row, Mapping):
            yield ""
        elif (
            "caption" not in row
            and str(row.get("image_id")) not in pictures
            and str(row.get("id", f"a{n}")) not in taken
        ):
            yield row["ann_id"] if isinstance(row.get("ann_id"), str) else ""


def _whole(sample: Sample, problems: ReadProblems) -> bool:
    return picture_key(sample.image.uri) not in problems.incomplete


def _time(text: Any) -> datetime | None:
    """A point in time as Label Studio writes it (2026-03-01T10:00:00.123456Z); None for what is none."""
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00")) if isinstance(text, str) else None
    except ValueError:
        return None
    return time.replace(tzinfo=timezone.utc) if time and time.tzinfo is None else time


def _files(path: Path, fits: Any) -> list[Path]:
    return [file for file in matching(path, "*.json") if fits(file)] if path.is_dir() else [path]


def _rows(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a list; what is none has been refused, or is, by the reader."""
    return (row for row in (value if isinstance(value, list) else ()) if isinstance(row, Mapping))

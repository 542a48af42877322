"""COCO's JSON: instances (boxes, polygons, run lengths, crowds) and captions. Twin: reads and writes.

A file, or a folder of them: records of one picture in several files become one sample, phrase pairs beside them its
groundings. A crowd is an ignored region. LVIS (its negative and not exhaustive categories become the sample's coverage)
and Objects365 are read alike. What is not COCO's own is written under keys of its own: a source, what the absence of a
label means. Lost in writing: quads, descriptions, questions, groundings, verdicts.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from florence2 import geometry
from florence2.formats import pairs, validation
from florence2.formats.coco_writer import LISTED, SOURCE, box_around, write
from florence2.records import Coverage, Polygon, Region, Rle, Sample, Source, Text, from_json

__all__ = ["is_coco", "read", "write"]
PARTS = ("train2017", "val2017", "train2014", "val2014", "train", "val")


def is_coco(path: Path) -> bool:
    """Whether a .json file begins as COCO's do: an object that names images."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(4096).lstrip(b"\xef\xbb\xbf \r\n\t")
        if not start.startswith(b"{"):
            return False
        return any(key in start for key in (b'"images"', b'"annotations"', b'"categories"', b'"licenses"', b'"info"'))


def read(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """The samples of a file, or of the COCO files of a folder, in the order of their pictures' numbers."""
    path = Path(path)
    files = sorted(p for p in path.glob("*.json") if is_coco(p)) if path.is_dir() else [path]
    samples: dict[tuple[str, Any], Sample] = {}
    phrases: list[tuple[Path, Any]] = []
    for file in files:
        try:
            data = validation.read_json(file)
        except ValueError as error:
            validation.refuse(error)
            continue
        if path.is_dir() and pairs.holds_pairs(data):
            phrases.append((file, data))
        if path.is_dir() and not _holds_coco(data):
            continue  # panoptic segments, or another JSON beside the annotations
        for sample in _samples(file, data, Path(images) if images else None):
            key = (sample.image.id, sample.id)
            samples[key] = _joined(samples[key], sample) if key in samples else sample
    if not samples and path.is_dir():
        raise ValueError(f"{path}: holds no COCO file with images and annotations")
    ids = Counter(sample.id for sample in samples.values())
    by_id = {sample.id: key for key, sample in samples.items() if ids[sample.id] == 1}
    for file, data in phrases:
        spoken_of = pairs.grounded(file, data, {name: samples[key] for name, key in by_id.items()})
        samples.update((by_id[name], sample) for name, sample in spoken_of.items())
    for sample in sorted(samples.values(), key=lambda s: (0, int(s.id), "") if s.id.isdigit() else (1, 0, s.id)):
        yield dataclasses.replace(sample, id=sample.image.id) if ids[sample.id] > 1 else sample


def _holds_coco(data: Any) -> bool:
    if not isinstance(data, Mapping) or not isinstance(data.get("images"), list):
        return False
    annotations = data.get("annotations")
    return isinstance(annotations, list) and not any("segments_info" in row for row in annotations[:1])


def _samples(file: Path, data: Any, pictures: Path | None) -> Iterator[Sample]:
    records = validation.field(data, "images", str(file))
    annotations = validation.field(data, "annotations", str(file))
    if not isinstance(records, list) or not isinstance(annotations, list):
        raise ValueError(f"{file}: expected lists under 'images' and 'annotations'")
    categories = _categories(file, data)
    licences = {row.get("id"): row.get("name", "") for row in data.get("licenses") or [] if isinstance(row, Mapping)}
    space = _space(file, data)
    by_image: dict[Any, list[tuple[str, Mapping]]] = {}
    seen: dict[Any, str] = {}
    kept = []
    for n, record in enumerate(records):
        where = f"{file}: images[{n}]"
        try:
            key = validation.field(record, "id", where)
            validation.once(seen, key, where)
        except ValueError as error:
            validation.refuse(error)
            continue
        by_image[key] = []
        kept.append((where, record))
    seen = {}
    for n, annotation in enumerate(annotations):
        where = f"{file}: annotations[{n}]"
        try:
            if "id" in annotation:
                validation.once(seen, annotation["id"], where)
                where = f"{file}: annotation {annotation['id']}"
            key = validation.field(annotation, "image_id", where)
            if key not in by_image:
                raise ValueError(f"{where}: image_id {key!r} is not among the file's images")
        except ValueError as error:
            validation.refuse(error)
            continue
        by_image[key].append((where, annotation))
    every = {space: (Coverage("exhaustive", tuple(categories.values())),)} if categories else {}
    folders = _folders(file, pictures)
    for where, record in kept:
        try:
            name = _file_name(record, where)
            width, height = (validation.whole(record.get(side, 0), f"{where}: {side}") for side in ("width", "height"))
            licence = licences.get(record.get("license"), "")
            image = validation.image_ref(name, _picture(name, folders), width, height, licence)
            texts, regions = _items(by_image[record["id"]], categories, space, image.size_wh)
            own = categories and (LISTED in record or "neg_category_ids" in record)
            coverage = _own_coverage(record, regions, categories, space, where) if own else every
        except ValueError as error:
            validation.refuse(error)
            continue
        split = str(record.get("split") or "")
        yield Sample(str(record["id"]), image, tuple(texts), tuple(regions), split=split, coverage=coverage)


def _picture(name: str, folders: list[Path]) -> Path:
    """Where a picture is: by its whole name, or by its end (Objects365 says images/v1/patch8/x.jpg of patch8/x.jpg)."""
    parts = Path(name).parts
    guesses = [validation.find_picture(str(Path(*parts[-n:])), folders) for n in (len(parts), 2, 1) if n <= len(parts)]
    return next((guess for guess in guesses if guess.is_file()), guesses[0])


def _file_name(record: Mapping, where: str) -> str:
    """The picture's name; LVIS tells it by COCO's address alone."""
    if "file_name" not in record and isinstance(record.get("coco_url"), str):
        return "/".join(record["coco_url"].split("/")[-2:])
    return str(validation.field(record, "file_name", where))


def _own_coverage(
    record: Mapping, regions: list[Region], categories: Mapping[Any, str], space: str, where: str
) -> dict[str, tuple[Coverage, ...]]:
    """A picture's own: of LVIS its labels are exhaustive but for those it names so, ours says which are.

    Its negatives were looked for in vain.
    """

    def named(key: str) -> tuple[str, ...]:
        unknown = [i for i in record.get(key) or () if i not in categories]
        if unknown:
            raise ValueError(f"{where}: {key}: {unknown[0]!r} is not among the file's categories")
        return tuple(categories[i] for i in record.get(key) or ())

    partial = named("not_exhaustive_category_ids")
    seen = tuple(dict.fromkeys(region.label for region in regions if region.label not in partial))
    whole = named(LISTED) if LISTED in record else seen
    states = (
        Coverage("exhaustive", whole),
        Coverage("partial", partial),
        Coverage("negatives", named("neg_category_ids")),
    )
    known = tuple(state for state in states if state.labels)
    return {space: known} if known else {}


def _categories(file: Path, data: Mapping) -> dict[Any, str]:
    out: dict[Any, str] = {}
    seen: dict[Any, str] = {}
    for n, row in enumerate(data.get("categories") or []):
        where = f"{file}: categories[{n}]"
        key = validation.field(row, "id", where)
        validation.once(seen, key, where)
        out[key] = str(validation.field(row, "name", where))
    return out


def categories(path: Path) -> list[dict[str, Any]]:
    """The categories of a file, or of the COCO files of a folder, as they number them: {id, name, supercategory}."""
    files = sorted(p for p in path.glob("*.json") if is_coco(p)) if path.is_dir() else [path]
    out: dict[str, dict[str, Any]] = {}
    for file in files:
        try:
            rows = validation.read_json(file).get("categories") or []
        except (ValueError, AttributeError):
            continue  # reading the samples has refused it
        for row in rows:
            if isinstance(row, Mapping) and isinstance(row.get("id"), int) and isinstance(row.get("name"), str):
                more = row.get("supercategory")
                kept = {"supercategory": more} if isinstance(more, str) else {}
                out.setdefault(row["name"], {"id": row["id"], "name": row["name"], **kept})
    return list(out.values())


def _space(file: Path, data: Mapping) -> str:
    """The label space: what the file calls itself, else its name."""
    info = data.get("info")
    if isinstance(info, Mapping) and isinstance(info.get("label_space"), str):
        return info["label_space"]  # as we write it
    told = info.get("description", "") if isinstance(info, Mapping) else ""
    return "-".join(str(told).casefold().split()) or file.stem


def _folders(file: Path, pictures: Path | None) -> list[Path]:
    """Where a file's pictures may lie: beside it, in images/, or as COCO is unpacked (annotations/ beside val2017/)."""
    parts = [file.stem.rpartition("_")[2], *PARTS]
    if pictures is not None:
        return [pictures, *(pictures / part for part in parts)]
    here, up = file.parent, file.parent.parent
    return [here, here / "images", up / "images", *(folder / p for p in parts for folder in (here, up, up / "images"))]


def _items(
    rows: list[tuple[str, Mapping]], categories: Mapping[Any, str], space: str, size_wh: tuple[int, int]
) -> tuple[list[Text], list[Region]]:
    texts, regions = [], []
    for n, (where, annotation) in enumerate(rows):
        name = str(annotation.get("id", f"a{n}"))
        if "caption" in annotation:
            texts.append(Text(name, str(annotation["caption"]).strip(), source=_source(annotation)))
            continue
        try:
            regions.append(_region(annotation, where, name, categories, space, size_wh))
        except ValueError as error:
            validation.refuse(error)
    return texts, regions


def _region(
    annotation: Mapping, where: str, name: str, categories: Mapping[Any, str], space: str, size_wh: tuple[int, int]
) -> Region:
    if "segments_info" in annotation:
        raise ValueError(f"{where}: panoptic segments are not read; give the instances file instead")
    category = validation.field(annotation, "category_id", where)
    if category not in categories:
        raise ValueError(f"{where}: category_id {category!r} is not among the file's categories")
    polygons, mask = _outline(annotation.get("segmentation"), where, size_wh)
    box = annotation.get("bbox")
    if box is None and not polygons and mask is None:
        raise ValueError(f"{where}: has neither 'bbox' nor 'segmentation'")
    corners = validation.box_from_xywh(box, f"{where}: bbox") if box is not None else box_around(polygons, mask)
    score = validation.number(annotation["score"], f"{where}: score") if annotation.get("score") is not None else None
    return Region(
        name, "object", corners, categories[category], space, polygons=polygons, mask=mask, score=score,
        ignore=bool(annotation.get("iscrowd")), source=_source(annotation),
    )  # fmt: skip


def _source(annotation: Mapping) -> Source:
    """Who made an annotation, where a file of ours says it."""
    try:
        return from_json(Source, annotation["source"])
    except (KeyError, ValueError):
        return SOURCE


def _outline(segmentation: Any, where: str, size_wh: tuple[int, int]) -> tuple[tuple[Polygon, ...], Rle | None]:
    where = f"{where}: segmentation"
    if not segmentation:
        return (), None
    if isinstance(segmentation, Mapping):
        height, width = (validation.whole(v, where) for v in validation.numbers(segmentation.get("size"), where, 2))
        counts = validation.field(segmentation, "counts", where)
        if not isinstance(counts, str):
            counts = geometry.pack_counts([validation.whole(c, where) for c in counts])
        rle = Rle(height, width, counts)
        try:
            geometry.rle_counts(rle)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        return (), rle
    polygons = [validation.numbers(part, where) for part in segmentation]
    for part in polygons:
        if len(part) < 6 or len(part) % 2:
            raise ValueError(f"{where}: expected at least three x, y pairs, got {len(part)} numbers")
    return tuple(polygons), None


def _joined(a: Sample, b: Sample) -> Sample:
    """What two files say of one picture; an item of the second that bears a name of the first gets one of its own."""
    taken = {text.id for text in a.texts} | {region.id for region in a.regions}

    def fresh(item: Any) -> Any:
        return dataclasses.replace(item, id=f"{item.id}b") if item.id in taken else item

    return dataclasses.replace(
        a,
        texts=a.texts + tuple(fresh(t) for t in b.texts),
        regions=a.regions + tuple(fresh(r) for r in b.regions),
        split=a.split or b.split,
        coverage={**a.coverage, **b.coverage},
    )

"""COCO's JSON: instances (boxes, polygons, run lengths, crowds) and captions. Twin: reads and writes.

A file, or a folder of them (its own, or those of annotations/, or of train/, valid/ and test/): records of one picture
in several files become one sample, phrase pairs beside them its groundings. The split is what a record says, else what
the name of its folder does. A crowd is an ignored region. LVIS (its negative and not exhaustive categories
become the sample's coverage) and Objects365 are read alike. What is not COCO's own is written under keys of its own: a
source, what the absence of a label means. Lost in writing: quads, descriptions, questions, groundings, verdicts.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from florence2 import geometry, pixels
from florence2.formats import documents, pairs, validation
from florence2.formats.coco_writer import LISTED, SOURCE, box_around, write
from florence2.formats.frames import Frame
from florence2.formats.lookup import Lookup, files_in, is_litter
from florence2.formats.parts import part_folders, part_of, part_of_folder, tested_on
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Coverage, Polygon, Region, Rle, Sample, Source, Text, from_json

Record = Mapping[str, Any]  # an object of the file's JSON

__all__ = ["is_coco", "read", "write"]
PARTS = ("train2017", "val2017", "train2014", "val2014", "train", "val")


def is_coco(path: Path) -> bool:
    """Whether a .json file begins as COCO's do: an object that names images."""
    if path.suffix.lower() != ".json" or is_litter(path.name) or not path.is_file():
        return False
    start = documents.beginning(path)
    return start.startswith(b"{") and any(
        key in start for key in (b'"images"', b'"annotations"', b'"categories"', b'"licenses"', b'"info"')
    )


def read(path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None) -> Iterator[Sample]:
    """The samples of a file, or of the COCO files of a folder, in the order of their pictures' numbers."""
    path, problems = Path(path), problems or ReadProblems()
    samples: dict[tuple[str, Any], Sample] = {}
    phrases: list[tuple[Path, Any]] = []
    moved: set[str] = set()
    files = files_of(path)
    parts = tested_on({file: "" if file.parent == path else part_of_folder(file.parent) for file in files})
    for file in files:
        with problems.record():
            data = documents.read_json(file)
            if path.is_dir() and pairs.holds_pairs(data):
                phrases.append((file, data))
            if path.is_dir() and not _holds_coco(data):
                continue  # panoptic segments, or another JSON beside the annotations
            content = _File(file, data, images, problems, parts[file])
            for sample in content.samples():
                key = (sample.image.uri, sample.id)
                samples[key] = _joined(samples[key], sample) if key in samples else sample
            moved |= content.moved
    if not samples and path.is_dir() and not problems.refused:
        raise ValueError(f"{path}: holds no COCO file with images and annotations")
    ids = Counter(sample.id for sample in samples.values())
    by_id = {sample.id: key for key, sample in samples.items() if ids[sample.id] == 1}
    for file, data in phrases:
        spoken_of = pairs.grounded(file, data, {name: samples[key] for name, key in by_id.items()}, moved, problems)
        samples.update((by_id[name], sample) for name, sample in spoken_of.items())
    names = Counter(sample.image.id for sample in samples.values())
    for sample in sorted(samples.values(), key=lambda s: (0, len(s.id), s.id) if s.id.isdecimal() else (1, 0, s.id)):
        if names[sample.image.id] > 1:  # 0001.jpg of two parts
            below = os.path.relpath(sample.image.uri, path if path.is_dir() else path.parent)
            sample = dataclasses.replace(sample, image=dataclasses.replace(sample.image, id=below))
        yield dataclasses.replace(sample, id=sample.image.id) if ids[sample.id] > 1 else sample


def files_of(path: Path) -> list[Path]:
    """The COCO files of a set: the one named, or those of a folder, of its annotations/ or of the folders of its
    parts."""
    if not path.is_dir():
        return [path]
    for folders in ([path], [path / "annotations", path / "Annotations"], part_folders(path)):
        found = [file for folder in folders for file in files_in(folder, (".json",)) if is_coco(file)]
        if found:
            return list(dict.fromkeys(found))
    return []


def _holds_coco(data: Any) -> bool:
    if not isinstance(data, Mapping) or not isinstance(data.get("images"), list):
        return False
    annotations = data.get("annotations")
    return isinstance(annotations, list) and not any(
        isinstance(row, Mapping) and "segments_info" in row for row in annotations[:1]
    )


class _File:
    """One file's tables, and the samples that they make."""

    def __init__(self, file: Path, data: Any, images: str | Path | None, problems: ReadProblems, part: str) -> None:
        self.file, self.problems, self.part = file, problems, part
        self.records = validation.rows(data, "images", str(file))
        self.annotations = validation.rows(data, "annotations", str(file))
        self.space = _space(file, data)
        self.lookup = Lookup(file.parent, _folders(file, images), images)
        self.moved: set[str] = set()  # pictures whose labels were drawn at another size, or before a turn
        self.licences: dict[Any, str] = {}
        for where, row in validation.objects(
            validation.rows(data, "licenses", str(file), optional=True), f"{file}: licenses", problems
        ):
            with problems.record():
                if row.get("id") is not None and row.get("name") is not None:
                    key = validation.ident(row["id"], f"{where}: id")
                    self.licences[key] = validation.word(row["name"], f"{where}: name", empty=True)
        self.categories: dict[Any, str] = {}
        seen: dict[Any, str] = {}
        for where, row in validation.objects(
            validation.rows(data, "categories", str(file), optional=True), f"{file}: categories", problems
        ):
            with problems.record():
                key = validation.ident(validation.field(row, "id", where), f"{where}: id")
                validation.once(seen, key, where)
                self.categories[key] = validation.word(validation.field(row, "name", where), f"{where}: name")

    def samples(self) -> Iterator[Sample]:
        """A sample for each picture."""
        seen: dict[Any, str] = {}
        kept: list[tuple[str, Record]] = []
        for where, record in validation.objects(self.records, f"{self.file}: images", self.problems):
            with self.problems.record():
                validation.once(seen, validation.ident(validation.field(record, "id", where), f"{where}: id"), where)
                kept.append((where, record))
        by_image: dict[Any, list[tuple[str, Record]]] = {key: [] for key in seen}
        lost = {key: LostObjects(self.problems) for key in seen}
        self._assign(by_image, lost)
        for where, record in kept:
            key = validation.ident(record["id"], where)
            with self.problems.record():
                yield self._sample(where, record, by_image[key], lost[key])

    def _assign(self, by_image: dict[Any, list[tuple[str, Record]]], lost: dict[Any, LostObjects]) -> None:
        """Give each annotation to its picture."""
        seen: dict[Any, str] = {}
        for where, row in validation.objects(self.annotations, f"{self.file}: annotations", self.problems):
            key: Any = None
            try:
                if "image_id" in row:
                    key = validation.ident(row["image_id"], f"{where}: image_id")
                if "id" in row:
                    validation.once(seen, validation.ident(row["id"], f"{where}: id"), where)
                    where = f"{self.file}: annotation {validation.shown(row['id'])}"
                validation.field(row, "image_id", where)
                if key not in by_image:
                    raise ValueError(f"{where}: image_id {validation.shown(key)} is not among the file's images")
            except ValueError as error:
                if key in lost and "caption" not in row:
                    lost[key].refuse(error, self._label(row))
                else:
                    self.problems.refuse(error, part=True)
                continue
            by_image[key].append((where, row))

    def _label(self, row: Record) -> str:
        """The label of an annotation that is left out, "" where it is not known."""
        try:
            return self.categories.get(validation.ident(row.get("category_id"), ""), "")
        except ValueError:
            return ""

    def _sample(self, where: str, record: Record, rows: Sequence[tuple[str, Record]], lost: LostObjects) -> Sample:
        name = _file_name(record, where)
        stated_wh = (0, 0)
        with self.problems.record():
            sides = [validation.whole(record.get(side) or 0, f"{where}: {side}") for side in ("width", "height")]
            stated_wh = (sides[0], sides[1])
        frame = Frame.of(self.lookup.picture(name, where), stated_wh, where)
        if not frame.same:
            self.moved.add(str(record["id"]))
        texts, found = self._items(rows, lost)
        regions = frame.place(found, lost)
        coverage: dict[str, tuple[Coverage, ...]] = {}
        if self.categories:
            coverage[self.space] = (Coverage("exhaustive", tuple(dict.fromkeys(self.categories.values()))),)
        if self.categories and (LISTED in record or "neg_category_ids" in record):
            coverage.clear()
            with self.problems.record():
                coverage = _own_coverage(record, regions, self.categories, self.space, where)
        licence: Any = record.get("license")
        with self.problems.record():
            licence = None if licence is None else validation.ident(licence, f"{where}: license")
        image = frame.image(name, self.licences.get(licence, "") if isinstance(licence, (int, str)) else "")
        split = validation.word(record.get("split") or self.part, f"{where}: split", empty=True)
        coverage = lost.withdraw(coverage, self.space, regions)
        return Sample(str(record["id"]), image, tuple(texts), regions, split=split, coverage=coverage)

    def _items(
        self, rows: Sequence[tuple[str, Record]], lost: LostObjects
    ) -> tuple[list[Text], list[tuple[str, Region]]]:
        texts: list[Text] = []
        regions: list[tuple[str, Region]] = []
        for n, (where, annotation) in enumerate(rows):
            name = str(annotation.get("id", f"a{n}"))
            if "caption" in annotation:
                with self.problems.record():
                    words = validation.sentence(annotation["caption"], f"{where}: caption")
                    texts.append(Text(name, words, source=_source(annotation)))
                continue
            with lost.object(self._label(annotation)):
                regions.append((where, self._region(annotation, where, name, lost)))
            if annotation.get("keypoints"):
                self.problems.note("key points are left out", where)
        return texts, regions

    def _region(self, annotation: Record, where: str, name: str, lost: LostObjects) -> Region:
        """An object; of one whose outline is bad the box stays, and the other way round."""
        if "segments_info" in annotation:
            raise ValueError(f"{where}: panoptic segments are not read; give the instances file instead")
        category = validation.ident(validation.field(annotation, "category_id", where), f"{where}: category_id")
        if category not in self.categories:
            shown = validation.shown(category)
            raise ValueError(f"{where}: category_id {shown} is not among the file's categories")
        box = annotation.get("bbox")
        polygons: tuple[Polygon, ...] = ()
        mask: Rle | None = None
        try:
            polygons, mask = _outline(annotation.get("segmentation"), where, box)
        except ValueError as error:
            if box is None:
                raise
            lost.part(error)
        if box is None and not polygons and mask is None:
            raise ValueError(f"{where}: has neither 'bbox' nor 'segmentation'")
        try:
            corners = box_around(polygons, mask) if box is None else validation.box_from_xywh(box, f"{where}: bbox")
        except ValueError as error:
            corners = box_around(polygons, mask)
            if corners is None:
                raise
            lost.part(error)
        score = validation.number(annotation["score"], f"{where}: score") if "score" in annotation else None
        return Region(
            name, "object", corners, self.categories[category], self.space, polygons=polygons, mask=mask, score=score,
            ignore=validation.flag(annotation.get("iscrowd"), f"{where}: iscrowd"), source=_source(annotation),
        )  # fmt: skip


def _file_name(record: Record, where: str) -> str:
    """The picture's name; LVIS states it by COCO's address alone."""
    if "file_name" not in record and isinstance(record.get("coco_url"), str):
        return validation.word("/".join(record["coco_url"].split("/")[-2:]), f"{where}: coco_url")
    return validation.word(validation.field(record, "file_name", where), f"{where}: file_name")


def _own_coverage(
    record: Record, regions: Sequence[Region], categories: Mapping[Any, str], space: str, where: str
) -> dict[str, tuple[Coverage, ...]]:
    """A picture's own: of LVIS its labels are exhaustive but for those it names so, ours says which are.

    Its negatives are verified as absent.
    """

    def named(key: str) -> tuple[str, ...]:
        ids = [validation.ident(i, f"{where}: {key}") for i in validation.rows(record, key, where, optional=True)]
        unknown = [i for i in ids if i not in categories]
        if unknown:
            raise ValueError(f"{where}: {key}: {validation.shown(unknown[0])} is not among the file's categories")
        return tuple(categories[i] for i in ids)

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


def categories(path: Path) -> list[dict[str, Any]]:
    """The categories of a file, or of the COCO files of a folder, as they number them: {id, name, supercategory}."""
    out: dict[str, dict[str, Any]] = {}
    for file in files_of(path):
        try:
            data = documents.read_json(file)
            if path.is_dir() and not _holds_coco(data):
                continue  # what is not read says nothing: panoptic files have categories of their own
            rows = validation.rows(data, "categories", str(file), optional=True)
        except ValueError:
            continue  # reading the samples has refused it
        for row in rows:
            if isinstance(row, Mapping) and isinstance(row.get("id"), int) and isinstance(row.get("name"), str):
                more = row.get("supercategory")
                kept = {"supercategory": more} if isinstance(more, str) else {}
                out.setdefault(row["name"], {"id": row["id"], "name": row["name"], **kept})
    return list(out.values())


def _space(file: Path, data: Record) -> str:
    """The label space: what the file calls itself, else its name."""
    info = data.get("info")
    if isinstance(info, Mapping) and isinstance(info.get("label_space"), str):
        return validation.word(info["label_space"], f"{file}: info: label_space", empty=True)  # as we write it
    title = info.get("description") if isinstance(info, Mapping) else None
    words = validation.word(title, f"{file}: info: description", empty=True) if isinstance(title, str) else ""
    bare = re.sub(r"[_.-]?[a-zA-Z]+[0-9]*", lambda word: "" if part_of(word[0]) else word[0], file.stem)  # one space
    return "-".join(words.casefold().split()) or bare or file.absolute().parent.name


def _folders(file: Path, images: str | Path | None) -> list[Path]:
    """Where a file's pictures may lie: beside it, in images/, or as COCO is unpacked (annotations/ beside val2017/)."""
    parts = [file.stem.rpartition("_")[2], *PARTS]
    if images is not None:
        return [Path(images), *(Path(images) / part for part in parts)]
    here, up = file.parent, file.parent / ".."
    return [here, here / "images", up / "images", *(folder / p for p in parts for folder in (here, up, up / "images"))]


def _source(annotation: Record) -> Source:
    """Who made an annotation, where a file of ours says it."""
    try:
        return from_json(Source, annotation["source"])
    except (KeyError, ValueError):
        return SOURCE


def _outline(segmentation: Any, where: str, box: Any) -> tuple[tuple[Polygon, ...], Rle | None]:
    """Polygons or a mask; an empty part, or one that repeats the box in four numbers, says nothing more."""
    where = f"{where}: segmentation"
    if not segmentation:
        return (), None
    if isinstance(segmentation, Mapping):
        return (), _mask(segmentation, where)
    if isinstance(segmentation, str) or not isinstance(segmentation, Sequence):
        raise ValueError(f"{where}: expected polygons or run lengths, got {validation.brief(segmentation)}")
    polygons = [validation.numbers(part, where) for part in segmentation if part != [] and part != box]
    for part in polygons:
        if len(part) < 6 or len(part) % 2:
            raise ValueError(f"{where}: expected at least three x, y pairs, got {len(part)} numbers")
    return tuple(polygons), None


def _mask(segmentation: Record, where: str) -> Rle:
    height, width = (validation.whole(v, where) for v in validation.numbers(segmentation.get("size"), where, 2))
    if height * width > pixels.MAX_PIXELS:
        raise ValueError(f"{where}: a mask of {width} x {height} pixels, over the limit of {pixels.MAX_PIXELS:,}")
    counts = validation.field(segmentation, "counts", where)
    if isinstance(counts, list):
        runs = [validation.whole(count, where) for count in counts]
        if sum(runs) != height * width:
            raise ValueError(f"{where}: mask: run lengths fill {sum(runs)} pixels; expected {height} x {width}")
        counts = geometry.pack_counts(runs)
    rle = Rle(height, width, validation.word(counts, f"{where}: counts", empty=True))
    try:
        geometry.rle_counts(rle)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return rle


def _joined(a: Sample, b: Sample) -> Sample:
    """What two files say of one picture; an item of the second that bears a name of the first gets one of its own."""
    taken = {text.id for text in a.texts} | {region.id for region in a.regions}

    def renamed(item: Any) -> Any:
        name = item.id
        while name in taken:
            name = f"{name}b"
        return item if name == item.id else dataclasses.replace(item, id=name)

    return dataclasses.replace(
        a,
        texts=a.texts + tuple(map(renamed, b.texts)),
        regions=a.regions + tuple(map(renamed, b.regions)),
        split=a.split or b.split,
        coverage={**a.coverage, **b.coverage},
    )

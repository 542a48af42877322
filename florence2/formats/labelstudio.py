"""Label Studio's JSON export: rectangles (turned ones too), polygons, transcriptions, captions. Twin: reads and writes.

Places are percents of the picture. `annotations` are a human's, `predictions` a model's. Several results of one id are
one region: a plain shape with a textarea is a word that was read, a labelled one keeps its label, and the textarea
describes it. Brush masks (their own run lengths), choices, relations and other controls have no place in a Sample and
are counted. What Label Studio has no field for goes into each result's `meta` and the task's `data`, under `florence2`;
it comes back where nobody has worked on the annotation since; which outline a shape is a part of comes back always.
Lost in writing: masks (outlines stay), groundings, verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from florence2 import geometry
from florence2.formats import documents, validation
from florence2.formats.frames import Frame
from florence2.formats.labelstudio_writer import HUMAN, OURS, write
from florence2.formats.lookup import Lookup, files_in, is_litter
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Coverage, Region, Sample, Source, Text, from_json

__all__ = ["is_labelstudio", "read", "write"]
SHAPES = {"rectanglelabels": "rectangle", "rectangle": "rectangle", "polygonlabels": "polygon", "polygon": "polygon"}
OTHER_SHAPES = frozenset(
    "brush brushlabels keypoint keypointlabels ellipse ellipselabels vector vectorlabels bitmask bitmasklabels".split()
)
TRANSCRIPTIONS = ("transcription", "text", "ocr")  # what the textarea is called whose words are read off a region
DETAILS = {
    "caption": "brief",
    "brief": "brief",
    "detailed": "detailed",
    "more_detailed": "more_detailed",
    "ocr": "ocr",
    "answer": "answer",
}
WORKED_ON = ("completed_by", "lead_time", "created_at")  # what Label Studio adds to an annotation that a person saved
SPACE = "labelstudio"


def is_labelstudio(path: Path) -> bool:
    """Whether a .json file begins as an export does: a list of tasks."""
    if path.suffix.lower() != ".json" or is_litter(path.name) or not path.is_file():
        return False
    start = documents.beginning(path, 65536)
    return start.startswith(b"[") and (start[1:].strip() in (b"", b"]") or b'"data"' in start)


def read(path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None) -> Iterator[Sample]:
    """The samples of an export file, or of every one in a folder."""
    return (sample for _, _, sample in _tasks(Path(path), images, problems or ReadProblems(), lambda task: task))


def read_completed(
    path: Path, images: str | Path | None, problems: ReadProblems
) -> Iterator[tuple[str, Mapping[str, Any], Sample]]:
    """Of each task that a person completed its place, itself with their last annotation alone, and its sample."""
    return _tasks(path, images, problems, _completed)


def _tasks(
    path: Path,
    images: str | Path | None,
    problems: ReadProblems,
    chosen: Callable[[Mapping[str, Any]], Mapping[str, Any] | None],
) -> Iterator[tuple[str, Mapping[str, Any], Sample]]:
    files = [p for p in files_in(path, (".json",)) if is_labelstudio(p)] if path.is_dir() else [path]
    seen: dict[Any, str] = {}
    for file in files:
        folder = Path(images) if images else file.parent
        lookup = Lookup(file.parent, [folder, folder / "images"], images)
        tasks: Any = []
        with problems.record():
            tasks = documents.read_json(file)
            if not isinstance(tasks, list):
                tasks = []
                raise ValueError(f"{file}: expected a list of tasks, as Label Studio's JSON export")
        for n, task in enumerate(tasks):
            with problems.record():
                where = f"{file}: task {n}"
                name = str(validation.ident(validation.record(task, where).get("id", n), f"{where}: id"))
                where = f"{file}: task {validation.shown(task.get('id', n))}"
                validation.once(seen, name, where)
                task = chosen(task)
                if task is None:
                    continue
                yield where, task, _sample(task, where, name, lookup, problems)


def _completed(task: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The task with the last annotation alone that a person completed and did not cancel; None where there is none."""
    annotations = task.get("annotations")
    done = [
        row
        for row in (annotations if isinstance(annotations, list) else ())
        if isinstance(row, Mapping) and not _cancelled(row) and any(row.get(mark) is not None for mark in WORKED_ON)
    ]
    return {**task, "annotations": done[-1:], "predictions": []} if done else None


def _cancelled(fields: Mapping[str, Any], where: str = "was_cancelled") -> bool:
    return validation.flag(fields.get("was_cancelled"), where)


def _sample(task: Mapping[str, Any], where: str, name: str, lookup: Lookup, problems: ReadProblems) -> Sample:
    data = validation.record(validation.field(task, "data", where), f"{where}: data")
    url = next((v for k, v in data.items() if k in ("image", "img", "ocr", "captioning") and isinstance(v, str)), None)
    if url is None:
        raise ValueError(f"{where}: data: expected an 'image' with a path or address")
    validation.word(url, f"{where}: data: image")
    lost = LostObjects(problems)
    speakers = list(_speakers(task, where, lost))
    picture = lookup.picture(_local_name(url, where), f"{where}: data: image")
    frame = _frame(picture, speakers, where, problems)
    texts: list[Text] = []
    regions: list[tuple[str, Region]] = []
    for speaker in speakers:
        _Results(frame, speaker, where, lost).read(texts, regions)
    placed = frame.in_shares().place(regions, lost)
    ours = data.get(OURS)
    if not isinstance(ours, Mapping):
        partial = {SPACE: (Coverage("partial"),)} if regions else {}
        return Sample(name, frame.image(url), tuple(texts), placed, coverage=partial)
    bare = {"id": str(ours.get("id") or name), "image": {"id": url, "licence": ours.get("licence") or ""}}
    try:
        known = from_json(Sample, {**bare, "split": ours.get("split") or "", "coverage": ours.get("coverage") or {}})
    except ValueError as error:
        raise ValueError(f"{where}: data: {OURS}: {error}") from None
    coverage = dict(known.coverage)
    for space in coverage:
        coverage = lost.withdraw(coverage, space, placed)
    image = frame.image(url, known.image.licence)
    return replace(known, image=image, texts=tuple(texts), regions=placed, coverage=coverage)


@dataclass(frozen=True)
class _Speaker:
    """One person's annotation, or one model's prediction."""

    results: Sequence[Any]
    source: Source
    score: float | None
    ours: bool


def _speakers(task: Mapping[str, Any], where: str, lost: LostObjects) -> Iterator[_Speaker]:
    problems = lost.problems
    for key in ("annotations", "predictions"):
        for n, entry in enumerate(validation.rows(task, key, where, optional=True)):
            place = f"{where}: {key}[{n}]"
            if isinstance(entry, int):
                problems.note(f"{key} are ids alone, which hold nothing", place)
                continue
            with lost.object():  # all that it holds
                entry = validation.record(entry, place)
                if _cancelled(entry, f"{place}: was_cancelled"):
                    problems.note("cancelled annotations are left out", place)
                    continue
                results = validation.rows(entry, "result", place, optional=True)
                if key == "annotations":
                    yield _Speaker(results, HUMAN, None, not any(mark in entry for mark in WORKED_ON))
                    continue
                version = validation.word(entry.get("model_version") or "", f"{place}: model_version", empty=True)
                score = validation.number(entry["score"], f"{where}: score") if entry.get("score") is not None else None
                yield _Speaker(results, Source("model", SPACE, version), score, True)


def _frame(picture: Path, speakers: Sequence[_Speaker], where: str, problems: ReadProblems) -> Frame:
    """The picture's frame; where results were made on one of another form, its size is 0: none can be placed."""
    sizes = []
    for result in (result for speaker in speakers for result in speaker.results if isinstance(result, Mapping)):
        with problems.record():
            sides = [
                validation.whole(result.get(f"original_{s}") or 0, f"{where}: result: original_{s}")
                for s in ("width", "height")
            ]
            if all(sides) and _kind(result) in SHAPES:
                sizes.append((sides[0], sides[1]))
    frames = [Frame.of(picture, size, where) for size in dict.fromkeys(sizes)] or [Frame.of(picture, (0, 0), where)]
    for frame in frames:
        try:
            frame.check_proportions()
        except ValueError as error:
            problems.refuse(error)
            return replace(frame, stated_wh=(0, 0), misfit=True)
    return frames[0]


def _kind(result: Any) -> str:
    kind = result.get("type") if isinstance(result, Mapping) else None
    return kind if isinstance(kind, str) else ""


class _Results:
    """The annotations of a picture by one person or model."""

    def __init__(self, frame: Frame, speaker: _Speaker, where: str, lost: LostObjects) -> None:
        self.frame, self.speaker, self.where, self.lost = frame, speaker, where, lost
        self.problems = lost.problems
        self.shapes: dict[str, tuple[str, Region]] = {}
        self.parts: list[tuple[str, str, str, Region]] = []  # of outlines: the export's id of the whole, key, where
        self.wholes: dict[str, str] = {}  # the export's id of a shape -> its key, which is another in some annotations
        self.labelled: set[str] = set()  # shapes that carry their label: a textarea describes these
        self.labels: dict[str, str] = {}
        self.words: list[tuple[str, str, str, Mapping[str, Any], bool]] = []

    def read(self, texts: list[Text], regions: list[tuple[str, Region]]) -> None:
        """Add the texts and regions."""
        for n, result in enumerate(self.speaker.results):
            with self.lost.object() if self._is_of_region(result) else self.problems.record():
                self._result(result, f"{self.where}: result {n}", f"{len(regions)}-{n}")
        self._join()
        for key, text, name, more, placed in self.words:
            if key in self.shapes:
                self._describe(key, text, name)
            elif placed:
                self.problems.note("words of a region that is not there are left out", self.where)
            else:
                own = {k: more[k] for k in ("question", "score", "source") if k in more}
                fields = {"source": self.speaker.source, "score": self.speaker.score, **own}
                texts.append(Text(f"t{len(texts)}", text, DETAILS.get(name, "brief"), **fields))
        taken = {region.id for _, region in regions}
        for key, (place, region) in self.shapes.items():
            if region.kind == "object":
                region = replace(region, label=region.label or self.labels.get(key, ""))
                if region.quad:  # a rotated rectangle around an object
                    region = replace(region, polygons=(region.quad,), quad=())
            elif self.labels.get(key):
                self.problems.note("labels of words that were read are left out", place)
            name = key if key not in taken else f"{key}-{len(regions)}"
            taken.add(name)
            regions.append((place, replace(region, id=name)))

    def _is_of_region(self, result: Any) -> bool:
        """Whether a region lacks something without this result: its shape, its label or its words."""
        kind = _kind(result)
        if kind == "textarea":
            value = result.get("value")
            return not isinstance(value, Mapping) or "x" in value or "points" in value
        return kind in SHAPES or kind in OTHER_SHAPES or kind in ("labels", "")

    def _result(self, result: Any, where: str, name: str) -> None:
        kind = validation.word(validation.field(result, "type", where), f"{where}: type")
        named = result.get("id") not in (None, "")
        key = str(validation.ident(result["id"], f"{where}: id")) if named else name
        where = f"{self.where}: result {validation.shown(result['id'])}" if named else where
        if kind not in SHAPES and kind not in ("labels", "textarea"):
            what = kind if kind.isidentifier() and len(kind) < 40 else validation.brief(kind)
            what = what if what.endswith("s") else f"{what}s"
            self.problems.note(f"{what} are left out: a Sample has no place for them", where)
            if kind in OTHER_SHAPES:
                self.lost.add()
            return
        value = validation.record(validation.field(result, "value", where), f"{where}: value")
        more = _more(result, where) if self.speaker.ours else {}
        if kind in SHAPES:
            self._shape(kind, key, result, value, more, where)
        elif kind == "labels":
            self.labels[key] = self._label(value, kind, where)
        else:
            words = value.get("text")
            parts = words if isinstance(words, list) else [words]
            text = "\n".join(validation.word(part, f"{where}: text", empty=True) for part in parts)
            name = str(result.get("from_name"))
            self.words.append((key, text, name, more, "x" in value or "points" in value))

    def _label(self, value: Mapping[str, Any], kind: str, where: str) -> str:
        labels = validation.rows(value, kind, where, optional=True)
        if len(labels) > 1:
            self.problems.note("second labels of a region are left out", where)
        return validation.word(labels[0], f"{where}: {kind}") if labels else ""

    def _shape(
        self, kind: str, key: str, result: Mapping[str, Any], value: Mapping[str, Any], more: dict[str, Any], where: str
    ) -> None:
        if self.frame.misfit:
            self.lost.add()
            return
        if not all(self.frame.size_wh):
            raise ValueError(f"{where}: has no 'original_width' and 'original_height', and the picture is not there")
        turned = validation.number(result.get("image_rotation") or 0, f"{where}: image_rotation")
        if turned % 360:
            raise ValueError(
                f"{where}: image_rotation: {turned:g}: places on a picture that was turned in Label Studio are not "
                "read; turn it back there, or turn the file itself and label it"
            )
        label = self._label(value, kind, where)
        shape = _region(SHAPES[kind], value, where, self.frame.size_wh)
        score = validation.number(result["score"], where) if result.get("score") is not None else self.speaker.score
        own: dict[str, Any] = {k: more[k] for k in ("label_space", "description", "ignore", "source") if k in more}
        fields: dict[str, Any] = {"label_space": SPACE, "source": self.speaker.source, "score": score, **own, **shape}
        region = Region(key, "object", label=label, **fields)
        validation.strings(region, where)
        named = _ours(result)
        if isinstance(named.get("part_of"), str) and region.polygons:
            self.parts.append((named["part_of"], key, where, region))
            return
        self._add(key, where, region)
        if isinstance(named.get("id"), str):
            self.wholes.setdefault(named["id"], key)

    def _add(self, key: str, where: str, region: Region) -> None:
        if key in self.shapes:
            raise ValueError(f"{where}: duplicate id {validation.brief(key)}; another shape of this annotation has it")
        if region.label:
            self.labelled.add(key)
        self.shapes[key] = (where, region)

    def _join(self) -> None:
        """Further parts of outlines, joined to these; what a person made a thing of its own is a region."""
        described = {key for key, *_ in self.words}
        for name, key, where, region in self.parts:
            kept = name in self.shapes  # the ids of the export: a part under another one is a copy
            whole = name if kept else self.wholes.get(name, "")
            label = region.label or self.labels.get(key, "")
            place, base = self.shapes.get(whole, ("", region))
            alike = label == (base.label or self.labels.get(whole, "")) and base.polygons and key not in described
            if not place or not alike or (kept and not key.startswith(f"{name}:")):
                with self.lost.object():
                    self._add(key, where, region)
                continue
            outline = (*base.polygons, *region.polygons)
            self.shapes[whole] = (place, replace(base, polygons=outline, box=geometry.polygon_box(*outline)))

    def _describe(self, key: str, text: str, name: str) -> None:
        """Words on a shape: what is read there, or a remark on an object that has a label of its own."""
        place, region = self.shapes[key]
        if key in self.labelled and name not in TRANSCRIPTIONS:
            region = replace(region, description=region.description or text)
        else:
            if key in self.labelled:
                self.problems.note("labels of words that were read are left out", place)
            outline = region.polygons[0] if region.polygons else ()
            quad = region.quad or (geometry.box_quad(region.box) if region.box and not outline else ())
            if len(outline) == 8 and len(region.polygons) == 1:  # four corners around words
                region, quad = replace(region, polygons=()), outline
            region = replace(region, kind="text", label=text, quad=quad)
        self.shapes[key] = (place, region)


def _local_name(url: str, where: str) -> str:
    """The path that an address of Label Studio's means: /data/local-files/?d=a/b.jpg, /data/upload/3/b.jpg, s3://..."""
    try:
        parsed = urlparse(url)
    except ValueError:
        raise ValueError(f"{where}: data: image: {validation.brief(url)} is no address") from None
    if parsed.query.startswith("d="):
        return unquote(parsed.query[2:])
    return unquote(parsed.path).lstrip("/") if parsed.scheme or url.startswith("/data/") else url


def _ours(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a result of an export of ours holds in its `meta`, as it is."""
    meta = result.get("meta")
    own = meta.get(OURS) if isinstance(meta, Mapping) else None
    return own if isinstance(own, Mapping) else {}


def _more(result: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What a result of ours holds in its `meta` beside Label Studio's own fields."""
    own = _ours(result)
    kinds = {"label_space": str, "description": str, "ignore": bool, "question": str, "score": float}
    out = {key: value for key, value in own.items() if key in kinds and isinstance(value, kinds[key])}
    if "source" in own:
        try:
            out["source"] = from_json(Source, own["source"])
        except ValueError as error:
            raise ValueError(f"{where}: meta: {OURS}: {error}") from None
    return out


def _region(shape: str, value: Mapping[str, Any], where: str, size_wh: tuple[int, int]) -> dict[str, Any]:
    width, height = size_wh
    if shape == "polygon":
        points = [validation.numbers(p, f"{where}: points", 2) for p in validation.rows(value, "points", where)]
        if len(points) < 3:
            raise ValueError(f"{where}: points: expected at least 3, got {len(points)}")
        outline = tuple(v for x, y in points for v in (x * width / 100, y * height / 100))
        return {"box": geometry.polygon_box(outline), "polygons": (outline,)}
    x, y, w, h = (
        validation.number(validation.field(value, key, where), f"{where}: {key}")
        for key in ("x", "y", "width", "height")
    )
    left, top, wide, high = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    angle = validation.number(value.get("rotation") or 0, where)
    if not angle:
        return {"box": (left, top, left + wide, top + high)}
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))  # turned clockwise about the top left
    corners = ((0.0, 0.0), (wide, 0.0), (wide, high), (0.0, high))
    quad = tuple(v for dx, dy in corners for v in (left + dx * cos - dy * sin, top + dx * sin + dy * cos))
    return {"box": geometry.polygon_box(quad), "quad": quad}

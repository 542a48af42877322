"""Label Studio's JSON export: rectangles (turned ones too), polygons, transcriptions, captions. Twin: reads and writes.

Places are percents of the picture. `annotations` are a human's, `predictions` a model's. Brush masks (their own run
lengths), relations and other controls are not read: a result of another type is refused by name. What Label Studio has
no field for goes into each result's `meta` and the task's `data`, under `florence2`; it comes back where nobody has
worked on the annotation since. Lost in writing: masks (outlines stay), groundings, verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from florence2 import geometry
from florence2.formats import validation
from florence2.formats.labelstudio_writer import HUMAN, OURS, write
from florence2.records import Coverage, Region, Sample, Source, Text, from_json

__all__ = ["is_labelstudio", "read", "write"]
SHAPES = {"rectanglelabels": "rectangle", "rectangle": "rectangle", "polygonlabels": "polygon", "polygon": "polygon"}
DETAILS = {
    "caption": "brief",
    "brief": "brief",
    "detailed": "detailed",
    "more_detailed": "more_detailed",
    "ocr": "ocr",
    "answer": "answer",
}
WORKED_ON = ("completed_by", "lead_time", "created_at")  # what Label Studio adds to an annotation that a person saved


def is_labelstudio(path: Path) -> bool:
    """Whether a .json file begins as an export does: a list of tasks."""
    if path.suffix != ".json" or not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(65536).lstrip(b"\xef\xbb\xbf \r\n\t")
    return start.startswith(b"[") and (start[1:].strip() in (b"", b"]") or b'"data"' in start)


def read(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """The samples of an export file, or of every one in a folder."""
    path = Path(path)
    files = sorted(p for p in path.glob("*.json") if is_labelstudio(p)) if path.is_dir() else [path]
    seen: dict[Any, str] = {}
    for file in files:
        tasks = validation.read_json(file)
        if not isinstance(tasks, list):
            raise ValueError(f"{file}: expected a list of tasks, as Label Studio's JSON export")
        for n, task in enumerate(tasks):
            where = f"{file}: task {task.get('id', n) if isinstance(task, Mapping) else n}"
            name = str(task.get("id", n)) if isinstance(task, Mapping) else str(n)
            try:
                validation.once(seen, name, where)
                sample = _sample(task, where, name, Path(images) if images else file.parent)
            except ValueError as error:
                validation.refuse(error)
                continue
            yield sample


def _sample(task: Any, where: str, name: str, folder: Path) -> Sample:
    data = validation.field(task, "data", where)
    url = next((v for k, v in data.items() if k in ("image", "img", "ocr", "captioning") and isinstance(v, str)), None)
    if url is None:
        raise ValueError(f"{where}: data: expected an 'image' with a path or address")
    texts: list[Text] = []
    regions: list[Region] = []
    size = (0, 0)
    for said in task.get("annotations") or []:
        if not said.get("was_cancelled"):
            as_written = not any(key in said for key in WORKED_ON)
            size = _read_results(said.get("result") or [], where, HUMAN, None, texts, regions, as_written) or size
    for said in task.get("predictions") or []:
        source = Source("model", "labelstudio", str(said.get("model_version") or ""))
        score = validation.number(said["score"], f"{where}: score") if said.get("score") is not None else None
        size = _read_results(said.get("result") or [], where, source, score, texts, regions) or size
    local = _local_name(url)
    picture = validation.find_picture(local, [folder, folder / "images"])
    if not picture.is_file():
        picture = validation.find_picture(Path(local).name, [folder, folder / "images"])
    ours = data.get(OURS) if isinstance(data.get(OURS), Mapping) else None
    if ours is None:
        partial = {"labelstudio": (Coverage("partial"),)} if regions else {}
        return Sample(name, validation.image_ref(url, picture, *size), tuple(texts), tuple(regions), coverage=partial)
    image = validation.image_ref(url, picture, *size, licence=str(ours.get("licence") or ""))
    bare = {"id": str(ours.get("id") or name), "image": {"id": url}, "split": ours.get("split") or ""}
    try:
        told = from_json(Sample, {**bare, "coverage": ours.get("coverage") or {}})
    except ValueError as error:
        raise ValueError(f"{where}: data: {OURS}: {error}") from None
    return replace(told, image=image, texts=tuple(texts), regions=tuple(regions))


def _local_name(url: str) -> str:
    """The path that an address of Label Studio's means: /data/local-files/?d=a/b.jpg, /data/upload/3/b.jpg, s3://..."""
    parsed = urlparse(url)
    if parsed.query.startswith("d="):
        return unquote(parsed.query[2:])
    return unquote(parsed.path).lstrip("/") if parsed.scheme or url.startswith("/data/") else url


def _read_results(
    results: list,
    where: str,
    source: Source,
    score: float | None,
    texts: list[Text],
    regions: list[Region],
    ours: bool = True,
) -> tuple[int, int] | None:
    """Add what one person or model said; the picture's size where a result tells it."""
    by_id: dict[str, Region] = {}
    words: dict[str, str] = {}
    size = None
    for n, result in enumerate(results):
        place = f"{where}: result {result.get('id', n) if isinstance(result, Mapping) else n}"
        kind = str(validation.field(result, "type", place))
        value = validation.field(result, "value", place)
        key = str(result.get("id", f"{len(regions)}-{n}"))
        more = _more(result, place) if ours else {}
        if kind in SHAPES:
            sides = (
                validation.whole(validation.field(result, f"original_{s}", place), place) for s in ("width", "height")
            )
            size = (next(sides), next(sides))
            labels = value.get(kind) or []
            shape = _region(SHAPES[kind], value, place, size)
            label = str(labels[0]) if labels else by_id[key].label if key in by_id else ""
            own = validation.number(result["score"], place) if result.get("score") is not None else score
            base = by_id.get(str(more.pop("part_of", "")))
            if base is not None:  # a further part of an outline
                outline = (*base.polygons, *shape.get("polygons", ()))
                by_id[base.id] = replace(base, polygons=outline, box=geometry.polygon_box(*outline))
                continue
            fields = {"label_space": "labelstudio", "source": source, **more, **shape}
            by_id[key] = Region(key, "object", label=label, score=own, **fields)
        elif kind == "labels" and key in by_id:
            continue
        elif kind == "textarea":
            said = value.get("text")
            said = "\n".join(map(str, said)) if isinstance(said, list) else str(said or "")
            words[key] = said
            if "x" not in value and "points" not in value:
                detail = DETAILS.get(str(result.get("from_name")), "brief")
                texts.append(Text(f"t{len(texts)}", said, detail, **{"source": source, "score": score, **more}))
        else:
            raise ValueError(f"{place}: type {kind!r} is not read; expected one of {', '.join(SHAPES)}, textarea")
    for key, region in by_id.items():
        if key in words:
            outline = region.polygons[0] if region.polygons else ()
            quad = region.quad or (geometry.box_quad(region.box) if region.box and not outline else ())
            if len(outline) == 8 and len(region.polygons) == 1:  # four corners around words
                region, quad = replace(region, polygons=()), outline
            region = replace(region, kind="text", label=words[key], quad=quad)
        elif region.quad:  # a turned rectangle around a thing
            region = replace(region, polygons=(region.quad,), quad=())
        taken = {other.id for other in regions}
        regions.append(replace(region, id=key if key not in taken else f"{key}-{len(regions)}"))
    return size


def _more(result: Mapping, where: str) -> dict[str, Any]:
    """What a result of ours holds in its `meta` beside Label Studio's own fields."""
    meta = result.get("meta")
    said = meta.get(OURS) if isinstance(meta, Mapping) else None
    if not isinstance(said, Mapping):
        return {}
    kinds = {"label_space": str, "description": str, "ignore": bool, "question": str, "part_of": str, "score": float}
    out = {key: value for key, value in said.items() if key in kinds and isinstance(value, kinds[key])}
    if "source" in said:
        try:
            out["source"] = from_json(Source, said["source"])
        except ValueError as error:
            raise ValueError(f"{where}: meta: {OURS}: {error}") from None
    return out


def _region(shape: str, value: Mapping, where: str, size_wh: tuple[int, int]) -> dict[str, Any]:
    width, height = size_wh
    if shape == "polygon":
        points = [validation.numbers(p, f"{where}: points", 2) for p in validation.field(value, "points", where)]
        if len(points) < 3:
            raise ValueError(f"{where}: points: expected at least 3, got {len(points)}")
        outline = tuple(v for x, y in points for v in (x * width / 100, y * height / 100))
        return {"box": geometry.polygon_box(outline), "polygons": (outline,)}
    x, y, w, h = (
        validation.number(validation.field(value, key, where), where) for key in ("x", "y", "width", "height")
    )
    left, top, wide, high = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    angle = validation.number(value.get("rotation") or 0, where)
    if not angle:
        return {"box": (left, top, left + wide, top + high)}
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))  # turned clockwise about the top left
    corners = ((0.0, 0.0), (wide, 0.0), (wide, high), (0.0, high))
    quad = tuple(v for dx, dy in corners for v in (left + dx * cos - dy * sin, top + dx * sin + dy * cos))
    return {"box": geometry.quad_box(quad), "quad": quad}

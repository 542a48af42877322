"""Label Studio's tasks written: tasks.json beside images/; `labelstudio` reads them back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from florence2 import geometry
from florence2.formats import export_files
from florence2.records import Region, Sample, Source, Text, to_json

HUMAN = Source("human", "labelstudio")
OURS = "florence2"
HOLDS = frozenset(("texts", "regions", "split", "licence", "source"))


def write(samples: Iterable[Sample], path: str | Path) -> Counter[str]:
    """FOLDER/tasks.json for Label Studio's import, the pictures in FOLDER/images; counts what is lost.

    What people and data sets say becomes an annotation, all else predictions by source. A quad is written as a polygon.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    lost: Counter[str] = Counter()
    names = export_files.Names()
    tasks = []
    for sample in samples:
        size_wh = export_files.size_of(sample)
        name = names.of(sample)
        export_files.place_picture(sample, folder / "images" / name, lost)
        sample = export_files.count_lost(sample, lost, HOLDS, words=True)
        said: dict[tuple[bool, str], list[dict]] = {}
        items: tuple[Region | Text, ...] = (*sample.regions, *sample.texts)
        for item in items:
            human = item.source is None or item.source.kind in ("human", "import")
            version = "" if human or item.source is None else item.source.version or item.source.name
            rows = _results(item, size_wh, lost) if isinstance(item, Region) else _text_results(item, lost)
            said.setdefault((human, version), []).extend(rows)
        task: dict[str, Any] = {"id": int(sample.id)} if sample.id.isdigit() else {}
        ours = {"id": sample.id, "split": sample.split, "licence": sample.image.licence}
        ours["coverage"] = to_json(sample).get("coverage", {})
        task["data"] = {"image": f"images/{name}", OURS: {key: value for key, value in ours.items() if value}}
        task["annotations"] = [{"result": rows} for (human, _), rows in said.items() if human]
        models = [{"model_version": v, "result": rows} for (human, v), rows in said.items() if not human]
        tasks.append({**task, "predictions": models})
    aside = folder / ".tasks.json.part"
    aside.write_text(json.dumps(tasks, ensure_ascii=False), encoding="utf-8")
    os.replace(aside, folder / "tasks.json")
    return lost


def _results(region: Region, size_wh: tuple[int, int], lost: Counter[str]) -> list[dict[str, Any]]:
    width, height = size_wh
    shared: dict[str, Any] = {"id": region.id, "original_width": width, "original_height": height, "to_name": "image"}
    shared.update({"image_rotation": 0}, **({"score": region.score} if region.score is not None else {}))
    shared.update(_meta(region, label_space=region.label_space, description=region.description, ignore=region.ignore))
    polygons = list(region.polygons) or ([region.quad] if region.quad else [])
    lost["mask"] += region.mask is not None
    if region.mask is not None and not polygons:
        polygons = list(geometry.mask_polygons(geometry.decode_rle(region.mask)))
    polygons = [p for p in polygons if len(p) >= 6]
    box = region.box
    if polygons and not (region.kind == "text" and box and polygons[0] == geometry.box_quad(box)):
        part = polygons[0]
        points = [[x * 100 / width, y * 100 / height] for x, y in zip(part[::2], part[1::2])]
        value: dict[str, Any] = {"points": points, "closed": True}
        kind = "polygon"
    elif box is not None:
        x1, y1, x2, y2 = box
        sides = {"width": (x2 - x1) * 100 / width, "height": (y2 - y1) * 100 / height}
        value = {"x": x1 * 100 / width, "y": y1 * 100 / height, **sides, "rotation": 0}
        kind = "rectangle"
    else:
        lost["region_without_place"] += 1
        return []
    if region.kind == "text":
        words = {**shared, "from_name": "transcription", "type": "textarea", "value": {**value, "text": [region.label]}}
        return [{**shared, "from_name": kind, "type": kind, "value": value}, words]
    key = f"{kind}labels"
    label = {key: [region.label] if region.label else []}
    rows = [{**shared, "from_name": "label", "type": key, "value": {**value, **label}}]
    for n, part in enumerate(polygons[1:] if kind == "polygon" else (), 1):
        points = [[x * 100 / width, y * 100 / height] for x, y in zip(part[::2], part[1::2])]
        place = {"id": f"{region.id}:{n}", "meta": {OURS: {"part_of": region.id}}}
        value = {"points": points, "closed": True, **label}
        rows.append({**shared, **place, "from_name": "label", "type": key, "value": value})
    return rows


def _meta(item: Region | Text, **fields: Any) -> dict[str, Any]:
    """What Label Studio has no field for."""
    said = {key: value for key, value in fields.items() if value}
    source = item.source
    if source is not None and source != HUMAN:
        said["source"] = {"kind": source.kind, "name": source.name, "version": source.version}
    return {"meta": {OURS: said}} if said else {}


def _text_results(text: Text, lost: Counter[str]) -> list[dict[str, Any]]:
    name = {"brief": "caption"}.get(text.detail, text.detail)
    shared = {"id": text.id, "from_name": name, "to_name": "image", "type": "textarea"}
    more = _meta(text, question=text.question, score=text.score)
    return [{**shared, **more, "value": {"text": [text.text]}}]

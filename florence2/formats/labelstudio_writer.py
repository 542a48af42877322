"""Label Studio's tasks written: tasks.json and the labelling config beside images/; `labelstudio` reads them back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from florence2 import geometry
from florence2.atomic_files import write_atomic
from florence2.formats import export_files
from florence2.formats.export_files import PLAIN, Export, ExportOptions, xml_text
from florence2.records import Region, Sample, Source, Text, to_json

HUMAN = Source("human", "labelstudio")
OURS = "florence2"
HOLDS = frozenset(("texts", "regions", "split", "licence", "source"))
# type of a result -> the control of the config that it belongs to, by name
CONTROLS = {"rectanglelabels": "label", "polygonlabels": "outline", "rectangle": "rectangle", "polygon": "polygon"}


def write(samples: Iterable[Sample], path: str | Path, options: ExportOptions = PLAIN) -> Counter[str]:
    """FOLDER/tasks.json for Label Studio's import with its config.xml, the pictures in FOLDER/images; counts losses.

    What people and data sets annotated becomes an annotation, all else one prediction: Label Studio shows a single one,
    and what it does not show would come back as deleted. A quad is written as a polygon.
    """
    export = Export(Path(path), options)
    names, tasks = export_files.Names(), _Tasks(options.export_id, export.lost)
    for sample in samples:
        export_files.size_of(sample)
        file = options.picture(sample.image)
        name = f"images/{names.of(file.name)}"
        export.place(sample.image, file, name)
        tasks.add(sample, _address(options.image_prefix, name))
    export.write_text("config.xml", tasks.config.xml())
    export.write_json("tasks.json", tasks.rows)
    return export.finish()


def write_tasks(
    samples: Iterable[Sample], file: Path, address: Callable[[Sample], str], export_id: str, labels: Iterable[str]
) -> Counter[str]:
    """FILE.json, with its labelling config beside it as FILE.xml, for pictures that stay where they are; counts losses.

    `address` is where Label Studio finds a sample's picture; `labels` are offered beside those that the samples use.
    All that a sample holds, people's items too, is one prediction, from which a person begins.
    """
    lost: Counter[str] = Counter()
    tasks = _Tasks(export_id, lost, begun=False)
    for sample in samples:
        tasks.add(sample, address(sample))
    tasks.config.offer(labels)
    write_atomic(file.with_suffix(".xml"), tasks.config.xml())
    write_atomic(file, json.dumps(tasks.rows, ensure_ascii=False))
    return lost


def config_of(tasks: Iterable[Mapping[str, Any]], labels: Iterable[str]) -> str:
    """The config that `write_tasks` put beside these tasks of its own; `labels` are those offered, in their order."""
    config = _Config()
    for task in tasks:
        for prediction in task["predictions"]:
            config.add(prediction["result"])
    config.offer(labels)
    return config.xml()


class _Tasks:
    """Tasks as Label Studio imports them, and the config that holds what they use."""

    def __init__(self, export_id: str, lost: Counter[str], begun: bool = True) -> None:
        self.export_id, self.lost = export_id, lost
        self.begun = begun  # what people and data sets annotated is an annotation, not part of the prediction
        self.config = _Config()
        self.rows: list[dict[str, Any]] = []

    def add(self, sample: Sample, address: str) -> None:
        """A task for one picture."""
        size_wh = export_files.size_of(sample)
        sample = export_files.count_lost(sample, self.lost, HOLDS, words=True)
        own_rows: list[dict[str, Any]] = []
        predicted: list[dict[str, Any]] = []
        items: tuple[Region | Text, ...] = (*sample.regions, *sample.texts)
        for item in items:
            rows = _results(item, size_wh, self.lost) if isinstance(item, Region) else _text_results(item)
            (own_rows if self.begun and _is_annotation(item.source) else predicted).extend(rows)
            self.config.add(rows)
        own = sample.id.isascii() and sample.id.isdecimal()
        task: dict[str, Any] = {"id": int(sample.id)} if own and len(sample.id) < 16 else {}
        ours = {"id": sample.id, "split": sample.split, "licence": sample.image.licence, "export": self.export_id}
        ours["coverage"] = to_json(sample).get("coverage", {})
        task["data"] = {"image": address, OURS: {key: value for key, value in ours.items() if value}}
        task["annotations"] = [{"result": own_rows}] if own_rows else []
        task["predictions"] = [_prediction(predicted)] if predicted else []
        self.rows.append(task)


def _is_annotation(source: Source | None) -> bool:
    return source is None or source.kind in ("human", "import")


def _prediction(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of one version in all tasks: Label Studio begins annotations with those of the version that a project has set."""
    scores = [row["score"] for row in rows if "score" in row]
    score = {"score": sum(scores) / len(scores)} if scores and len(scores) == len(rows) else {}  # it is each row's else
    return {"model_version": OURS, **score, "result": rows}


def _address(prefix: str, name: str) -> str:
    if not prefix:
        return name
    return prefix + ("" if prefix.endswith(("/", "=")) else "/") + quote(name)


class _Config:
    """The labelling config that holds all that the tasks use."""

    def __init__(self) -> None:
        self.labels: dict[str, None] = {}
        self.used: dict[str, str] = {}  # a control's name -> the type of its results
        self.words: set[str] = set()  # text areas that belong to a region

    def add(self, results: Iterable[dict[str, Any]]) -> None:
        """Note what the results of an item use."""
        for row in results:
            self.used[row["from_name"]] = row["type"]
            self.offer(row["value"].get(row["type"], ()) if "labels" in row["type"] else ())
            if row["type"] == "textarea" and len(row["value"]) > 1:
                self.words.add(row["from_name"])

    def offer(self, labels: Iterable[str]) -> None:
        """Labels to choose from."""
        self.labels.update(dict.fromkeys(map(xml_text, labels)))

    def xml(self) -> str:
        """The config as Label Studio reads it."""
        root = ElementTree.Element("View")
        ElementTree.SubElement(root, "Image", name="image", value="$image")
        for tag, name in (("RectangleLabels", "label"), ("PolygonLabels", "outline")):
            node = ElementTree.SubElement(root, tag, name=name, toName="image")
            for label in self.labels:
                ElementTree.SubElement(node, "Label", value=label)
        for name in self.used:
            if name in ("rectangle", "polygon"):
                ElementTree.SubElement(root, name.capitalize(), name=name, toName="image")
            elif self.used[name] == "textarea":
                node = ElementTree.SubElement(root, "TextArea", name=name, toName="image", editable="true")
                if name in self.words:
                    node.set("perRegion", "true")
        ElementTree.indent(root)
        return ElementTree.tostring(root, "unicode") + "\n"


def _results(region: Region, size_wh: tuple[int, int], lost: Counter[str]) -> list[dict[str, Any]]:
    width, height = size_wh
    shared: dict[str, Any] = {"id": region.id, "original_width": width, "original_height": height, "to_name": "image"}
    shared.update({"image_rotation": 0}, **({"score": region.score} if region.score is not None else {}))
    fields = {"label_space": region.label_space, "description": region.description, "ignore": region.ignore}
    shared.update(_meta(region, id=region.id, **fields))
    polygons = list(region.polygons) or ([region.quad] if region.quad else [])
    lost["mask"] += region.mask is not None
    if region.mask is not None and not polygons:
        polygons = list(geometry.mask_polygons(geometry.decode_rle(region.mask)))
    polygons = [p for p in polygons if len(p) >= 6]
    box = region.box
    if polygons and not (region.kind == "text" and box and polygons[0] == geometry.box_quad(box)):
        value: dict[str, Any] = {"points": _points(polygons[0], size_wh), "closed": True}
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
        return [{**shared, "from_name": CONTROLS[kind], "type": kind, "value": value}, words]
    key = f"{kind}labels"
    label = {key: [region.label] if region.label else []}
    rows = [{**shared, "from_name": CONTROLS[key], "type": key, "value": {**value, **label}}]
    for n, part in enumerate(polygons[1:] if kind == "polygon" else (), 1):
        place = {"id": f"{region.id}:{n}", "meta": {OURS: {"part_of": region.id}}}
        value = {"points": _points(part, size_wh), "closed": True, **label}
        rows.append({**shared, **place, "from_name": CONTROLS[key], "type": key, "value": value})
    return rows


def _points(part: tuple[float, ...], size_wh: tuple[int, int]) -> list[list[float]]:
    width, height = size_wh
    return [[x * 100 / width, y * 100 / height] for x, y in zip(part[::2], part[1::2])]


def _meta(item: Region | Text, **fields: Any) -> dict[str, Any]:
    """What Label Studio has no field for."""
    more = {key: value for key, value in fields.items() if value}
    source = item.source
    if source is not None and source != HUMAN:
        more["source"] = {"kind": source.kind, "name": source.name, "version": source.version}
    return {"meta": {OURS: more}} if more else {}


def _text_results(text: Text) -> list[dict[str, Any]]:
    name = {"brief": "caption"}.get(text.detail, text.detail)
    shared = {"id": text.id, "from_name": name, "to_name": "image", "type": "textarea"}
    more = _meta(text, id=text.id, question=text.question, score=text.score)
    return [{**shared, **more, "value": {"text": [text.text]}}]

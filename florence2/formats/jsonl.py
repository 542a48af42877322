"""Our own JSON Lines: a line is a Sample with the records' names, defaults left out.

`image` may be a path instead of an object; a path is relative to the file. Lossless both ways.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from florence2.formats import validation
from florence2.formats.export_files import PLAIN, Options
from florence2.records import ImageRef, Item, Sample, from_json, to_json

LOCAL = "://"  # what a uri holds that is no path


def read(path: str | Path, images: str | Path | None = None) -> Iterator[Sample]:
    """The samples of a file, or of every .jsonl file of a folder."""
    path = Path(path)
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: holds no .jsonl file")
    seen: dict[str, str] = {}
    for file in files:
        for number, line in enumerate(validation.read_text(file).split("\n"), 1):
            if not line.strip():
                continue
            try:
                sample = _sample(line, f"{file}:{number}", Path(images) if images else file.parent)
                validation.once(seen, sample.id, f"{file}:{number}")
            except ValueError as error:
                validation.refuse(error)
                continue
            yield sample


def write(samples: Iterable[Sample], path: str | Path, options: Options = PLAIN) -> Counter[str]:
    """One line a sample; a folder gets the file samples.jsonl. Nothing is lost; no option changes it."""
    path = Path(path)
    file = path if path.suffix == ".jsonl" else path / "samples.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.part")
    with open(aside, "w", encoding="utf-8") as out:
        for sample in samples:
            uri = sample.image.uri
            if uri and LOCAL not in uri and not uri.startswith("scenes:"):
                uri = os.path.relpath(Path(uri).resolve(), file.parent.resolve())
            record = to_json(dataclasses.replace(sample, image=dataclasses.replace(sample.image, uri=uri)))
            out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    os.replace(aside, file)
    return Counter()


def _sample(line: str, where: str, folder: Path) -> Sample:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg}); a line is one sample") from None
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a sample as an object, got {line.strip()[:60]}")
    image = data.get("image")
    if isinstance(image, str):
        data["image"] = {"id": image, "uri": image}
        data.setdefault("id", image)
    try:
        sample = from_json(Sample, data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    check_sample(sample, where)
    return dataclasses.replace(sample, image=_placed(sample.image, folder))


def _placed(image: ImageRef, folder: Path) -> ImageRef:
    uri = image.uri
    if not uri or LOCAL in uri or uri.startswith("scenes:"):
        return image
    found = validation.image_ref(image.id, folder / uri, image.width, image.height)
    return dataclasses.replace(image, uri=found.uri, width=found.width, height=found.height)


def check_sample(sample: Sample, where: str) -> None:
    """Refuse what no reader of samples could use: ids met twice, names without an owner, numbers that are none."""
    seen: dict[str, str] = {}
    items: tuple[Item, ...] = (*sample.texts, *sample.regions, *sample.groundings)
    for item in items:
        if item.id:
            validation.once(seen, item.id, f"{where}: {type(item).__name__}")
        if item.score is not None:
            validation.number(item.score, f"{where}: score of {item.id!r}")
    for region in sample.regions:
        place = f"{where}: region {region.id!r}"
        if region.box is not None:
            validation.numbers(region.box, f"{place}: box", 4)
        if region.quad:
            validation.numbers(region.quad, f"{place}: quad", 8)
        for polygon in region.polygons:
            validation.numbers(polygon, f"{place}: polygons")
            if len(polygon) % 2:
                raise ValueError(f"{place}: polygons: expected x, y pairs, got {len(polygon)} numbers")
    known = {text.id for text in sample.texts} | {region.id for region in sample.regions}
    texts = {text.id: text.text for text in sample.texts}
    for grounding in sample.groundings:
        place = f"{where}: grounding {grounding.id!r}"
        orphans = [i for i in grounding.region_ids if i not in known]
        if orphans or (grounding.text_id and grounding.text_id not in known):
            raise ValueError(f"{place}: names {(orphans or [grounding.text_id])[0]!r}, which the sample does not hold")
        for start, end in grounding.spans:
            if grounding.text_id and not 0 <= start < end <= len(texts.get(grounding.text_id, "")):
                raise ValueError(f"{place}: span [{start}, {end}) lies outside its text")

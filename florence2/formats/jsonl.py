"""Our own JSON Lines: a line is a Sample with the records' names, defaults left out.

`image` may be a path instead of an object; a path is relative to the file and may lead anywhere. Lossless both ways.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from florence2 import geometry
from florence2.atomic_files import replacing
from florence2.formats import documents, validation
from florence2.formats.export_files import PLAIN, ExportOptions
from florence2.formats.frames import FARTHEST, Frame
from florence2.formats.lookup import Lookup, matching
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.records import Decision, Grounding, Item, Region, Sample, Text, from_json, to_json

LOCAL = "://"  # what a uri holds that is no path
OUTLINES: dict[str, Any] = {"polygons": (), "quad": (), "mask": None}  # what a region may lack beside its box
STATES = ("exhaustive", "partial", "negatives")
ITEMS: dict[str, type] = {"texts": Text, "regions": Region, "groundings": Grounding, "decisions": Decision}


def read(path: str | Path, images: str | Path | None = None, problems: ReadProblems | None = None) -> Iterator[Sample]:
    """The samples of a file, or of every .jsonl file of a folder."""
    path, problems = Path(path), problems or ReadProblems()
    files = matching(path, "*.jsonl") if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path}: holds no .jsonl file")
    seen: dict[str, str] = {}
    for file in files:
        folder = Path(images) if images else file.parent
        lookup = Lookup(folder, [folder], anywhere=True)
        for where, line in lines(file, problems):
            with problems.record():
                sample = parse_line(line, where, lookup, problems)
                validation.once(seen, sample.id, where)
                yield sample


def lines(file: Path, problems: ReadProblems) -> Iterator[tuple[str, str]]:
    """The lines of a file that are not blank, each with its place."""
    with problems.record():
        for number, line in enumerate(documents.read_text(file).split("\n"), 1):
            if line.strip():
                yield f"{file}:{number}", line


def write(samples: Iterable[Sample], path: str | Path, options: ExportOptions = PLAIN) -> Counter[str]:
    """One line a sample; a folder gets the file samples.jsonl. Nothing is lost; no option changes it."""
    path = Path(path)
    file = path if path.suffix == ".jsonl" else path / "samples.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, sole=True) as temp_path, open(temp_path, "w", encoding="utf-8") as out:
        for sample in samples:
            uri = sample.image.uri
            if uri and LOCAL not in uri and not uri.startswith("scenes:"):
                uri = os.path.relpath(Path(uri).resolve(), file.parent.resolve())
            record = to_json(dataclasses.replace(sample, image=dataclasses.replace(sample.image, uri=uri)))
            out.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    return Counter()


def parse_line(line: str, where: str, lookup: Lookup, problems: ReadProblems) -> Sample:
    """The sample of a line, its picture found by `lookup`."""
    data = documents.parse_json(line, where)
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a sample as an object, got {line.strip()[:60]}")
    if isinstance(data.get("image"), str):
        data.setdefault("id", data["image"])
        data["image"] = {"id": data["image"], "uri": data["image"]}
    lost = LostObjects(problems)
    items = {key: _items(data.pop(key), kind, f"{where}: {key}", lost) for key, kind in ITEMS.items() if key in data}
    try:
        sample = from_json(Sample, data)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    validation.strings(sample.image, f"{where}: image")
    validation.word(sample.id, f"{where}: id")
    validation.word(sample.split, f"{where}: split", empty=True)
    for space, states in sample.coverage.items():
        for state in states:
            if state.state not in STATES:
                shown = validation.brief(state.state)
                raise ValueError(f"{where}: coverage: {space}: expected one of {', '.join(STATES)}, got {shown}")
    held: Any = items
    sample = dataclasses.replace(sample, **held)
    good = _good_items(sample, where, lost)
    return _placed(sample, good, where, lookup, lost)


def _items(values: Any, kind: type, where: str, lost: LostObjects) -> tuple[Any, ...]:
    """The records of a list; one that is none is refused alone."""
    if not isinstance(values, list):
        with lost.object() if kind is Region else lost.problems.record():
            raise ValueError(f"{where}: expected a list, got {validation.brief(values)}")
        return ()
    out: list[Any] = []
    for n, value in enumerate(values):
        label = value.get("label") if kind is Region and isinstance(value, Mapping) else None
        with lost.object(label if isinstance(label, str) else "") if kind is Region else lost.problems.record():
            out.append(_item(value, kind, f"{where}[{n}]", lost.problems))
    return tuple(out)


def _item(value: Any, kind: type, where: str, problems: ReadProblems) -> Any:
    """A record; of a region whose outline or mask is none the box stays."""
    try:
        return from_json(kind, value)
    except ValueError as error:
        refusal = ValueError(f"{where}: {error}")
    if kind is Region and isinstance(value, Mapping) and value.get("box") is not None:
        for key in OUTLINES:
            if key in value:
                try:
                    kept = from_json(kind, {k: v for k, v in value.items() if k != key})
                except ValueError:
                    continue
                problems.refuse(refusal)
                return kept
    raise refusal from None


def _with_good_outlines(region: Region, where: str, problems: ReadProblems) -> Region:
    """The region without an outline or mask that is none, where its box says what it is; empty parts say nothing."""
    region = dataclasses.replace(region, polygons=tuple(part for part in region.polygons if len(part)))
    if region.box is None:
        return region
    for key, empty in OUTLINES.items():
        with problems.record():
            try:
                check_outline(dataclasses.replace(Region(id=region.id), **{key: getattr(region, key)}), where)
            except ValueError:
                region = dataclasses.replace(region, **{key: empty})
                raise
    return region


def _good_items(sample: Sample, where: str, lost: LostObjects) -> dict[str, list[Any]]:
    """The sample's items that any reader of samples can use."""
    seen: dict[str, str] = {}
    good: dict[str, list[Any]] = {"texts": [], "regions": [], "groundings": []}
    items: tuple[Text | Region, ...] = (*sample.texts, *sample.regions)
    for item in items:
        key = "texts" if isinstance(item, Text) else "regions"
        with lost.object(item.label) if isinstance(item, Region) else lost.problems.record():
            if isinstance(item, Region):
                item = _with_good_outlines(item, where, lost.problems)
            check_item(item, where, seen)
            good[key].append(item)
    texts = {text.id: text.text for text in good["texts"]}
    known = {*texts, *(region.id for region in good["regions"])}
    for grounding in sample.groundings:
        with lost.problems.record():
            check_item(grounding, where, seen)
            check_grounding(grounding, where, known, texts)
            good["groundings"].append(grounding)
    return good


def _placed(sample: Sample, good: Mapping[str, list[Any]], where: str, lookup: Lookup, lost: LostObjects) -> Sample:
    """The sample with its picture found and its regions in that picture's frame; what leans on a lost one goes too."""
    image = sample.image
    stated_wh = (image.width, image.height)
    if min(stated_wh) < 0 or max(stated_wh) > FARTHEST:
        sides = " x ".join(map(validation.brief, stated_wh))
        raise ValueError(f"{where}: image: expected a width and height of 0 to {FARTHEST:,}, got {sides}")
    frame = Frame(Path(image.uri or image.id), where, stated_wh, stated_wh)
    if image.uri and LOCAL not in image.uri and not image.uri.startswith("scenes:"):
        place = lookup.existing(image.uri, f"{where}: image") or lookup.own / image.uri
        plain = not image.member and image.offset < 0 and not image.frame
        frame = Frame.of(place, stated_wh, where) if plain else Frame(place, where, stated_wh, stated_wh)
        image = dataclasses.replace(image, uri=str(place), width=frame.size_wh[0], height=frame.size_wh[1])
    regions = frame.place([(f"{where}: region {validation.brief(r.id)}", r) for r in good["regions"]], lost)
    gone = {r.id for r in sample.regions if r.id} - {r.id for r in regions}
    gone |= {t.id for t in sample.texts if t.id} - {t.id for t in good["texts"]}
    groundings = tuple(g for g in good["groundings"] if not gone & {g.text_id, *g.region_ids})
    regions = tuple(dataclasses.replace(r, refines="") if r.refines in gone else r for r in regions)
    coverage = dict(sample.coverage)
    for space in coverage:
        coverage = lost.withdraw(coverage, space, regions)
    texts = tuple(good["texts"])
    return dataclasses.replace(
        sample, image=image, texts=texts, regions=regions, groundings=groundings, coverage=coverage
    )


def check_sample(sample: Sample, where: str) -> None:
    """Refuse what no reader of samples could use: ids met twice, names without an owner, numbers that are none."""
    seen: dict[str, str] = {}
    items: tuple[Item, ...] = (*sample.texts, *sample.regions, *sample.groundings)
    for item in items:
        check_item(item, where, seen)
    texts = {text.id: text.text for text in sample.texts}
    known = {*texts, *(region.id for region in sample.regions)}
    for grounding in sample.groundings:
        check_grounding(grounding, where, known, texts)


def check_item(item: Item, where: str, seen: dict[str, str]) -> None:
    """Refuse an item met before, or with a number that is none; `seen` holds those before it."""
    if item.id:
        validation.once(seen, item.id, f"{where}: {type(item).__name__}")
    validation.strings(item, f"{where}: {type(item).__name__}")
    if item.score is not None:
        validation.number(item.score, f"{where}: score of {validation.brief(item.id)}")
    if not isinstance(item, Region):
        return
    place = f"{where}: region {validation.brief(item.id)}"
    if item.box is not None:
        validation.numbers(item.box, f"{place}: box", 4)
    check_outline(item, where)


def check_outline(region: Region, where: str) -> None:
    """Refuse a quad, outline or mask that is none."""
    place = f"{where}: region {validation.brief(region.id)}"
    if region.quad:
        validation.numbers(region.quad, f"{place}: quad", 8)
    for polygon in region.polygons:
        validation.numbers(polygon, f"{place}: polygons")
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"{place}: polygons: expected at least three x, y pairs, got {len(polygon)} numbers")
    if region.mask is not None:
        try:
            geometry.rle_counts(region.mask)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def check_grounding(grounding: Grounding, where: str, known: set[str], texts: Mapping[str, str]) -> None:
    """Refuse a grounding that names what the sample does not hold, or a span outside its text."""
    place = f"{where}: grounding {validation.brief(grounding.id)}"
    orphans = [i for i in grounding.region_ids if i not in known]
    if orphans or (grounding.text_id and grounding.text_id not in known):
        named = validation.brief((orphans or [grounding.text_id])[0])
        raise ValueError(f"{place}: names {named}, which the sample does not hold")
    for start, end in grounding.spans:
        if grounding.text_id and not 0 <= start < end <= len(texts.get(grounding.text_id, "")):
            raise ValueError(f"{place}: span [{start}, {end}) lies outside its text")

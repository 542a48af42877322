"""Phrase and box pairs kept beside COCO's files: {"pairs": [{image_id, caption_id, phrase, span, bbox_xyxy, ...}]}.

Each pair becomes a grounding of the caption it names; its box is the annotated region of that number (`segment_id`)
where the sample holds it, else a region of its own without a label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from florence2.formats import validation
from florence2.formats.problems import ReadProblems
from florence2.records import Grounding, Region, Sample, Source

SOURCE = Source("import", "pairs")


def holds_pairs(data: Any) -> bool:
    """Whether a file's content is a list of pairs."""
    return isinstance(data, Mapping) and isinstance(data.get("pairs"), list)


def grounded(
    file: Path, data: Mapping[str, Any], samples: Mapping[str, Sample], moved: Container[str], problems: ReadProblems
) -> dict[str, Sample]:
    """The samples, by id, that the file's pairs speak of, with their groundings.

    `moved` are those whose labels were drawn on the picture at another size: boxes of this file cannot be placed there.
    """
    out: dict[str, Sample] = {}
    for n, (where, pair) in enumerate(validation.objects(data["pairs"], f"{file}: pairs", problems)):
        with problems.record():
            name = str(validation.ident(validation.field(pair, "image_id", where), f"{where}: image_id"))
            sample = out.get(name) or samples.get(name)
            if sample is None:
                raise ValueError(f"{where}: image_id {name} is not among the pictures beside the file")
            paired = _with_pair(sample, pair, where, n)
            if name in moved and len(paired.regions) > len(sample.regions):
                raise ValueError(f"{where}: bbox_xyxy: its picture has another size than its labels state")
            out[name] = paired
    return out


def _with_pair(sample: Sample, pair: Mapping[str, Any], where: str, n: int) -> Sample:
    caption = str(validation.ident(validation.field(pair, "caption_id", where), f"{where}: caption_id"))
    text = next((t.text for t in sample.texts if t.id == caption), None)
    span = validation.numbers(pair.get("span"), f"{where}: span", 2)
    start, end = (validation.whole(v, f"{where}: span") for v in span)
    phrase = validation.word(validation.field(pair, "phrase", where), f"{where}: phrase")
    if text is None or text[start:end] != phrase:
        raise ValueError(f"{where}: span [{start}, {end}) of caption {caption} is not {validation.brief(phrase)}")
    region = str(validation.ident(pair.get("segment_id", ""), f"{where}: segment_id") if "segment_id" in pair else "")
    regions = sample.regions
    if region not in {r.id for r in regions}:
        region = f"pair{n}"
        box = validation.numbers(validation.field(pair, "bbox_xyxy", where), f"{where}: bbox_xyxy", 4)
        x1, y1, x2, y2 = box
        if x2 < x1 or y2 < y1:
            raise ValueError(f"{where}: bbox_xyxy: expected left, top, right, bottom, got {validation.brief(box)}")
        width, height = sample.image.size_wh
        if width and height and (x1 > width or y1 > height or x2 < 0 or y2 < 0):
            raise ValueError(f"{where}: bbox_xyxy: lies outside its picture of {width} x {height}")
        regions = (*regions, Region(region, "object", (x1, y1, x2, y2), source=SOURCE))
    grounding = Grounding(f"g{n}", caption, phrase, ((start, end),), (region,), source=SOURCE)
    return dataclasses.replace(sample, regions=regions, groundings=(*sample.groundings, grounding))

"""Phrase and box pairs kept beside COCO's files: {"pairs": [{image_id, caption_id, phrase, span, bbox_xyxy, ...}]}.

Each pair becomes a grounding of the caption it names; its box is the annotated region of that number (`segment_id`)
where the sample holds it, else a region of its own without a label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence2.formats import validation
from florence2.records import Grounding, Region, Sample, Source

SOURCE = Source("import", "pairs")


def holds_pairs(data: Any) -> bool:
    """Whether a file's content is a list of pairs."""
    return isinstance(data, Mapping) and isinstance(data.get("pairs"), list)


def grounded(file: Path, data: Mapping[str, Any], samples: Mapping[str, Sample]) -> dict[str, Sample]:
    """The samples, by id, that the file's pairs speak of, with their groundings."""
    out: dict[str, Sample] = {}
    for n, pair in enumerate(data["pairs"]):
        where = f"{file}: pairs[{n}]"
        name = str(validation.field(pair, "image_id", where))
        sample = out.get(name) or samples.get(name)
        if sample is None:
            raise ValueError(f"{where}: image_id {name} is not among the pictures beside the file")
        caption = str(validation.field(pair, "caption_id", where))
        text = next((t.text for t in sample.texts if t.id == caption), None)
        start, end = (
            validation.whole(v, f"{where}: span") for v in validation.numbers(pair.get("span"), f"{where}: span", 2)
        )
        phrase = str(validation.field(pair, "phrase", where))
        if text is None or text[start:end] != phrase:
            raise ValueError(f"{where}: span [{start}, {end}) of caption {caption} is not {phrase!r:.60}")
        region = str(pair.get("segment_id", ""))
        if region not in {r.id for r in sample.regions}:
            region = f"pair{n}"
            x1, y1, x2, y2 = validation.numbers(validation.field(pair, "bbox_xyxy", where), f"{where}: bbox_xyxy", 4)
            new = Region(region, "object", (x1, y1, x2, y2), source=SOURCE)
            sample = dataclasses.replace(sample, regions=(*sample.regions, new))
        said = Grounding(f"g{n}", caption, phrase, ((start, end),), (region,), source=SOURCE)
        out[name] = dataclasses.replace(sample, groundings=(*sample.groundings, said))
    return out

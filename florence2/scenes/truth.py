"""What a drawn picture holds, as a Sample: regions, captions, groundings, coverage. Sees no pixels."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from florence2.geometry import simplify
from florence2.records import Coverage, Grounding, ImageRef, Region, Sample, Source, Text
from florence2.scenes import descriptions
from florence2.scenes.lettering import Line
from florence2.scenes.object_layout import Box, PlacedObject, extent
from florence2.scenes.shapes import KINDS

VERSION = "1"  # of what a seed draws; new drawings, new version
LABEL_SPACE = "scenes"
SOURCE = Source(kind="simulated", name="scenes", version=VERSION)


def scene_sample(
    rng: random.Random,
    name: str,
    size_wh: tuple[int, int],
    placed: Sequence[PlacedObject],
    lines: Sequence[Line],
    ground: str,
    corners: int = 0,
) -> Sample:
    """The record of a drawn scene."""
    facts = [_fact(f"{name}.r{i}", each, size_wh) for i, each in enumerate(placed)]
    objects = [_object(each, fact, corners) for each, fact in zip(placed, facts)]
    read = [text_region(f"{name}.r{len(facts) + i}", line) for i, line in enumerate(lines)]
    sign = None
    if lines:
        box = extent(tuple(point for line in lines for point in line.quad))
        ids = tuple(region.id for region in read)
        sign = descriptions.SignFact(ids, " ".join(line.text for line in lines), _centre(box, size_wh))
    captions = {
        "brief": descriptions.brief(facts, sign, ground),
        "detailed": descriptions.detailed(facts, sign, ground),
        "more_detailed": descriptions.more_detailed(rng, facts, sign, ground),
    }
    expressions = [(phrase, fact.region_id) for fact in facts for phrase in descriptions.refer(rng, fact, facts, 3)]
    return record(name, size_wh, (*objects, *read), captions, expressions, coverage(rng, facts))


def record(
    name: str,
    size_wh: tuple[int, int],
    regions: tuple[Region, ...],
    captions: Mapping[str, Sequence[descriptions.Piece]],
    expressions: Sequence[tuple[str, str]],
    covered: Mapping[str, tuple[Coverage, ...]],
) -> Sample:
    """A Sample of regions, captions by detail, and (expression, region id) pairs; what is read becomes a text too."""
    texts: list[Text] = []
    rows: list[tuple[str, str, tuple[tuple[int, int], ...], tuple[str, ...]]] = []  # text id, phrase, spans, region ids
    for detail, pieces in captions.items():
        text, phrases = descriptions.join(pieces)
        texts.append(Text(f"{name}.t{len(texts)}", text, detail, source=SOURCE))
        rows += [(texts[-1].id, p.phrase, (p.span,), p.region_ids) for p in phrases]
    lines = "\n".join(region.label for region in regions if region.kind == "text")
    if lines:
        texts.append(Text(f"{name}.t{len(texts)}", lines, "ocr", source=SOURCE))
    rows += [("", phrase, (), (region_id,)) for phrase, region_id in expressions]
    groundings = tuple(Grounding(f"{name}.g{i}", *row, source=SOURCE) for i, row in enumerate(rows))
    image = ImageRef(name, width=size_wh[0], height=size_wh[1])
    return Sample(name, image, tuple(texts), regions, groundings, coverage=covered)


def text_region(name: str, line: Line) -> Region:
    """A line of text as a region: its label is what it says."""
    quad = tuple(number for point in line.quad for number in point)
    return Region(name, "text", extent(line.quad), line.text, quad=quad, source=SOURCE)


def coverage(rng: random.Random, facts: Sequence[descriptions.Fact]) -> dict[str, tuple[Coverage, ...]]:
    """Every object and text is labelled; two kinds that are not there are named, so that one may ask for them."""
    others = [kind for kind in KINDS if kind not in {fact.kind for fact in facts}]
    absent = tuple(rng.sample(others, min(2, len(others))))
    return {
        LABEL_SPACE: (Coverage("exhaustive"), Coverage("negatives", absent)),
        "text": (Coverage("exhaustive"),),
    }


def with_corners(polygon: Sequence[float], most: int) -> tuple[float, ...]:
    """The ring with at most so many corners, from its topmost one on (of two the left one)."""
    tolerance = 0.0
    while len(polygon) > 2 * most:
        tolerance = tolerance * 1.3 + 0.05
        polygon = simplify(polygon, tolerance)
    top = min(range(0, len(polygon), 2), key=lambda i: (polygon[i + 1], polygon[i]))
    return (*polygon[top:], *polygon[:top])


def _object(each: PlacedObject, fact: descriptions.Fact, corners: int) -> Region:
    polygon = tuple(number for point in each.polygon for number in point)
    if corners:
        polygon = with_corners(polygon, corners)
    return Region(
        fact.region_id, "object", each.box, each.kind, LABEL_SPACE, fact.description, (polygon,), source=SOURCE
    )


def _fact(region_id: str, each: PlacedObject, size_wh: tuple[int, int]) -> descriptions.Fact:
    x1, y1, x2, y2 = each.box
    side = math.sqrt((x2 - x1) * (y2 - y1)) / min(size_wh)
    return descriptions.Fact(region_id, each.kind, each.colour, each.texture, _centre(each.box, size_wh), side)


def _centre(box: Box, size_wh: tuple[int, int]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2 / size_wh[0], (box[1] + box[3]) / 2 / size_wh[1]

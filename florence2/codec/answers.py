"""Answers as targets and back: render(Parsed) -> target, parse(target) -> Parsed, for every answer kind.

Both work on segments (letters, a location, a special token), so a label may hold any letters: `<loc_5>` inside a text
is encoded as plain letters and read back as such. Only the form as one string cannot distinguish the two, and refuses.

    parse(render(p, size_wh), size_wh, ask) == canonical(p, size_wh, ask), and canonical is idempotent

The items' order is kept (truths.py decides it for training); only equal labels are brought together where a label is
written once. Knows no model and no scores; `ItemSpan` says which ids an item was read from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from florence2 import geometry
from florence2.codec.answer_parser import (
    BLANKS,
    ItemSpan,
    PhraseLocator,
    Size,
    asked_box,
    box_at,
    polygon_region,
    read,
    text_region,
)
from florence2.codec.locations import dequantize, location, quantize
from florence2.codec.places import polygons_of
from florence2.codec.segments import TOKENS, Letters, Segment, Special, segments_of_ids, segments_of_text
from florence2.codec.tasks import Task, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.labels import is_unicode
from florence2.records import Ask, Box, Grounding, Parsed, Polygon, Region, Text

__all__ = ["ItemSpan", "canonical", "encode", "unused_positions", "parse", "parse_ids", "target_segments", "render"]


def render(parsed: Parsed, task: Task | str, size_wh: Size, ask: Ask | None = None) -> str:
    """The target as one string; ValueError where a text holds the letters of a special token (`encode` takes those)."""
    written = target_segments(parsed, task, size_wh, ask)
    for segment in written:
        token = TOKENS.search(segment) if isinstance(segment, Letters) else None
        if token:
            raise ValueError(
                f"text {str(segment)!r:.80}: as one string {token.group()} would read back as a token; encode it to ids"
            )
    return "".join(location(segment) if isinstance(segment, int) else segment for segment in written)


def encode(parsed: Parsed, task: Task | str, tokenizer: Tokenizer, size_wh: Size, ask: Ask | None = None) -> list[int]:
    """The target as ids, without `<s>` and `</s>`; each text is encoded by itself, special strings as plain letters."""
    ids: list[int] = []
    for segment in target_segments(parsed, task, size_wh, ask):
        if isinstance(segment, int):
            ids.append(tokenizer.loc0 + segment)
        elif isinstance(segment, Special):
            ids.append(tokenizer.id_of(segment))
        else:
            ids.extend(tokenizer.encode(segment, specials=False))
    return ids


def target_segments(parsed: Parsed, task: Task | str, size_wh: Size, ask: Ask | None = None) -> list[Segment]:
    """The target as segments."""
    task = task_of(task)
    return list(_WRITERS[task.output_kind](canonical(parsed, task, size_wh, ask), task, size_wh))


def parse(text: str, task: Task | str, size_wh: Size, ask: Ask | None = None) -> Parsed:
    """The answer that a generated text holds, special tokens in; what fits no item is left out."""
    if not is_unicode(text):
        raise ValueError(f"text: expected Unicode, got a lone surrogate in {text!r:.80}; mend the text")
    return read(segments_of_text(text), task_of(task), size_wh, ask).parsed


def parse_ids(
    ids: Sequence[int], tokenizer: Tokenizer, task: Task | str, size_wh: Size, ask: Ask | None = None
) -> tuple[Parsed, dict[str, ItemSpan]]:
    """The answer that generated ids hold, and for each of its items its positions in the ids."""
    state = read(segments_of_ids(ids, tokenizer), task_of(task), size_wh, ask)
    return state.parsed, state.spans


def unused_positions(ids: Sequence[int], tokenizer: Tokenizer, task: Task | str) -> list[int]:
    """Positions of the ids that no item uses; none in an answer that the grammar accepts."""
    return sorted(read(segments_of_ids(ids, tokenizer), task_of(task), (1000, 1000), None).unused)


def canonical(parsed: Parsed, task: Task | str, size_wh: Size, ask: Ask | None = None) -> Parsed:
    """The answer as a target can represent it: places at bin centres, equal labels together, ids r0, g0, t0, no scores.

    What no target can represent (a box without a label, a region without a place, broken Unicode) raises ValueError.
    """
    task = task_of(task)
    return _CANONICAL[task.output_kind](parsed, task, size_wh, ask or Ask(task.token))


# ---- canonical --------------------------------------------------------------------------------------------------


def _canonical_text(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    if len(parsed.texts) > 1:
        raise ValueError(f"{task.name}: expected one text in a target, got {len(parsed.texts)}; render them one by one")
    question = ask.text if task.storage_rule == "answer" else ""
    texts = (_clean(task, text.text, "text") for text in parsed.texts if text.text.strip(BLANKS))
    return Parsed(texts=tuple(Text(id="t0", text=text, detail=task.storage_rule, question=question) for text in texts))


def _canonical_quads(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    out = []
    for region in parsed.regions:
        corners = geometry.region_quad(region)
        if len(corners) != 8:
            raise ValueError(f"{task.name}: region {region.id!r}: expected a quad of 8 numbers, got {corners!r:.80}")
        quad = dequantize(quantize(corners, size_wh), size_wh)
        out.append(Region(kind="text", label=_label(task, region), quad=quad, box=geometry.polygon_box(quad)))
    return _numbered(out)


def _canonical_labelled(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    together: dict[str, list[Region]] = {}
    for region in parsed.regions:
        label = _label(task, region)
        together.setdefault(label, []).append(text_region(task, label, _box(task, region, size_wh)))
    return _numbered(region for regions in together.values() for region in regions)


def _canonical_boxes(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    return _numbered(Region(box=_box(task, region, size_wh)) for region in parsed.regions)


def _canonical_phrases(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    by_id = {region.id: region for region in parsed.regions}
    locate = PhraseLocator(ask.text)
    regions: list[Region] = []
    groundings: list[Grounding] = []
    for grounding in parsed.groundings:
        phrase = _clean(task, grounding.phrase, f"grounding {grounding.id!r}: phrase")
        if not grounding.region_ids or not set(grounding.region_ids) <= set(by_id):
            raise ValueError(
                f"{task.name}: grounding {grounding.id!r}: expected ids of regions, got {grounding.region_ids!r}"
            )
        first = len(regions)
        regions.extend(Region(box=_box(task, by_id[i], size_wh)) for i in grounding.region_ids)
        ids = tuple(f"r{i}" for i in range(first, len(regions)))
        grounded = Grounding(f"g{len(groundings)}", ask.text_id, phrase, locate(phrase), ids)
        groundings.append(grounded)
    return replace(_numbered(regions), groundings=tuple(groundings))


def _canonical_polygons(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    answer = _numbered(polygon_region("", _polygons(task, region, size_wh)) for region in parsed.regions)
    if task.storage_rule == "expression" and answer.regions and ask.text:
        ids = tuple(region.id for region in answer.regions)
        answer = replace(answer, groundings=(Grounding(id="g0", phrase=ask.text, region_ids=ids),))
    return answer


def _canonical_open(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    out = []
    for region in parsed.regions:
        label = _label(task, region)
        if region.polygons or (region.box is None and region.mask):
            out.append(polygon_region(label, _polygons(task, region, size_wh)))
        else:
            out.append(text_region(task, label, _box(task, region, size_wh)))
    return _numbered(out)


def _canonical_region_text(parsed: Parsed, task: Task, size_wh: Size, ask: Ask) -> Parsed:
    if len(parsed.regions) > 1:
        raise ValueError(
            f"{task.name}: expected one region in a target, got {len(parsed.regions)}; render them one by one"
        )
    asked = asked_box(ask, size_wh)
    out = []
    for region in parsed.regions:
        box = asked if geometry.region_box(region) is None and asked else _box(task, region, size_wh)
        out.append(text_region(task, _label(task, region), box))
    return _numbered(out)


_CANONICAL: dict[str, Callable[[Parsed, Task, Size, Ask], Parsed]] = {
    "text": _canonical_text,
    "quads": _canonical_quads,
    "labelled_boxes": _canonical_labelled,
    "boxes": _canonical_boxes,
    "phrases": _canonical_phrases,
    "polygons": _canonical_polygons,
    "open_boxes": _canonical_open,
    "region_text": _canonical_region_text,
}


def _numbered(regions: Iterable[Region]) -> Parsed:
    return Parsed(regions=tuple(replace(region, id=f"r{index}") for index, region in enumerate(regions)))


def _clean(task: Task, text: str, what: str) -> str:
    clean = text.strip(BLANKS)
    if not clean:
        raise ValueError(f"{task.name}: {what}: expected letters, got {text!r}; drop the item or name it")
    if not is_unicode(clean):
        raise ValueError(f"{task.name}: {what}: expected Unicode, got a lone surrogate in {text!r:.80}")
    return clean


def _label(task: Task, region: Region) -> str:
    name = "description" if task.storage_rule == "description" else "label"
    return _clean(task, getattr(region, name), f"region {region.id!r}: {name}")


def _box(task: Task, region: Region, size_wh: Size) -> Box:
    box = geometry.region_box(region)
    if box is None:
        raise ValueError(f"{task.name}: region {region.id!r}: expected a box, a quad or polygons, got no place at all")
    return box_at(quantize(box, size_wh), size_wh)


def _polygons(task: Task, region: Region, size_wh: Size) -> tuple[Polygon, ...]:
    polygons = polygons_of(region)
    for part in polygons or ((),):
        if len(part) < 6 or len(part) % 2:
            raise ValueError(
                f"{task.name}: region {region.id!r}: expected polygons of three or more x, y points, got {part!r:.80}"
            )
    return tuple(dequantize(quantize(part, size_wh), size_wh) for part in polygons)


# ---- writers: canonical answers to segments -----------------------------------------------------------------------


def _write_text(parsed: Parsed, task: Task, size_wh: Size) -> Iterable[Segment]:
    return [Letters(text.text) for text in parsed.texts]


def _write_places(parsed: Parsed, task: Task, size_wh: Size) -> Iterable[Segment]:
    """Every region with its text in front, boxes of one label but once (`labelled_boxes`)."""
    written = ""
    for region in parsed.regions:
        text = region.description if task.storage_rule == "description" else region.label
        if text and (text != written or task.output_kind != "labelled_boxes"):
            yield Letters(text)
        written = text
        if task.output_kind == "open_boxes" and region.polygons:
            yield from _write_instance(region, size_wh)
        else:
            yield from quantize(region.quad or region.box or (), size_wh)


def _write_phrases(parsed: Parsed, task: Task, size_wh: Size) -> Iterable[Segment]:
    by_id = {region.id: region for region in parsed.regions}
    for grounding in parsed.groundings:
        yield Letters(grounding.phrase)
        for region_id in grounding.region_ids:
            yield from quantize(by_id[region_id].box or (), size_wh)


def _write_polygons(parsed: Parsed, task: Task, size_wh: Size) -> Iterable[Segment]:
    if len(parsed.regions) == 1:
        return list(_write_instance(parsed.regions[0], size_wh))[1:-1]
    return [segment for region in parsed.regions for segment in _write_instance(region, size_wh)]


def _write_instance(region: Region, size_wh: Size) -> Iterable[Segment]:
    yield Special("<poly>")
    for index, part in enumerate(region.polygons):
        if index:
            yield Special("<sep>")
        yield from quantize(part, size_wh)
    yield Special("</poly>")


_WRITERS: dict[str, Callable[[Parsed, Task, Size], Iterable[Segment]]] = {
    "text": _write_text,
    "quads": _write_places,
    "labelled_boxes": _write_places,
    "boxes": _write_places,
    "phrases": _write_phrases,
    "polygons": _write_polygons,
    "open_boxes": _write_places,
    "region_text": _write_places,
}

"""Targets to answers: one parser for each answer kind, from groups of segments to items. Linear in length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from florence2 import geometry
from florence2.codec.locations import bin_widths, dequantize, quantize
from florence2.codec.segments import (
    Mark,
    PlacedSegment,
    TextGroup,
    location_runs,
    poly_instances,
    polygon_parts,
    text_groups,
    trimmed,
)
from florence2.codec.tasks import Task
from florence2.records import Ask, Box, Grounding, Parsed, Polygon, Region, Text

Size = tuple[int, int]
BLANKS = " \t\n\r\f\v"  # stripped around a text: ASCII only, so that a token's bytes show whether it leaves anything


class ItemSpan(NamedTuple):
    """Positions, in the ids that were parsed, of the tokens that name an item and of those that place it."""

    text_tokens: tuple[int, ...]
    location_tokens: tuple[int, ...]


@dataclass
class ParseState:
    """What a parser fills: items in order, the positions of each, and the positions that no item used."""

    task: Task
    size_wh: Size
    ask: Ask
    texts: list[Text] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    groundings: list[Grounding] = field(default_factory=list)
    spans: dict[str, ItemSpan] = field(default_factory=dict)
    unused: list[int] = field(default_factory=list)
    parsed: Parsed = Parsed()

    def place(self, region: Region, text_at: Sequence[int], at: Sequence[int]) -> None:
        """Append a region under the next local id."""
        name = f"r{len(self.regions)}"
        self.regions.append(replace(region, id=name))
        self.spans[name] = ItemSpan(tuple(text_at), tuple(at))

    def phrase(self, grounding: Grounding, first: int, text_at: Sequence[int]) -> None:
        """Append a grounding of the regions from number `first` on."""
        name = f"g{len(self.groundings)}"
        ids = tuple(region.id for region in self.regions[first:])
        self.groundings.append(replace(grounding, id=name, region_ids=ids))
        self.spans[name] = ItemSpan(tuple(text_at), tuple(p for i in ids for p in self.spans[i].location_tokens))

    def boxes(self, marks: Iterable[Mark]) -> list[tuple[Box, list[int]]]:
        """Runs of four locations as boxes in pixels."""
        return [(box_at(bins, self.size_wh), at) for bins, at in location_runs(marks, 4, self.unused)]

    def outline(self, marks: Iterable[Mark]) -> tuple[tuple[Polygon, ...], list[int]]:
        """One instance's polygons in pixels."""
        polygons, at = polygon_parts(marks, self.unused)
        return tuple(dequantize(bins, self.size_wh) for bins in polygons), at


def read(placed: Iterable[PlacedSegment], task: Task, size_wh: Size, ask: Ask | None) -> ParseState:
    """The answer that segments hold."""
    bin_widths(size_wh)  # a bad size is refused whatever the answer holds
    body = trimmed(placed)
    state = ParseState(task, size_wh, ask or Ask(task.token))
    READERS[task.output_kind](state, text_groups(body.segments))
    cut = body.open_end or body.last >= 0 and body.last in state.unused
    items = tuple(state.texts), tuple(state.regions), tuple(state.groundings)
    state.parsed = Parsed(*items, truncated=cut)
    return state


def box_at(bins: Sequence[int], size_wh: Size) -> Box:
    """Four bins as a box in pixels, corners in order."""
    return geometry.ordered(dequantize(bins, size_wh))


def asked_box(ask: Ask, size_wh: Size) -> Box | None:
    """The box of the region asked for, as locations write it."""
    if not ask.region:
        return None
    box = ask.region if len(ask.region) == 4 else geometry.polygon_box(ask.region)
    return box_at(quantize(box, size_wh), size_wh)


def text_region(task: Task, text: str, box: Box | None) -> Region:
    """A region that says `text` in the field where the task keeps it."""
    if task.storage_rule == "description":
        return Region(box=box, description=text)
    return Region(kind="text" if task.storage_rule == "text" else "object", box=box, label=text)


def polygon_region(label: str, polygons: tuple[Polygon, ...]) -> Region:
    """A region of polygons, with the box around them."""
    return Region(box=geometry.polygon_box(*polygons), label=label, polygons=polygons)


class PhraseLocator:
    """Finds each phrase in the caption after the one before it, else from the caption's start."""

    def __init__(self, caption: str) -> None:
        self._caption = caption
        self._end = 0
        self._missing: set[str] = set()

    def __call__(self, phrase: str) -> tuple[tuple[int, int], ...]:
        if phrase in self._missing:
            return ()
        start = self._caption.find(phrase, self._end)
        if start < 0:
            start = self._caption.find(phrase)
        if start < 0:
            self._missing.add(phrase)
            return ()
        self._end = start + len(phrase)
        return ((start, self._end),)


def _read_text(state: ParseState, found: list[TextGroup]) -> None:
    text = "".join(group.text for group in found).strip(BLANKS)
    state.unused.extend(position for group in found for _, position in group.marks)
    if text:
        question = state.ask.text if state.task.storage_rule == "answer" else ""
        state.texts.append(Text(id="t0", text=text, detail=state.task.storage_rule, question=question))
        state.spans["t0"] = ItemSpan(tuple(at for group in found for at in group.text_at), ())


def _read_quads(state: ParseState, found: list[TextGroup]) -> None:
    for group in found:
        text = group.text.strip(BLANKS)
        quads = location_runs(group.marks, 8, state.unused)
        if not _complete(state, group, text, [at for _, at in quads]):
            continue
        for bins, at in quads:
            quad = dequantize(bins, state.size_wh)
            state.place(Region(kind="text", label=text, quad=quad, box=geometry.polygon_box(quad)), group.text_at, at)


def _read_labelled(state: ParseState, found: list[TextGroup]) -> None:
    for group in found:
        text = group.text.strip(BLANKS)
        boxes = state.boxes(group.marks)
        if _complete(state, group, text, [at for _, at in boxes]):
            for box, at in boxes:
                state.place(text_region(state.task, text, box), group.text_at, at)


def _read_boxes(state: ParseState, found: list[TextGroup]) -> None:
    for group in found:
        state.unused.extend(group.text_at)
        for box, at in state.boxes(group.marks):
            state.place(Region(box=box), (), at)


def _read_phrases(state: ParseState, found: list[TextGroup]) -> None:
    locate = PhraseLocator(state.ask.text)
    for group in found:
        text = group.text.strip(BLANKS)
        boxes = state.boxes(group.marks)
        if _complete(state, group, text, [at for _, at in boxes]):
            first = len(state.regions)
            for box, at in boxes:
                state.place(Region(box=box), group.text_at, at)
            grounding = Grounding(text_id=state.ask.text_id, phrase=text, spans=locate(text))
            state.phrase(grounding, first, group.text_at)


def _read_polygons(state: ParseState, found: list[TextGroup]) -> None:
    state.unused.extend(position for group in found for position in group.text_at)
    for _, marks in poly_instances(mark for group in found for mark in group.marks):
        polygons, at = state.outline(marks)
        if polygons:
            state.place(polygon_region("", polygons), (), at)
    if state.task.storage_rule == "expression" and state.regions and state.ask.text:
        state.phrase(Grounding(phrase=state.ask.text), 0, ())


def _read_open(state: ParseState, found: list[TextGroup]) -> None:
    for group in found:
        text = group.text.strip(BLANKS)
        if not text:
            _complete(state, group, text, [[at for _, at in group.marks]])
            continue
        first = len(state.regions)
        for inside, marks in poly_instances(group.marks):
            if inside:
                polygons, at = state.outline(marks)
                if polygons:
                    state.place(polygon_region(text, polygons), group.text_at, at)
                continue
            for box, at in state.boxes(marks):
                state.place(text_region(state.task, text, box), group.text_at, at)
        if len(state.regions) == first:
            state.unused.extend(group.text_at)


def _read_region_text(state: ParseState, found: list[TextGroup]) -> None:
    text = "".join(group.text for group in found).strip(BLANKS)
    text_at = [at for group in found for at in group.text_at]
    boxes = state.boxes(mark for group in found for mark in group.marks)
    state.unused.extend(at for _, positions in boxes[bool(text) :] for at in positions)
    if text:
        box, at = boxes[0] if boxes else (asked_box(state.ask, state.size_wh), [])
        state.place(text_region(state.task, text, box), text_at, at)
    else:
        state.unused.extend(text_at)


READERS: dict[str, Callable[[ParseState, list[TextGroup]], None]] = {
    "text": _read_text,
    "quads": _read_quads,
    "labelled_boxes": _read_labelled,
    "boxes": _read_boxes,
    "phrases": _read_phrases,
    "polygons": _read_polygons,
    "open_boxes": _read_open,
    "region_text": _read_region_text,
}


def _complete(state: ParseState, group: TextGroup, text: str, places: list[list[int]]) -> bool:
    """Whether the group has both a text and a place; else all of it is unused."""
    if text and places:
        return True
    state.unused.extend([*group.text_at, *(position for at in places for position in at)])
    return False

"""Targets to answers: one reader an answer kind, from groups of pieces to items. Linear in length."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from florence2.codec import truths as rules
from florence2.codec.locations import bin_widths, dequantize, quantize
from florence2.codec.pieces import Group, Mark, Placed, chunks, groups, parts, segments, trimmed
from florence2.codec.tasks import Task
from florence2.records import Ask, Box, Grounding, Parsed, Polygon, Region, Text

Size = tuple[int, int]
BLANKS = " \t\n\r\f\v"  # stripped around a text: ASCII only, so that a token's bytes tell whether it leaves anything


class ItemSpan(NamedTuple):
    """Positions, in the ids that were parsed, of the tokens that name an item and of those that place it."""

    text_tokens: tuple[int, ...]
    location_tokens: tuple[int, ...]


@dataclass
class Reading:
    """What a reader fills: items in order, where each stands, and the positions that no item used."""

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
        return [(box_at(bins, self.size_wh), at) for bins, at in chunks(marks, 4, self.unused)]

    def outline(self, marks: Iterable[Mark]) -> tuple[tuple[Polygon, ...], list[int]]:
        """One instance's polygons in pixels."""
        polygons, at = parts(marks, self.unused)
        return tuple(dequantize(bins, self.size_wh) for bins in polygons), at


def read(placed: Iterable[Placed], task: Task, size_wh: Size, ask: Ask | None) -> Reading:
    """The answer that pieces hold."""
    bin_widths(size_wh)  # a bad size is refused whatever the answer holds
    body = trimmed(placed)
    reading = Reading(task, size_wh, ask or Ask(task.token))
    READERS[task.gives](reading, groups(body.pieces))
    cut = body.open_end or body.last >= 0 and body.last in reading.unused
    items = tuple(reading.texts), tuple(reading.regions), tuple(reading.groundings)
    reading.parsed = Parsed(*items, truncated=cut)
    return reading


def box_at(bins: Sequence[int], size_wh: Size) -> Box:
    """Four bins as a box in pixels, corners in order."""
    return rules.ordered(dequantize(bins, size_wh))


def asked_box(ask: Ask, size_wh: Size) -> Box | None:
    """The box of the region asked for, as locations say it."""
    if not ask.region:
        return None
    box = ask.region if len(ask.region) == 4 else rules.bounds(ask.region)
    return box_at(quantize(box, size_wh), size_wh)


def named(task: Task, text: str, box: Box | None) -> Region:
    """A region that says `text` in the field where the task keeps it."""
    if task.keeps == "description":
        return Region(box=box, description=text)
    return Region(kind="text" if task.keeps == "text" else "object", box=box, label=text)


def outlined(label: str, polygons: tuple[Polygon, ...]) -> Region:
    """A region of polygons, with the box around them."""
    return Region(box=rules.bounds([value for part in polygons for value in part]), label=label, polygons=polygons)


class Seek:
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


def _read_text(reading: Reading, found: list[Group]) -> None:
    text = "".join(group.text for group in found).strip(BLANKS)
    reading.unused.extend(position for group in found for _, position in group.marks)
    if text:
        question = reading.ask.text if reading.task.keeps == "answer" else ""
        reading.texts.append(Text(id="t0", text=text, detail=reading.task.keeps, question=question))
        reading.spans["t0"] = ItemSpan(tuple(at for group in found for at in group.text_at), ())


def _read_quads(reading: Reading, found: list[Group]) -> None:
    for group in found:
        text = group.text.strip(BLANKS)
        quads = chunks(group.marks, 8, reading.unused)
        if not _complete(reading, group, text, [at for _, at in quads]):
            continue
        for bins, at in quads:
            quad = dequantize(bins, reading.size_wh)
            reading.place(Region(kind="text", label=text, quad=quad, box=rules.bounds(quad)), group.text_at, at)


def _read_labelled(reading: Reading, found: list[Group]) -> None:
    for group in found:
        text = group.text.strip(BLANKS)
        boxes = reading.boxes(group.marks)
        if _complete(reading, group, text, [at for _, at in boxes]):
            for box, at in boxes:
                reading.place(named(reading.task, text, box), group.text_at, at)


def _read_boxes(reading: Reading, found: list[Group]) -> None:
    for group in found:
        reading.unused.extend(group.text_at)
        for box, at in reading.boxes(group.marks):
            reading.place(Region(box=box), (), at)


def _read_phrases(reading: Reading, found: list[Group]) -> None:
    seek = Seek(reading.ask.text)
    for group in found:
        text = group.text.strip(BLANKS)
        boxes = reading.boxes(group.marks)
        if _complete(reading, group, text, [at for _, at in boxes]):
            first = len(reading.regions)
            for box, at in boxes:
                reading.place(Region(box=box), group.text_at, at)
            said = Grounding(text_id=reading.ask.text_id, phrase=text, spans=seek(text))
            reading.phrase(said, first, group.text_at)


def _read_polygons(reading: Reading, found: list[Group]) -> None:
    reading.unused.extend(position for group in found for position in group.text_at)
    for _, marks in segments(mark for group in found for mark in group.marks):
        polygons, at = reading.outline(marks)
        if polygons:
            reading.place(outlined("", polygons), (), at)
    if reading.task.keeps == "expression" and reading.regions and reading.ask.text:
        reading.phrase(Grounding(phrase=reading.ask.text), 0, ())


def _read_open(reading: Reading, found: list[Group]) -> None:
    for group in found:
        text = group.text.strip(BLANKS)
        if not text:
            _complete(reading, group, text, [[at for _, at in group.marks]])
            continue
        first = len(reading.regions)
        for inside, marks in segments(group.marks):
            if inside:
                polygons, at = reading.outline(marks)
                if polygons:
                    reading.place(outlined(text, polygons), group.text_at, at)
                continue
            for box, at in reading.boxes(marks):
                reading.place(named(reading.task, text, box), group.text_at, at)
        if len(reading.regions) == first:
            reading.unused.extend(group.text_at)


def _read_region_text(reading: Reading, found: list[Group]) -> None:
    text = "".join(group.text for group in found).strip(BLANKS)
    text_at = [at for group in found for at in group.text_at]
    boxes = reading.boxes(mark for group in found for mark in group.marks)
    reading.unused.extend(at for _, positions in boxes[bool(text) :] for at in positions)
    if text:
        box, at = boxes[0] if boxes else (asked_box(reading.ask, reading.size_wh), [])
        reading.place(named(reading.task, text, box), text_at, at)
    else:
        reading.unused.extend(text_at)


READERS: dict[str, Callable[[Reading, list[Group]], None]] = {
    "text": _read_text,
    "quads": _read_quads,
    "labelled_boxes": _read_labelled,
    "boxes": _read_boxes,
    "phrases": _read_phrases,
    "polygons": _read_polygons,
    "open_boxes": _read_open,
    "region_text": _read_region_text,
}


def _complete(reading: Reading, group: Group, text: str, places: list[list[int]]) -> bool:
    """Whether the group has both a text and a place; else all of it is unused."""
    if text and places:
        return True
    reading.unused.extend([*group.text_at, *(position for at in places for position in at)])
    return False

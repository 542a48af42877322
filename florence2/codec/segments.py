"""A target as segments: letters, a location, a special token; made from ids or from text. Knows no task.

An answer is read by groups: one text and the marks (locations, special tokens) up to the next text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Union

from florence2.codec.locations import BINS
from florence2.codec.tokenizer import ADDED_TOKENS, CONTROL_TOKENS, Tokenizer


class Letters(str):
    """A segment of plain text, whatever letters it holds."""


class Special(str):
    """A special token that is no location."""


Segment = Union[Letters, int, Special]  # an int is a location
Mark = tuple[Union[int, Special], int]  # a location or special token and its position
PlacedSegment = tuple[Segment, Sequence[int]]  # a segment and the positions of its ids

SPECIALS = tuple(t for t in (*CONTROL_TOKENS, "<mask>", *ADDED_TOKENS) if not t.startswith("<loc_"))
TOKENS = re.compile("(<loc_(?:0|[1-9][0-9]{0,2})>|" + "|".join(map(re.escape, SPECIALS)) + ")")


def segments_of_text(text: str) -> Iterator[PlacedSegment]:
    """Segments of a text in which special tokens are spelt out; a position is the segment's number."""
    for index, part in enumerate(TOKENS.split(text)):
        if index % 2 == 0:
            if part:
                yield Letters(part), (index,)
        elif part.startswith("<loc_"):
            yield int(part[5:-1]), (index,)
        else:
            yield Special(part), (index,)


def segments_of_ids(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[PlacedSegment]:
    """Segments of ids; neighbouring letters are one segment, decoded together."""
    first = 0
    for index in range(len(ids) + 1):
        if index < len(ids) and ids[index] not in tokenizer.special_ids:
            continue
        if first < index:
            yield Letters(tokenizer.decode(ids[first:index])), range(first, index)
        if index < len(ids):
            place = ids[index] - tokenizer.loc0
            yield (place if 0 <= place < BINS else Special(tokenizer.token_of(ids[index]))), (index,)
        first = index + 1


@dataclass(frozen=True)
class Body:
    """The segments between the start tokens and `</s>`. `open_end`: started as generated ids do, and never ended."""

    segments: list[PlacedSegment]
    open_end: bool

    @property
    def last(self) -> int:
        """The position of the last id; -1 where there is none."""
        return self.segments[-1][1][-1] if self.segments else -1


def trimmed(placed: Iterable[PlacedSegment]) -> Body:
    """The body of an answer: leading `</s>`, `<s>`, `<pad>` cut off, and all from the next `</s>` on."""
    segments = list(placed)
    first = 0
    while first < len(segments) and _is(segments[first], "</s>", "<s>", "<pad>"):
        first += 1
    for index in range(first, len(segments)):
        if _is(segments[index], "</s>"):
            return Body(segments[first:index], open_end=False)
    start = [segment for segment in segments[:first] if not _is(segment, "<pad>")]
    empty = first == len(segments) and bool(start) and _is(start[-1], "</s>")
    return Body(segments[first:], open_end=bool(start) and not empty)


def _is(placed: PlacedSegment, *tokens: str) -> bool:
    return isinstance(placed[0], Special) and placed[0] in tokens


@dataclass
class TextGroup:
    """One text and the marks up to the next text, each with the positions of its ids."""

    parts: list[str] = field(default_factory=list)
    text_at: list[int] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text as generated."""
        return "".join(self.parts)


def text_groups(segments: Iterable[PlacedSegment]) -> list[TextGroup]:
    """The groups of a body; the first may lack a text, the last may lack marks."""
    out = [TextGroup()]
    for segment, positions in segments:
        if isinstance(segment, Letters):
            if out[-1].marks:
                out.append(TextGroup())
            out[-1].parts.append(segment)
            out[-1].text_at.extend(positions)
        else:
            out[-1].marks.append((segment, positions[0]))
    return [group for group in out if group.text_at or group.marks]


def location_runs(marks: Iterable[Mark], length: int, unused: list[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of `length` neighbouring locations with their positions; what is left over goes to `unused`."""
    out: list[tuple[list[int], list[int]]] = []
    bins: list[int] = []
    at: list[int] = []
    for mark, position in marks:
        if not isinstance(mark, int):
            unused.extend([*at, position])
            bins, at = [], []
            continue
        bins.append(mark)
        at.append(position)
        if len(bins) == length:
            out.append((bins, at))
            bins, at = [], []
    unused.extend(at)
    return out


def poly_instances(marks: Iterable[Mark]) -> Iterator[tuple[bool, list[Mark]]]:
    """Marks cut at `<poly>` and `</poly>`: (whether inside, the marks between); the two tokens themselves are left out.

    An instance that is never closed ends with a `<poly>` at the last position, so that nobody takes it for whole.
    """
    opened: Mark | None = None
    current: list[Mark] = []
    for mark in marks:
        if mark[0] == "<poly>" or (mark[0] == "</poly>" and opened):
            yield opened is not None, current
            opened, current = (mark if mark[0] == "<poly>" else None), []
        else:
            current.append(mark)
    if opened:
        current.append((Special("<poly>"), (current[-1] if current else opened)[1]))
    yield opened is not None, current


def polygon_parts(marks: Iterable[Mark], unused: list[int]) -> tuple[list[list[int]], list[int]]:
    """The polygons of one instance as bins, split at `<sep>`, and their positions; under three points is no polygon."""
    out: list[list[int]] = []
    used: list[int] = []
    bins: list[int] = []
    at: list[int] = []
    for mark, position in [*marks, (Special("<sep>"), -1)]:
        if isinstance(mark, int):
            bins.append(mark)
            at.append(position)
            continue
        whole = len(bins) // 2 * 2 if len(bins) >= 6 else 0
        if whole:
            out.append(bins[:whole])
            used.extend(at[:whole])
        unused.extend(at[whole:])
        if mark != "<sep>" or (not whole and position >= 0):
            unused.append(position)
        bins, at = [], []
    return out, used

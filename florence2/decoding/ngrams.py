"""Which tokens have followed the last n-1 tokens of a row, found by hash however long the row is.

Beams fork and die. A fork shares its past: the past becomes a segment, and each of its children writes one of its own.
A segment that is left with one child is joined with it, the smaller table into the larger; so a row never searches
through more segments than there are beams, and nothing is copied at a fork.

    forked:  A-B-C-+-D-E      when X dies:  A-B-C-D-E
                   +-X
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence


class Segment:
    """A stretch of tokens, shared by the rows that go on from it: n-1 tokens -> the tokens that followed them."""

    __slots__ = ("children", "followers", "parent")

    def __init__(self, parent: Segment | None = None):
        self.parent = parent
        self.children: set[Segment] = set()
        self.followers: dict[tuple[int, ...], array[int]] = {}
        if parent is not None:
            parent.children.add(self)

    def die(self) -> None:
        """Leave the parent; where one child stays behind, join the two."""
        parent, self.parent = self.parent, None
        if parent is None:
            return
        parent.children.remove(self)
        if len(parent.children) == 1:
            parent.children.pop().join(parent)

    def join(self, past: Segment) -> None:
        """Take over the table and the place of a parent that has no other child."""
        small, large = sorted((past.followers, self.followers), key=len)
        for key, tokens in small.items():
            if key in large:
                large[key].extend(tokens)
            else:
                large[key] = tokens
        self.followers = large
        self.parent = past.parent
        if past.parent is not None:
            past.parent.children.remove(past)
            past.parent.children.add(self)


class History:
    """The n-grams of one row of size `size`; `tail` is its last n-1 tokens."""

    __slots__ = ("segment", "size", "tail")

    def __init__(self, size: int, start: int):
        self.size = size
        self.tail: tuple[int, ...] = ()
        self.segment = Segment()
        self.append(start)

    def append(self, token: int) -> None:
        """The row goes on with `token`."""
        if len(self.tail) == self.size - 1:
            self.segment.followers.setdefault(self.tail, array("q")).append(token)
        grown = (*self.tail, token)
        self.tail = grown[max(0, len(grown) - self.size + 1) :]

    def followers(self) -> Iterator[array[int]]:
        """The tokens that would repeat an n-gram of the row, in one array a segment."""
        segment: Segment | None = self.segment
        while segment is not None:
            if self.tail in segment.followers:
                yield segment.followers[self.tail]
            segment = segment.parent

    def fork(self) -> History:
        """A row that goes on from here, as others may."""
        other = History.__new__(History)
        other.size, other.tail, other.segment = self.size, self.tail, Segment(self.segment)
        return other


def select(histories: Sequence[History], rows: Sequence[int]) -> list[History]:
    """The histories of the rows that go on, in this order; a row named twice forks, a row not named dies."""
    uses = [0] * len(histories)
    for row in rows:
        uses[row] += 1
    chosen = [histories[row].fork() if uses[row] > 1 else histories[row] for row in rows]
    for history, used in zip(histories, uses):
        if used == 0:
            history.segment.die()
    return chosen

"""What a reader cannot take: refused at once, or noted and left out where it is asked to go on. Knows no format.

Two kinds: a refusal is something wrong with a record (`refuse`), a note something that has no place in a Sample, such
as a key point (`note`). Where an object was lost, its picture no longer claims that all of its label are listed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from florence2.records import Coverage, Region

SHOWN = 20  # refused records that a summary names
LOG = logging.getLogger(__name__)


class ReadProblems:
    """One reading's problems. Without `skip` the first refusal is raised."""

    def __init__(self, skip: bool = False) -> None:
        self.skip = skip
        self.refused: list[str] = []
        self.parts: dict[str, str] = {}
        """Those of `refused` whose record stays without them, such as an object of a picture: the picture that lost it
        by `picture_key`, "" where it is not known."""
        self.incomplete: set[str] = set()
        """The pictures, by `picture_key`, of which an object, or a part of one, was left out."""
        self._notes: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def refuse(self, error: ValueError, part: bool = False) -> None:
        """A bad record, or a part of one that stays: raised, or noted where the reader goes on."""
        if not self.skip:
            raise error
        self.refused.append(str(error))
        if part:
            self.parts.setdefault(str(error), "")

    @contextmanager
    def record(self) -> Iterator[None]:
        """What is refused within ends this record alone."""
        try:
            yield
        except ValueError as error:
            self.refuse(error)

    def note(self, what: str, where: str) -> None:
        """Count what is good but has no place in a Sample; `what` is a sentence about its kind."""
        self._notes[what] += 1
        self._first.setdefault(what, where)

    def notes(self) -> list[str]:
        """One line for each kind."""
        return [f"{self._first[what]}: {what} ({count} in all)" for what, count in self._notes.items()]

    def summary(self) -> list[str]:
        """What was left out, for the screen: how many records, the first of them by name, and the notes."""
        count = len(self.refused)
        lines = [f"{count} record{'s' if count > 1 else ''} cannot be read; left out:"] if count else []
        lines += [f"left out: {line}" for line in self.refused[:SHOWN]]
        lines += [f"and {count - SHOWN} more; florence2 data check names them all"] if count > SHOWN else []
        return [*lines, *self.notes()]

    def first(self) -> str:
        """For the end of a refusal: what was left out first, of how many, where anything was."""
        lines = [*self.refused, *self.notes()]
        return f": {lines[0]}{f' (and {len(lines) - 1} more)' if len(lines) > 1 else ''}" if lines else ""

    def state(self) -> dict[str, Any]:
        """What was refused and noted, as plain values."""
        return {
            "refused": self.refused,
            "parts": self.parts,
            "notes": [[w, count, self._first[w]] for w, count in self._notes.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what another reading's `state` holds."""
        self.refused += state["refused"]
        self.parts.update(state["parts"])
        for what, count, first in state["notes"]:
            self._notes[what] += count
            self._first.setdefault(what, first)

    def log_notes(self) -> None:
        """Write the notes to this package's log (a command: the screen)."""
        for line in self.notes():
            LOG.warning("%s", line)


def picture_key(uri: str, member: str = "") -> str:
    """What a picture is called where the labels that it lost are noted."""
    return f"{uri}#{member}"


class LostObjects:
    """The labels of one picture's objects that could not be read; "" for one whose label is not known."""

    def __init__(self, problems: ReadProblems) -> None:
        self.problems = problems
        self.labels: list[str] = []
        self._lines: list[str] = []
        self._picture = ""

    def on(self, picture: str) -> None:
        """Say whose objects they are, by `picture_key`; what was said first holds."""
        self._picture = self._picture or picture
        if self.labels or self._lines:
            self.problems.incomplete.add(self._picture)
        if self.problems.skip:
            self.problems.parts.update(dict.fromkeys(self._lines, self._picture))

    def add(self, label: str = "") -> None:
        """Note one that was left out."""
        self.labels.append(label)
        if self._picture:
            self.on(self._picture)

    def refuse(self, error: ValueError, label: str = "") -> None:
        """One of this label cannot be read, or, without a label, any number of them."""
        self.part(error)
        self.add(label)

    def part(self, error: ValueError) -> None:
        """A part of one that stays without it, such as its outline, cannot be read."""
        self.problems.refuse(error, part=True)
        self._lines.append(str(error))
        if self._picture:
            self.on(self._picture)

    @contextmanager
    def object(self, label: str = "") -> Iterator[None]:
        """What is refused within loses one object of this label."""
        try:
            yield
        except ValueError as error:
            self.refuse(error, label)

    def withdraw(
        self, coverage: Mapping[str, Sequence[Coverage]], space: str, kept: Sequence[Region]
    ) -> dict[str, tuple[Coverage, ...]]:
        """The coverage without the claim that all objects of the lost labels are listed.

        Where the whole space was claimed, or a lost label is not known, what remains holds for the kept labels alone.
        """
        out = {name: tuple(states) for name, states in coverage.items()}
        if not self.labels or space not in out:
            return out
        if "" in self.labels or space == "text":
            others = tuple(state for state in out[space] if state.state == "negatives")
            return {**out, space: (Coverage("partial"), *others)}
        lost = tuple(dict.fromkeys(self.labels))
        seen = tuple(dict.fromkeys(region.label for region in kept if region.label_space == space))
        states: dict[str, list[str]] = {"exhaustive": [], "partial": list(lost), "negatives": []}
        for state in out[space]:
            states[state.state] += [label for label in state.labels or seen if label not in lost]
        known = (Coverage(state, tuple(dict.fromkeys(labels))) for state, labels in states.items() if labels)
        return {**out, space: tuple(known)}

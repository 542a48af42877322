"""What a server process and its worker say to one another, over a pipe between two processes of one user.

server -> worker    Work, Cancel
worker -> server    Ready or Broken, then Alive, Delta, Done
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

from florence2.codec.tasks import Task
from florence2.records import Ask


@dataclass(frozen=True)
class Options:
    """How the answers of one request are decoded, and which of their items are given: options of `predict`."""

    min_score: float = 0.0
    num_beams: int | None = None
    max_new_tokens: int | None = None
    margin: float = 0.0
    filters: tuple[str, ...] = ()
    each_class: bool = True
    more_above: float | None = None


@dataclass(frozen=True)
class Work:
    """One picture and what is asked about it. `deltas`: the texts of its answer are sent while they are made."""

    number: int
    image: bytes
    key: str
    asks: tuple[Ask, ...]
    options: Options
    deltas: bool = False
    alone: bool = False
    """Nothing else is answered meanwhile: it, or one of those beside it, ended a worker."""


@dataclass(frozen=True)
class Cancel:
    """Nobody waits for this work any more."""

    number: int


@dataclass(frozen=True)
class Ready:
    """The model is loaded and warm."""

    pid: int
    tasks: dict[str, Task]
    max_tokens: int
    info: dict[str, object]
    filters: Mapping[str, str] = field(default_factory=dict)
    """The filters of answers, each with what it leaves out."""


@dataclass(frozen=True)
class Broken:
    """The model cannot be loaded; another try would end the same."""

    message: str


@dataclass(frozen=True)
class Alive:
    """A sign of life, at most once in a quarter of a second: how many asks are decoded together."""

    rows: int


@dataclass(frozen=True)
class Delta:
    """The text of a work's only answer so far."""

    number: int
    text: str


@dataclass(frozen=True)
class Answered:
    """One answer: its JSON, and what it took."""

    json: bytes
    prompt_tokens: int
    tokens: int


@dataclass(frozen=True)
class Refused:
    """Why an ask has no answer: a reason as in `Failure`, and one line."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Done:
    """What became of each ask of a work."""

    number: int
    results: tuple[Union[Answered, Refused], ...]
    cached: bool = False
    """The picture's features were there already."""
    dropped: bool = False
    """It was cancelled before it was answered; there are no results."""
    seconds: float = field(default=0.0)
    """From when it was taken into the batch."""


ToWorker = Union[Work, Cancel]
ToServer = Union[Ready, Broken, Alive, Delta, Done]

"""What an import says of a picture as a whole: its split, and what the absence of a label means (coverage).

The row of `images` is written once, when a picture comes in; what later imports say lies in the metadata of their own
annotations fragments and is read with them. Of a label space the imports' word counts before the row's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from florence2.records import Coverage, Sample

KEY = "pictures"  # florence2.pictures in the file

Covered = Mapping[str, tuple[Coverage, ...]]


@dataclasses.dataclass(frozen=True)
class Told:
    """What one import says of a picture."""

    split: str = ""
    coverage: Covered = dataclasses.field(default_factory=dict)


def pack(said: Mapping[str, Told]) -> str:
    """Picture -> what is said of it, as JSON in which what is said of many is written once."""
    sets: dict[str, int] = {}
    of: dict[str, int] = {}
    for name, told in said.items():
        coverage = {s: [[c.state, *c.labels] for c in states] for s, states in sorted(told.coverage.items())}
        text = json.dumps([told.split, coverage], ensure_ascii=False, separators=(",", ":"))
        of[name] = sets.setdefault(text, len(sets))
    return f'{{"sets":[{",".join(sets)}],"of":{json.dumps(of, separators=(",", ":"))}}}'


def unpack(metadata: Mapping[bytes, bytes] | None) -> dict[str, Told]:
    """What a fragment's metadata holds."""
    text = (metadata or {}).get(f"florence2.{KEY}".encode())
    if text is None:
        return {}
    data = json.loads(text)
    sets = [
        Told(split, {space: tuple(Coverage(s, tuple(labels)) for s, *labels in states) for space, states in by.items()})
        for split, by in data["sets"]
    ]
    return {name: sets[number] for name, number in data["of"].items()}


def joined(parts: Iterable[Mapping[str, Told]]) -> dict[str, Told]:
    """What several imports say, put together: of one space all that any of them says."""
    out: dict[str, Told] = {}
    for part in parts:
        for name, told in part.items():
            old = out.get(name, Told())
            both = {s: _union((*old.coverage.get(s, ()), *states)) for s, states in told.coverage.items()}
            out[name] = Told(old.split or told.split, {**old.coverage, **both})
    return out


def applied(samples: Sequence[Sample], said: Mapping[str, Told]) -> list[Sample]:
    """The samples with what is said of them."""
    if not said:
        return list(samples)
    return [_with(sample, said[sample.image.id]) if sample.image.id in said else sample for sample in samples]


def _with(sample: Sample, told: Told) -> Sample:
    return dataclasses.replace(sample, split=sample.split or told.split, coverage={**sample.coverage, **told.coverage})


def _union(states: Sequence[Coverage]) -> tuple[Coverage, ...]:
    """Each state once: for the whole space where one says so, else for the labels of all."""
    found: dict[str, list[Any]] = {}
    for coverage in states:
        found.setdefault(coverage.state, []).append(coverage.labels)
    return tuple(
        Coverage(state, tuple(dict.fromkeys(label for part in parts for label in part)) if all(parts) else ())
        for state, parts in found.items()
    )

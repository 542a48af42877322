"""What an import states of a picture as a whole: its split, and what the absence of a label means (coverage).

The row of `images` is written once, when a picture comes in; what later imports state is in the metadata of their own
annotations fragments and is read with them. Of a label space the imports' statement takes precedence over the row's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from florence2.records import Coverage, Sample
from florence2.structuring import parse_json

KEY = "pictures"  # florence2.pictures in the file

Covered = Mapping[str, tuple[Coverage, ...]]


@dataclasses.dataclass(frozen=True)
class ImportMetadata:
    """What one import states of a picture as a whole: its split and its coverage.

    `correction` names the correction of a person (ROUND.SEQ) that states it: its coverage takes the place of what was
    stated before of the label spaces that it names.
    """

    split: str = ""
    coverage: Covered = dataclasses.field(default_factory=dict)
    correction: str = ""


def encode(metadata_of: Mapping[str, ImportMetadata]) -> str:
    """Image id -> metadata as JSON; metadata that several pictures share is written once."""
    sets: dict[str, int] = {}
    of: dict[str, int] = {}
    for name, metadata in metadata_of.items():
        coverage = {s: [[c.state, *c.labels] for c in states] for s, states in sorted(metadata.coverage.items())}
        parts = [metadata.split, coverage, *filter(None, [metadata.correction])]
        text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
        of[name] = sets.setdefault(text, len(sets))
    return f'{{"sets":[{",".join(sets)}],"of":{json.dumps(of, separators=(",", ":"))}}}'


def decode(metadata: Mapping[bytes, bytes] | None) -> dict[str, ImportMetadata]:
    """Image id -> metadata, as a fragment's own file metadata holds it."""
    text = (metadata or {}).get(f"florence2.{KEY}".encode())
    if text is None:
        return {}
    data = parse_json(text)
    sets = [
        ImportMetadata(
            split,
            {space: tuple(Coverage(s, tuple(labels)) for s, *labels in states) for space, states in by.items()},
            correction="".join(more),
        )
        for split, by, *more in data["sets"]
    ]
    return {name: sets[number] for name, number in data["of"].items()}


def combine(parts: Iterable[Mapping[str, ImportMetadata]]) -> dict[str, ImportMetadata]:
    """The metadata of several imports together, in order: of one label space the union of their statements."""
    out: dict[str, ImportMetadata] = {}
    for part in parts:
        for name, metadata in part.items():
            old = out.get(name, ImportMetadata())
            before = {} if metadata.correction else old.coverage
            both = {s: _union((*before.get(s, ()), *states)) for s, states in metadata.coverage.items()}
            out[name] = ImportMetadata(old.split or metadata.split, {**old.coverage, **both})
    return out


def apply(samples: Sequence[Sample], metadata_of: Mapping[str, ImportMetadata]) -> list[Sample]:
    """The samples with their imports' split and coverage."""
    if not metadata_of:
        return list(samples)
    return [
        _with(sample, metadata_of[sample.image.id]) if sample.image.id in metadata_of else sample for sample in samples
    ]


def _with(sample: Sample, metadata: ImportMetadata) -> Sample:
    return dataclasses.replace(
        sample, split=sample.split or metadata.split, coverage={**sample.coverage, **metadata.coverage}
    )


def _union(states: Sequence[Coverage]) -> tuple[Coverage, ...]:
    """Each state once: for the whole space where one says so, else for the labels of all."""
    found: dict[str, list[Any]] = {}
    for coverage in states:
        found.setdefault(coverage.state, []).append(coverage.labels)
    return tuple(
        Coverage(state, tuple(dict.fromkeys(label for part in parts for label in part)) if all(parts) else ())
        for state, parts in found.items()
    )

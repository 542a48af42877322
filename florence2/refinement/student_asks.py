"""What a round's students are asked: tasks and labels that a store's kept annotations hold, unless others are named.

A store of boxes gets no captions, and no label that nobody uses. What is asked is written to a card beside the
student's weights, by which `annotate` and `verify --repair` open it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from florence2.atomic_files import write_atomic
from florence2.codec.tasks import Task, task_of
from florence2.engine.operator import digest
from florence2.engine.specialists.student import GROUNDING, TASKS, closed
from florence2.labels import fold_label
from florence2.records import Parsed, Sample


@dataclass(frozen=True)
class StudentAsks:
    """The tasks a student is asked, the labels that its boxes may have (none: any), whether in views of a picture."""

    tasks: tuple[str, ...]
    labels: tuple[str, ...] = ()
    views: bool = False

    def card(self, folder: str | Path) -> str:
        """Write the student's card beside its weights, under a name that says what it holds."""
        settings: dict[str, Any] = {"specialist": "student", "model": "."}
        settings |= {"tasks": list(self.tasks), "labels": list(self.labels), **({"views": True} if self.views else {})}
        path = Path(folder) / f"asks-{digest(settings)}.yaml"
        if not path.is_file():
            write_atomic(path, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        return str(path)


def asks_of(
    samples: Iterable[Sample], table: Mapping[str, Task], tasks: Sequence[str] = (), labels: Sequence[str] = ()
) -> StudentAsks:
    """What the kept annotations of these samples can train a student for; `tasks` and `labels` are a user's choice.

    A label named in other letter case or white space than the annotations have is asked as they have it.
    ValueError where they can train none of the tasks, or not one that was named.
    """
    named = [task_of(name, table) for name in tasks]
    wanted = named or [table[token] for token in TASKS if token in table]
    trainable: set[str] = set()
    found: set[str] = set()
    for sample in samples:
        for task in wanted:
            if task.token in trainable and not closed(task):
                continue
            answers = [parsed for _, parsed in task.truths(sample) if _says(parsed)]
            trainable.update([task.token] * bool(answers))
            if closed(task):
                found.update(region.label for parsed in answers for region in parsed.regions if region.label.strip())
    can = [task for task in wanted if task.token in trainable]
    if not can or len(can) < len(named):
        missing = next(task.name for task in wanted if task.token not in trainable)
        what = ", ".join(task.name for task in can) or "none of those asked for"
        raise ValueError(f"keeps nothing to train a student on for {missing}; its annotations can train: {what}")
    asked = [task.token for task in can if not task.input_kind or task.token == GROUNDING]
    if not any(token != GROUNDING for token in asked):
        raise ValueError(
            f"{', '.join(task.name for task in can)}: each needs an input, so that a student can be asked none of a "
            "picture alone; name a task such as OD or CAPTION as well"
        )
    held = _as_learned(labels, sorted(found)) if labels else tuple(sorted(found))
    return StudentAsks(tuple(asked), held if any(closed(table[token]) for token in asked) else ())


def _as_learned(labels: Sequence[str], learned: Sequence[str]) -> tuple[str, ...]:
    """Labels as a student learns to write them: one that annotations have nowhere as named becomes each that folds to
    the same; one that they have in no spelling stays."""
    out: dict[str, None] = {}
    for label in labels:
        same = [each for each in learned if fold_label(each) == fold_label(label)]
        out.update(dict.fromkeys([label] if label in same or not same else same))
    return tuple(out)


def _says(parsed: Parsed) -> bool:
    return bool(parsed.texts or parsed.regions or parsed.groundings)

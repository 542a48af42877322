"""`florence2.evaluate`: a model, a specialist or a callable by whatever names it, scored on a data set."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from florence2.codec.tasks import Task
    from florence2.evaluation.run import Model
    from florence2.records import Sample


def evaluate(
    model: Model | str | os.PathLike[str] | None,
    data: str | os.PathLike[str] | Sequence[Sample],
    task: str | None = None,
    out: str | os.PathLike[str] = "",
    *,
    protocol: str | None = None,
    split: str | None = None,
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    device: str | None = None,
    tasks: Mapping[str, Task] | str | os.PathLike[str] | None = None,
    **options: object,
) -> dict[str, Any]:
    """The scores of a model, a specialist or a callable on a data set, kept in the folder `out`: the command's twin.

    `model` is a name (what `load` takes, or a specialist's: rapidocr, card.yaml), a loaded model, or a callable from a
    list of (Sample, Ask) to as many Parsed or Failure. `protocol` names a benchmark, which says the task and how to
    decode; `tasks` a checkpoint whose table holds the task, where that is not the model's own. The other options
    are those of `florence2.evaluation.evaluate`.
    """
    from florence2.engine.specialists.specialist_predictor import open_as_predictor
    from florence2.evaluation import evaluate as score_model
    from florence2.evaluation import protocols
    from florence2.predictor import checkpoints, load

    if task is None and protocol is None:
        raise ValueError("task: expected a task's name, such as OD, or protocol=; got neither")
    if not out:
        raise ValueError("out: expected the folder that keeps answers and scores, got nothing")
    arguments = protocols.arguments(protocol, data, task, split, format, images, limit)
    if isinstance(tasks, (str, os.PathLike)):
        tasks = checkpoints.find(tasks).tasks()
    passed: dict[str, Any] = dict(options)
    opened: Model | None
    if isinstance(model, (str, os.PathLike)):
        passed.setdefault("model_name", os.fspath(model))
        opened = open_as_predictor(os.fspath(model), device, tasks) or load(model, device=device)
    else:
        opened = model
    if model is None and passed.get("predictions"):
        passed.setdefault("model_name", os.fspath(passed["predictions"]))
    return score_model(opened, out=out, tasks=tasks, **arguments, **passed)

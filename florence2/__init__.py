"""Florence-2: load, predict, annotate, filter, refine, train, evaluate. Importing this costs no torch."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from florence2.codec.tasks import Task
    from florence2.evaluation.run import Model
    from florence2.records import Sample

__version__ = "0.1.0"

# public name -> the module that holds it; opened on first use
_PUBLIC = {
    "load": "florence2.predictor",
    "Florence2": "florence2.predictor",
    "Answer": "florence2.predictor",
    "parse": "florence2.predictor",
    "render": "florence2.predictor",
    "TASKS": "florence2.codec.tasks",
    "register": "florence2.codec.tasks",
    "Ask": "florence2.records",
    "Coverage": "florence2.records",
    "Decision": "florence2.records",
    "Failure": "florence2.records",
    "Grounding": "florence2.records",
    "ImageRef": "florence2.records",
    "Parsed": "florence2.records",
    "Region": "florence2.records",
    "Rle": "florence2.records",
    "Sample": "florence2.records",
    "Source": "florence2.records",
    "Text": "florence2.records",
    "BadImage": "florence2.pixels",
    "Store": "florence2.store",
    "annotate": "florence2.engine",
    "filter": "florence2.engine",
    "refine": "florence2.refinement",
    "train": "florence2.training",
}

# rooms that can be reached as attributes without importing them first
_ROOMS = ("codec", "drawing", "engine", "evaluation", "formats", "geometry", "metrics", "model", "pixels", "predictor",
          "records", "refinement", "reporting", "scenes", "sources", "store", "training")  # fmt: skip

__all__ = ["__version__", "evaluate", *_PUBLIC]


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
    **options: Any,
) -> dict[str, Any]:
    """The scores of a model, a specialist or a callable on a data set, kept in the folder `out`: the command's twin.

    `model` is a name (what `load` takes, or a specialist's: rapidocr, card.yaml), a loaded model, or a callable from a
    list of (Sample, Ask) to as many Parsed or Failure. `protocol` names a benchmark, which says the task and how to
    decode; `tasks` a checkpoint whose table holds the task, where that is not the model's own. The other options
    are those of `florence2.evaluation.evaluate`.
    """
    from florence2.engine.specialists.specialist_predictor import open_as_predictor
    from florence2.evaluation import evaluate, protocols
    from florence2.predictor import checkpoints, load

    if task is None and protocol is None:
        raise ValueError("task: expected a task's name, such as OD, or protocol=; got neither")
    if not out:
        raise ValueError("out: expected the folder that keeps answers and scores, got nothing")
    arguments = protocols.arguments(protocol, data, task, split, format, images, limit)
    if isinstance(tasks, (str, os.PathLike)):
        tasks = checkpoints.find(tasks).tasks()
    opened: Model | None
    if isinstance(model, (str, os.PathLike)):
        options.setdefault("model_name", os.fspath(model))
        opened = open_as_predictor(os.fspath(model), device, tasks) or load(model, device=device)
    else:
        opened = model
    if model is None and options.get("predictions"):
        options.setdefault("model_name", os.fspath(options["predictions"]))
    return evaluate(opened, out=out, tasks=tasks, **arguments, **options)


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"florence2.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'florence2' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted((*__all__, *_ROOMS))

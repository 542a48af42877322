"""What models answer about the sets of this benchmark, each item with whether it is right; kept in a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import florence2
from florence2 import sources
from florence2.codec.tasks import task_of
from florence2.evaluation.eval_items import eval_items_of
from florence2.evaluation.rightness import right_items
from florence2.scenes import TRAINING_SEEDS

SCENES = "objects=1-6,min_side=0.1,signs=0.45"


def sets(args) -> dict[str, tuple[str, str, str | None]]:
    """name -> (model, data, split)."""
    out = {"scenes": (args.model, f"scenes:count={args.pictures},seed={TRAINING_SEEDS + 10**6},{SCENES}", None)}
    if args.data and args.bccd:
        out["bccd"] = (args.bccd, str(args.data / "bccd/BCCD"), "test")
    if args.data and args.cards:
        out["cards"] = (args.cards, str(args.data / "cards/train"), "test")
    return out


def samples_of(data: str, split: str | None):
    """The samples of a set's part."""
    return [s for s in sources.open(data) if split is None or sources.in_split(s, split)]


_LOADED: dict[str, florence2.Florence2] = {}


def model_of(name: str) -> florence2.Florence2:
    """A model without its calibration, loaded once."""
    if name not in _LOADED:
        _LOADED[name] = florence2.load(name, calibration=None)
    return _LOADED[name]


def answers_of(args, name: str, task: str, limit: int | None = None, **decoding):
    """[(number of the picture, eval item, answer)] of a set and a task, from the file where it was asked before."""
    model, data, split = sets(args)[name]
    how = "-".join(f"{key}={value}" for key, value in decoding.items())
    file = Path(args.out) / f"{name}-{task}-{args.pictures}-{limit}-{how}.pickle"
    if file.is_file():
        return pickle.loads(file.read_bytes())
    opened = model_of(model)
    items = eval_items_of(samples_of(data, split)[:limit], task_of(task, opened.tasks))
    turns = [(item.sample.image, item.ask) for item in items]
    places = {image: n for n, image in enumerate(dict.fromkeys(item.image for item in items))}
    found = list(opened.predict_many(turns, batch_size=16, **decoding))
    rows = [(places[item.image], item, answer) for item, answer in zip(items, found)]
    file.write_bytes(pickle.dumps(rows))
    return rows


def judged(task: str, rows):
    """(picture, row, id of the item, whether it is right) of every item that can be judged."""
    for number, (picture, item, answer) in enumerate(rows):
        for name, right in right_items(task_of(task), item, answer).items():
            yield picture, number, name, right

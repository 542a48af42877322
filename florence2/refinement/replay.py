"""What a student is shown beside a store's labels, so that it does not forget what its start knew.

A start that is fine-tuned on some labels alone forgets: even clean truth makes it worse with more steps, and noisy
labels more so. Shown as much of its own training data, it gains with steps. Where these are not known, ends of lists
are not taught but what the start thinks of them, which brings most of that (docs/claims.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DEFAULT = "nano"
OWN, NONE = "own", "none"
OWN_DATA: Mapping[str, str] = {  # of the starts that come with the package: scenes like those they were trained on
    "nano": "scenes:objects=1-3,min_side=0.15,signs=0.3,count=20000",
    "nano_256": "scenes:objects=1-8,min_side=0.08,max_side=0.5,signs=0.3,count=20000",
}
REPLAYED: Mapping[str, Any] = {"steps": 1000, "replay_share": 0.5}  # of students with replay, unless a recipe says
PULLED: Mapping[str, Any] = {"pull_unscored": 1.0}  # of those of a start whose data are not known


def named(start: str) -> str:
    """A start as every working directory reads it; the folder of one that comes with the package is that one."""
    from florence2.predictor import checkpoints  # brings torch

    if start in checkpoints.SHIPPED_NAMES or not Path(start).exists():
        return start
    folder = Path(start).resolve()
    shipped = folder.parent == checkpoints.SHIPPED.resolve() and folder.name in checkpoints.SHIPPED_NAMES
    return folder.name if shipped else str(folder)


def with_replay(recipe: Mapping[str, Any], replay: str, start: str, tasks: Iterable[str]) -> dict[str, Any]:
    """A recipe with a source that is replayed, of these tasks (with their weights, where they have any).

    The source is `own`, that of the start where it is known; `none`; or a path. A recipe that names its own `replay`
    (or null) is left as it is. `own` of a start whose data are not known: ends of lists that may go on are the start's.
    """
    if replay not in (OWN, NONE) and "replay" in recipe:
        raise ValueError("refine: replay is named both by --replay and in the recipe; name it once")
    path = OWN_DATA.get(start, "") if replay == OWN else "" if replay == NONE else located(replay)
    if "replay" in recipe or replay == NONE:
        return dict(recipe)
    if not path:
        kept = recipe.get("cache_features", "off") not in ("off", False)  # features that pull cannot do with
        open_end = {"open_end": True, **recipe.get("source", {})}
        return dict(recipe) if kept else {**PULLED, **recipe, "source": open_end}
    weights = dict(tasks) if isinstance(tasks, Mapping) else dict.fromkeys(tasks, 1.0)
    return {**REPLAYED, **recipe, "replay": {"path": path, "tasks": weights}}


def located(path: str) -> str:
    """A source's path as every working directory reads it; ValueError where nothing is there."""
    if path.partition(":")[0] in ("scenes", "hf"):
        return path
    if not Path(path).exists():
        raise ValueError(f"replay: {path}: does not exist; expected {OWN}, {NONE}, or the path of a data set")
    return str(Path(path).resolve())

"""`train`, from Python: whatever names a config becomes one, and is trained. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from florence2.training.config import TrainConfig
from florence2.training.config_files import from_mapping, read_config

if TYPE_CHECKING:
    from florence2.training.loop import TrainResult


def train(
    config: TrainConfig | Mapping[str, Any] | str,
    progress: Callable[[dict[str, Any]], None] | None = None,
    *,
    restart: bool = False,
    on_message: Callable[[str], None] = lambda text: None,
    **changes: object,
) -> TrainResult:
    """Train as a config, plain keys or a YAML file (a bare name: a shipped recipe) say; keywords change single keys.

    `data` may be the samples themselves: Samples, rows of (picture, prompt, answer), what `datasets` loads; with other
    keys of a source [{"samples": them, "tasks": ...}].
    `progress` is called with each line of metrics.jsonl, `on_message` with other messages. `restart` moves
    a run in OUT aside.
    """
    from florence2.training.loop import run

    if isinstance(config, str):
        config = read_config(config)
    if isinstance(config, TrainConfig):
        config = vars(config)
    return run(from_mapping({**config, **changes}), progress, restart=restart, on_message=on_message)

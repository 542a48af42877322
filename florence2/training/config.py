"""The configuration of a training run: plain dataclasses, YAML with dotted overrides. Imports no torch.

An unknown key is an error that names it; a key that is planned and not built is refused in one line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEDULES = ("constant", "linear", "cosine", "trapezoid")
PRECISIONS = ("fp32", "bf16")
AUGMENTS = ("none", "default")
STRATEGIES = ("full", "frozen_vision", "decoder")
LATER = ("lora", "gradient_checkpointing", "evaluate_every", "resume_from")
RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass
class DataSource:
    """Where samples come from, and which of their tasks are trained how often."""

    path: str = ""
    """A folder, .jsonl or store; or `scenes:count=20000,objects=1-3,min_side=0.15`, drawn on the fly."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Task to weight, such as {OD: 2, CAPTION: 1}; or a list of tasks, each of weight 1. Empty: all with truths."""
    weight: float = 1.0
    """How often each pair of this source comes in an epoch; a fraction takes that share of them."""
    split: str = ""
    """train or test; empty: the whole."""
    format: str = ""
    """The foreign format's name; empty: detected from the files."""
    images: str = ""
    """The folder that relative picture paths start from; empty: as the format says."""
    pairs: int = 1
    """Asks put to one picture side by side; the picture is encoded once for all of them."""
    epochs: tuple[int, int] | None = None
    """First and last epoch (from 0, both included) that use this source; a curriculum is made of such spans."""


@dataclass
class TrainConfig:
    """One training run. The same config again resumes it from its newest checkpoint."""

    out: str
    """The run's folder: checkpoints, metrics.jsonl, the config."""
    data: list[DataSource]
    model: str = "nano"
    """What `load` opens; or `new:nano`, a size started from nothing with a vocabulary of its own."""
    vocab_size: int = 1536
    """Rows of a new model's vocabulary before the 1,024 added tokens."""
    steps: int = 1000
    batch_size: int = 32
    """Pairs of (picture, ask) in one forward."""
    accumulate: int = 1
    """Forwards summed into one step; the loss is the mean over all their tokens."""
    lr: float = 1e-4
    warmup_steps: int = 0
    schedule: str = "cosine"
    """After the warm-up: constant; linear or cosine down to zero; trapezoid: constant, the last 30 % linear to zero."""
    weight_decay: float = 0.01
    """On matrices; norms, biases and embeddings have none."""
    clip: float = 1.0
    """Largest norm of all gradients together; 0: off."""
    ema: float = 0.0
    """Decay of the averaged weights that are saved in place of the last ones; 0: off."""
    dense: float = 0.0
    """Weight of the auxiliary loss on the tower's map; 0: off."""
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 0
    """Threads of torch on the CPU; 0: as they are."""
    workers: int = 0
    """Processes that prepare batches; 0: this one does."""
    seed: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    label_smoothing: float = 0.0
    augment: str = "none"
    strategy: str = "full"
    """full; frozen_vision: all but the tower; decoder: the decoder's layers without the tied matrix."""
    save_every: int = 500
    max_target: int = 400
    """Longest target in tokens; a longer one is left out and counted."""

    def __post_init__(self) -> None:
        choices = {"schedule": SCHEDULES, "precision": PRECISIONS, "augment": AUGMENTS, "strategy": STRATEGIES}
        if self.strategy == "lora":
            raise ValueError("strategy: lora is planned and not built yet; use full, frozen_vision or decoder")
        for key, expected in choices.items():
            if getattr(self, key) not in expected:
                raise ValueError(f"{key}: expected one of {', '.join(expected)}, got {getattr(self, key)!r}")
        for key in ("steps", "batch_size", "accumulate", "save_every", "max_target"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: expected at least 1, got {getattr(self, key)}")
        for key in ("lr", "warmup_steps", "weight_decay", "clip", "ema", "dense", "dropout", "drop_path", "workers"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}: expected at least 0, got {getattr(self, key)}")
        for key in ("ema", "dropout", "drop_path", "label_smoothing"):
            if getattr(self, key) >= 1:
                raise ValueError(f"{key}: expected less than 1, got {getattr(self, key)}")
        if not self.data:
            raise ValueError("data: expected at least one source; add `- path: FOLDER`")
        if not self.out:
            raise ValueError("out: expected the run's folder, got nothing")


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of a YAML file, or of a shipped recipe by its bare name, with `--key.sub=value` overrides."""
    import yaml

    file = find_recipe(path)
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file}: not YAML ({error}); mend the file") from None
    if not isinstance(data, dict):
        raise ValueError(f"{file}: expected keys such as model, out and data, got {type(data).__name__}")
    for override in overrides:
        key, equals, value = override.removeprefix("--").partition("=")
        if not override.startswith("--") or not equals:
            raise ValueError(f"{override!r}: expected --key=value or --key.sub=value")
        _put(data, key, yaml.safe_load(value), override)
    return from_mapping(data, str(file))


def find_recipe(path: str | Path) -> Path:
    """The file itself, or the shipped recipe of that bare name."""
    file = Path(path)
    if file.is_file():
        return file
    shipped = RECIPES / f"{path}.yaml"
    if file.name == str(path) and shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
    raise ValueError(f"{path}: no such config; expected a YAML file or a shipped recipe ({names})")


def from_mapping(data: Mapping[str, Any], where: str = "config") -> TrainConfig:
    """The config of plain YAML types, every key checked."""
    if "data" not in data or "out" not in data:
        missing = "data" if "data" not in data else "out"
        raise ValueError(f"{where}: {missing}: missing; a run needs out (a folder) and data (a list of sources)")
    sources = data["data"]
    if not isinstance(sources, list):
        raise ValueError(f"{where}: data: expected a list of sources, got {sources!r:.60}")
    built = [_source(source, f"{where}: data[{i}]") for i, source in enumerate(sources)]
    try:
        return TrainConfig(**_checked(TrainConfig, {**data, "data": built}, where))
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where not in str(error) else str(error)) from None


def to_mapping(config: TrainConfig) -> dict[str, Any]:
    """The config as plain YAML types, every field written out."""
    out = dataclasses.asdict(config)
    for source in out["data"]:
        source["epochs"] = list(source["epochs"]) if source["epochs"] else None
    return out


def _source(data: Any, where: str) -> DataSource:
    if isinstance(data, DataSource):
        return data
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected keys such as path and tasks, got {data!r:.60}")
    values = dict(data)
    if isinstance(values.get("tasks"), (list, tuple, str)):
        names = [values["tasks"]] if isinstance(values["tasks"], str) else values["tasks"]
        values["tasks"] = {name: 1.0 for name in names}
    if values.get("epochs") is not None:
        values["epochs"] = tuple(values["epochs"])
    if not values.get("path"):
        raise ValueError(f"{where}.path: missing; expected a folder, .jsonl, store or scenes:...")
    source = DataSource(**_checked(DataSource, values, where))
    if source.weight <= 0 or source.pairs < 1:
        raise ValueError(
            f"{where}: expected weight above 0 and pairs of at least 1, got {source.weight}, {source.pairs}"
        )
    return source


def _checked(kind: type, data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values by field, of the field's own type."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    out = {}
    for key, value in data.items():
        if key in LATER:
            raise ValueError(f"{where}: {key}: planned and not built yet; leave the key out")
        if key not in fields:
            raise ValueError(f"{where}: {key}: unknown key; expected one of {', '.join(fields)}")
        out[key] = _typed(str(fields[key].type), value, f"{where}: {key}")
    return out


def _typed(hint: str, value: Any, where: str) -> Any:
    if hint == "float" and isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-4 as a string
        except ValueError:
            pass
    kinds = {"str": str, "int": int, "float": (int, float), "list": list, "dict": Mapping, "tuple": tuple}
    kind: Any = kinds[hint.split("[")[0]]
    if value is None and "None" in hint:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{where}: expected {hint}, got {value!r:.60}")
    return float(value) if hint == "float" else value


def _put(data: dict[str, Any], key: str, value: Any, override: str) -> None:
    """Set a.b.0.c within nested dicts and lists."""
    parts = key.split(".")
    place: Any = data
    for part in parts[:-1]:
        try:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        except (ValueError, IndexError):
            raise ValueError(f"{override}: {part}: expected an index below {len(place)}") from None
        if not isinstance(place, (dict, list)):
            raise ValueError(f"{override}: {part}: holds {place!r:.40}, no keys below it")
    last: Any = int(parts[-1]) if isinstance(place, list) else parts[-1]
    place[last] = value

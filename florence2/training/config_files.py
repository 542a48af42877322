"""A training config from YAML, plain keys and `--key.sub=value` overrides, and back. An unknown key is named."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from florence2.formats import documents
from florence2.structuring import structure
from florence2.training.config import DataSource, TrainConfig

SOURCES = ("data", "validation")  # keys that list sources
PATHS = ("out", "model", "cache_folder")
RECIPES = Path(__file__).parent.parent / "recipes"


def read_config(path: str | Path | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of a YAML file, or of a shipped recipe by its bare name, with `--key.sub=value` overrides.

    None: the overrides alone. `--key value`, in two words, is the same as `--key=value`.
    """
    file = None if path is None else find_recipe(path)
    data = documents.read_settings(file) if file else {}
    for override in _in_one_word(overrides):
        key, equals, value = override.removeprefix("--").partition("=")
        if not override.startswith("--") or not equals:
            raise ValueError(f"{override!r}: expected --key=value or --key.sub=value")
        _put(data, key, documents.parse_setting(value, override), override)
    return from_mapping(data, str(file or "the command line"))


def _in_one_word(overrides: Sequence[str]) -> list[str]:
    """Overrides with the value that follows a key as a word of its own put behind it."""
    out: list[str] = []
    for word in overrides:
        if out and out[-1].startswith("--") and "=" not in out[-1] and not word.startswith("--"):
            out[-1] += f"={word}"
        else:
            out.append(word)
    return out


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
    values = {key: _at_home(value) if key in PATHS else value for key, value in data.items()}
    if isinstance(values.get("init"), Mapping):
        values["init"] = {key: _at_home(value) for key, value in values["init"].items()}
    for key in SOURCES:
        if values.get(key) is not None:
            values[key] = _sources(values[key], f"{where}: {key}")
    if values.get("replay") is not None:
        values["replay"] = _source(values["replay"], f"{where}: replay")
    for key, on in (("cache_features", "memory"), ("fast_fp32", "on")):
        if isinstance(values.get(key), bool):  # YAML reads `off` as false
            values[key] = on if values[key] else "off"
    return structure(TrainConfig, values, where, settings=True)


def to_mapping(config: TrainConfig) -> dict[str, Any]:
    """The config as plain YAML types, every field written out."""
    sources: dict[str, Any] = {"data": [_named(source) for source in config.data]}
    if config.replay is not None:
        sources["replay"] = _named(config.replay)
    if config.validation is not None:
        sources["validation"] = [_named(source) for source in config.validation]
    plain: dict[str, Any] = _plain(vars(config) | sources)
    return plain


def _named(source: DataSource) -> dict[str, Any]:
    """A source's keys; samples from Python by the name that their content gave them."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(dataclasses.replace(source, samples=None)))
    del plain["samples"]
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _sources(data: Any, where: str) -> list[DataSource]:
    if data and (not isinstance(data, list) or not isinstance(data[0], (DataSource, Mapping))):
        one = isinstance(data, Mapping) and not all(hasattr(part, "to_parquet") for part in data.values())
        if one or isinstance(data, (str, int, float)):
            raise ValueError(f"{where}: expected a list of sources, as `- path: ...`, got {data!r:.60}")
        data = [{"samples": data}]  # from Python: the samples themselves
    return [_source(source, f"{where}[{i}]") for i, source in enumerate(data)]


def _source(data: Any, where: str) -> DataSource:
    if isinstance(data, DataSource):
        return data
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected keys such as path and tasks, got {data!r:.60}")
    values = {key: _at_home(value) if key in ("path", "images") else value for key, value in data.items()}
    if isinstance(values.get("tasks"), (list, tuple, str)):
        names = [values["tasks"]] if isinstance(values["tasks"], str) else values["tasks"]
        values["tasks"] = {name: 1.0 for name in names}
    if values.get("samples") is not None:
        from florence2.training.given import given

        values["samples"], values["path"] = given(values["samples"], f"{where}.samples")
    if not values.get("path"):
        raise ValueError(f"{where}.path: missing; expected a folder, .jsonl, store or scenes:...")
    source = structure(DataSource, values, where, settings=True)
    if source.prefix_suffix:
        source.format = source.format or "prefix_suffix"
    return source


def _at_home(value: Any) -> Any:
    """A path whose ~ is the home folder: a shell leaves it as it is within --out=~/runs."""
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def _put(data: dict[str, Any], key: str, value: Any, override: str) -> None:
    """Set a.b.0.c within nested dicts and lists; what is not there is made, a list where a number follows."""
    parts = key.split(".")
    place: Any = data
    for part, below in zip(parts[:-1], parts[1:]):
        new: Any = [] if below.isdecimal() else {}
        if isinstance(place, list):
            number = _index(place, part, override)
            place.extend([new] if number == len(place) else [])
            place = place[number]
        else:
            place = place.setdefault(part, new)
        if not isinstance(place, (dict, list)):
            raise ValueError(f"{override}: {part}: holds {place!r:.40}, no keys below it")
    if isinstance(place, list):
        number = _index(place, parts[-1], override)
        place[number : number + 1] = [value]
    else:
        place[parts[-1]] = value


def _index(place: list[Any], part: str, override: str) -> int:
    """Of an item that there is, or the next one."""
    if not part.isdecimal() or int(part) > len(place):
        raise ValueError(f"{override}: {part}: expected an index up to {len(place)}")
    return int(part)

"""Write a model with its tokenizer and tasks in any layout; convert a checkpoint and check what was written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from florence2.codec.official import BANNED_PHRASES
from florence2.codec.tasks import Task, load_tasks, save_tasks
from florence2.codec.tokenizer import IMAGE_TOKEN, Tokenizer
from florence2.model.adapter import CONFIG as ADAPTER_CONFIG
from florence2.model.adapter import adapter_base
from florence2.model.checkpoint import load_model, open_checkpoint, save_model
from florence2.model.florence import Florence
from florence2.model.layouts import EMBEDDING, HEAD
from florence2.model.tensor_files import read_json
from florence2.predictor.loading import find

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "dict.txt"),
)


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: `tensors` were read back and found bit-equal on all `rows` that the tokenizer names."""

    source: str
    folder: str
    layout: str
    dtype: str
    tensors: int
    rows: int


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    layout: str,
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> Converted:
    """Save a checkpoint, an adapter merged, in another layout and in its own type; then read it back and compare."""
    base, merged = with_adapter(source, revision, adapter)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: expected a new or empty folder, got one with files; name another")
    model = load_model(base, open_checkpoint(base).dtype, adapter=merged)
    home = tokenizer_folder(base, merged)
    tokenizer = Tokenizer.load(home)
    write(model, tokenizer, load_tasks(home), target, layout, home)
    compared = _compare(model, target, tokenizer)
    dtype = str(model.dtype).removeprefix("torch.")
    return Converted(os.fspath(source), str(target), layout, dtype, compared, tokenizer.vocab_size)


def write(
    model: Florence,
    tokenizer: Tokenizer,
    tasks: Mapping[str, Task],
    folder: str | os.PathLike[str],
    layout: str,
    home: Path | None = None,
) -> None:
    """Weights, configs, tokenizer and tasks of one's own. Tokenizer files of `home` that fit are copied as they are.

    The weights keep the type of the file they came from where that loses nothing, else the type they have.
    """
    target = Path(folder)
    named, image_id = tokenizer.vocab_size, tokenizer.image_id
    save_model(model, target, layout, lossless_dtype(model), named, image_id)
    needs = layout == "transformers" and image_id == named
    if home is not None and not needs and not tokenizer.appended:
        for name in TOKENIZER_FILES:
            if (home / name).is_file() and (home / name).resolve() != (target / name).resolve():
                shutil.copyfile(home / name, target / name)
    else:
        tokenizer.save(target, image_token=needs)
    if layout == "microsoft" and open_checkpoint(target).config.text.vocab_size <= image_id < named:
        _forget_placeholder(target)
    if layout == "transformers":
        (target / "processor_config.json").write_text(json.dumps(_processor(), indent=2) + "\n", encoding="utf-8")
    save_tasks(tasks, target)


def with_adapter(
    source: str | os.PathLike[str], revision: str | None, adapter: str | os.PathLike[str] | None
) -> tuple[Path, Path | None]:
    """The base's folder, and the adapter's if there is one: given, or `source` itself, which then names its base."""
    folder = find(source, revision)
    if adapter is not None:
        return folder, find(adapter)
    named = adapter_base(folder)
    if named is None:
        return folder, None
    try:
        return find(*named), folder
    except (ValueError, OSError) as error:
        where = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path"
        raise type(error)(f"{where}: {error}; or give the base, and this folder as its adapter") from None


def tokenizer_folder(base: Path, adapter: Path | None) -> Path:
    """Where the tokenizer is: beside the adapter if it brought one, else beside the base."""
    brought = adapter is not None and any((adapter / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    return adapter if adapter is not None and brought else base


def lossless_dtype(model: Florence) -> torch.dtype:
    """The type of the file that the weights came from, if they still fit it to the bit; else their own."""
    stored = model.stored
    if stored is None or stored == model.dtype:
        return model.dtype
    fits = all(torch.equal(tensor.to(stored).to(tensor.dtype), tensor) for tensor in model.state_dict().values())
    return stored if fits else model.dtype


def _compare(model: Florence, folder: Path, tokenizer: Tokenizer) -> int:
    """Read a folder back; how many tensors were compared with the model's, each bit-equal."""
    written = load_model(folder, model.dtype).state_dict()
    for name, tensor in model.state_dict().items():
        rows = tokenizer.vocab_size if name in (EMBEDDING, HEAD) else None
        rows = min(rows, len(written[name])) if rows else None  # a placeholder's row may have been let go
        if not torch.equal(tensor[:rows], written[name][:rows]):
            raise ValueError(f"{folder}: {name}: expected what was written, read something else; check the disk")
    return len(written)


def _forget_placeholder(folder: Path) -> None:
    """Take `<image>` out of tokenizer files whose model holds no row for it."""
    for name in ("tokenizer.json", "added_tokens.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        data: dict[str, Any] = read_json(folder / name)
        data.pop(IMAGE_TOKEN, None)
        for key in ("image_token", "extra_special_tokens"):
            data.pop(key, None)
        if isinstance(data.get("added_tokens"), list):
            data["added_tokens"] = [row for row in data["added_tokens"] if row.get("content") != IMAGE_TOKEN]
        if isinstance(data.get("added_tokens_decoder"), dict):
            rows = data["added_tokens_decoder"].items()
            data["added_tokens_decoder"] = {i: row for i, row in rows if row.get("content") != IMAGE_TOKEN}
        (folder / name).write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _processor() -> dict[str, Any]:
    """What transformers' processor reads; a kind that it does not find here it refuses."""
    kinds = ("pure_text", "description_with_bboxes", "description_with_polygons", "polygons", "bboxes")
    rows: dict[str, Any] = {kind: {} for kind in (*kinds, "description_with_bboxes_or_polygons")}
    rows |= {"ocr": {"AREA_THRESHOLD": 0.0}, "phrase_grounding": {"banned_grounding_tokens": sorted(BANNED_PHRASES)}}
    return {
        "processor_class": "Florence2Processor",
        "num_additional_image_tokens": 0,
        "post_processor_config": rows,
    }

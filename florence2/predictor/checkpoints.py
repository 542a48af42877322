"""A checkpoint found, opened and saved: weights, tokenizer and table of tasks together, in any layout.

Whoever wants a part of one (training its weights, `data check` its tokenizer, an evaluation its tasks) finds it here.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from florence2 import arguments
from florence2.codec.official import BANNED_PHRASES
from florence2.codec.tasks import Task, load_tasks, save_tasks
from florence2.codec.tokenizer import IMAGE_TOKEN, Tokenizer
from florence2.labels import one_line
from florence2.model.adapter import CONFIG as ADAPTER_CONFIG
from florence2.model.adapter import adapter_base
from florence2.model.checkpoint import Checkpoint, load_model, open_checkpoint, save_model
from florence2.model.florence import Florence
from florence2.model.tensor_files import ADAPTER, TensorFolder, read_json
from florence2.model.tiers import GATE
from florence2.predictor.calibration import FILE, Calibration, check_fits, read_calibration
from florence2.sources.hub_datasets import HUB_ID

CALIBRATED_BY = "auto"  # calibration: that of the file beside the weights
SHIPPED = Path(__file__).parent.parent / "weights"
SHIPPED_NAMES = ("nano", "nano_256")  # the same one at 128 and, trained further, at 256 pixels
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "encoder.json", "vocab.bpe", "dict.txt"),
)


class Parts(NamedTuple):
    """What a checkpoint holds."""

    model: Florence
    tokenizer: Tokenizer
    tasks: dict[str, Task]


@dataclass(frozen=True)
class FoundCheckpoint:
    """Where a checkpoint's parts are: the weights' folder, the adapter's to merge, that of tokenizer and tasks."""

    base: Path
    adapter: Path | None
    home: Path

    def checkpoint(self) -> Checkpoint:
        """What the files of the base say, no tensor read."""
        return open_checkpoint(self.base)

    def model(self, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None) -> Florence:
        """The weights, the adapter merged."""
        return load_model(self.base, dtype, device, self.adapter)

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.home)

    def tasks(self) -> dict[str, Task]:
        """The official and shipped rows, a user's registered ones, and those of tasks.json."""
        return load_tasks(self.home)


def find(
    source: str | os.PathLike[str], revision: str | None = None, adapter: str | os.PathLike[str] | None = None
) -> FoundCheckpoint:
    """The checkpoint of a folder of any layout, of an adapter's (which names its base), a hub id, a shipped name."""
    folder = find_folder(source, revision)
    if adapter is not None:
        return _found(folder, find_folder(adapter))
    named = adapter_base(folder)
    if named is None:
        return _found(folder, None)
    try:
        return _found(find_folder(*named), folder)
    except (ValueError, OSError) as error:
        where = f"{folder / ADAPTER_CONFIG}: base_model_name_or_path"
        raise type(error)(f"{where}: {error}; or give the base, and this folder as its adapter") from None


def open_parts(
    found: FoundCheckpoint, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None
) -> Parts:
    """All parts of a checkpoint, refused where they do not belong together."""
    model, tokenizer = found.model(dtype, device), found.tokenizer()
    rows, named = model.config.text.vocab_size, min(tokenizer.vocab_size, tokenizer.image_id)
    if named > rows:
        raise ValueError(
            f"{found.home}: the tokenizer names {named} ids, the weights hold {rows} rows; they do not belong together"
        )
    return Parts(model, tokenizer, found.tasks())


def weights_sha256(found: FoundCheckpoint) -> str:
    """The sha256 of the weights' file; of shards, and of an adapter beside its base, that of their sums in order."""
    files = sorted({file.path for file in TensorFolder(found.base).files.values()})
    if found.adapter is not None:
        files += sorted({file.path for file in TensorFolder(found.adapter, ADAPTER, ()).files.values()})
    sums = [_sha256(file) for file in files]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def calibration_of(
    found: FoundCheckpoint, wanted: Calibration | str | os.PathLike[str] | bool | None, tasks: Mapping[str, Task]
) -> Calibration | None:
    """The calibration wanted, checked against weights and tasks: "auto" is that beside the weights, if there is one."""
    if wanted is None or wanted is False:
        return None
    if wanted is True or wanted == CALIBRATED_BY:
        path: str | os.PathLike[str] = (found.adapter or found.base) / FILE
        if not Path(path).is_file():
            if wanted is True:
                raise ValueError(f"{path}: does not exist; run florence2 calibrate, or load without calibration")
            return None
    elif isinstance(wanted, Calibration):
        check_fits(wanted, weights_sha256(found), tasks, "calibration")
        return wanted
    elif isinstance(wanted, (str, os.PathLike)) and os.fspath(wanted):
        path = Path(wanted) / FILE if Path(wanted).is_dir() else wanted
    else:
        raise ValueError(f"calibration: expected a file, None or False, got {wanted!r:.60}")
    calibration = read_calibration(path)
    check_fits(calibration, weights_sha256(found), tasks, path)
    return calibration


def save(
    model: Florence,
    tokenizer: Tokenizer,
    tasks: Mapping[str, Task],
    folder: str | os.PathLike[str],
    layout: str = "florence2",
    home: Path | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Weights, configs, tokenizer, tasks of one's own, a calibration. Tokenizer files of `home` that fit are copied as
    they are.

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
    save_calibration(calibration, target)
    _forget_gate(target)


def save_calibration(calibration: Calibration | None, folder: Path) -> None:
    """The same maps beside these weights; none left there of others."""
    if calibration is None:
        (folder / FILE).unlink(missing_ok=True)
    else:
        replace(calibration, weights_sha256=weights_sha256(find(folder))).save(folder / FILE)


def _forget_gate(folder: Path) -> None:
    """Remove what the gate decided of other weights."""
    path = folder / GATE
    if not path.is_file():
        return
    try:
        measured = read_json(path).get("weights_sha256")
    except ValueError:
        measured = None
    if measured != weights_sha256(find(folder)):
        path.unlink()


def lossless_dtype(model: Florence) -> torch.dtype:
    """The type of the file that the weights came from, if they still fit it to the bit; else their own."""
    stored = model.stored
    if stored is None or stored == model.dtype:
        return model.dtype
    fits = all(torch.equal(tensor.to(stored).to(tensor.dtype), tensor) for tensor in model.state_dict().values())
    return stored if fits else model.dtype


def find_folder(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a shipped model's name, of a path, or of a hub id (downloaded, or found in the local cache)."""
    name = arguments.path("model", source)
    if name in SHIPPED_NAMES:  # a folder of that name is ./nano
        folder = SHIPPED / name
        if not (folder / "config.json").is_file():
            raise ValueError(f"{name}: {folder} holds no weights; train them with `florence2 train --config {name}`")
        return folder
    if name and Path(name).is_dir():
        return Path(name)
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        return _from_hub(name, revision)
    raise ValueError(
        f"{name or 'model'}: no such folder; expected 'nano' or 'nano_256', a folder with config.json and weights, "
        "or a hub id"
    )


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _found(base: Path, adapter: Path | None) -> FoundCheckpoint:
    """Tokenizer and tasks are beside the adapter if it brought a tokenizer, else beside the base."""
    brought = adapter is not None and any((adapter / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    return FoundCheckpoint(base, adapter, adapter if adapter is not None and brought else base)


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    dropped: Any = HfHubHTTPError.__bases__[0]  # what its HTTP library raises for a lost connection
    small = ["*.json", "*.txt", "*.bpe"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*small, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            patterns = [*small, "pytorch_model*.bin", "adapter_model.bin"]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError, RuntimeError, dropped) as error:
        why = one_line(error, 300)
        raise OSError(
            f"{name}: no such folder here, and the hub cannot give it ({why}); to load without a network, "
            "download the model's files elsewhere and give the folder: load('path/to/folder')"
        ) from None
    return folder


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

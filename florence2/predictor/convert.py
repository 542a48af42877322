"""Convert a checkpoint from layout to layout, and check what was written."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from florence2.codec.tasks import save_tasks
from florence2.codec.tokenizer import Tokenizer
from florence2.model.adapter import CONFIG, respelled
from florence2.model.florence import Florence
from florence2.model.layouts import EMBEDDING, HEAD
from florence2.model.tensor_files import ADAPTER
from florence2.predictor import checkpoints

ASIDE = ".converting-"  # where a conversion writes first; a hash of what it is follows


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
    """Save a checkpoint, an adapter merged, in another layout and in its own type; read it back and compare. What is
    merged is saved in float32 unless the base's own type holds it: float16 would round a small change away.

    An adapter's own folder, no base named beside it, stays an adapter of the same base, its modules named as the
    layout names them. The files appear in `folder` when they are found right; after an interruption the same call
    begins again.
    """
    found = checkpoints.find(source, revision, adapter)
    target = Path(folder)
    job = {"source": os.path.abspath(found.home), "layout": layout, "revision": revision}
    job["adapter"] = os.path.abspath(adapter) if adapter else None
    aside = _begin(target, job)
    calibration = checkpoints.calibration_of(found, checkpoints.CALIBRATED_BY, found.tasks())
    stays = found.adapter if adapter is None else None
    merged = found.adapter is not None and stays is None
    kind = torch.float32 if merged else found.checkpoint().dtype
    model, tokenizer, tasks = checkpoints.open_parts(found, kind)
    if stays is not None:
        _write_adapter(found, stays, aside, layout)
        if found.home == stays:
            tokenizer.save(aside)
            save_tasks(tasks, aside)
        checkpoints.save_calibration(calibration, aside)
    else:
        checkpoints.save(model, tokenizer, tasks, aside, layout, found.home, calibration)
    compared = _compare(model, aside, tokenizer)
    for file in sorted(aside.iterdir()):
        os.replace(file, target / file.name)
    aside.rmdir()  # only now it is over
    dtype = str(checkpoints.find(target).checkpoint().dtype).removeprefix("torch.")
    return Converted(os.fspath(source), str(target), layout, dtype, compared, tokenizer.vocab_size)


def _begin(target: Path, job: dict[str, str | None]) -> Path:
    """The folder inside `target` where files are written first; ValueError where `target` holds anything else."""
    aside = target / f"{ASIDE}{hashlib.sha256(json.dumps(job).encode()).hexdigest()[:16]}"
    if target.exists() and not aside.is_dir() and (not target.is_dir() or any(target.iterdir())):
        others = sorted(target.glob(f"{ASIDE}*")) if target.is_dir() else []
        if others:
            raise ValueError(f"{target}: holds an interrupted conversion of another kind ({others[0]}); name another")
        raise ValueError(f"{target}: expected a new or empty folder, got one with files; name another")
    aside.mkdir(parents=True, exist_ok=True)
    for file in aside.iterdir():
        file.unlink()
    return aside


def _write_adapter(found: checkpoints.FoundCheckpoint, adapter: Path, target: Path, layout: str) -> None:
    """The adapter's two files as another layout spells them; a base that is a folder is named by its whole path."""
    settings, tensors = respelled(adapter, found.checkpoint().config, layout)
    named = Path(settings["base_model_name_or_path"])
    if (adapter / named).is_dir() or named.is_dir():
        settings["base_model_name_or_path"] = str(found.base.resolve())
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, target / ADAPTER[0], {"format": "pt"})
    (target / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _compare(model: Florence, folder: Path, tokenizer: Tokenizer) -> int:
    """Read a folder back; how many tensors were compared with the model's, each bit-equal."""
    written = checkpoints.find(folder).model(model.dtype).state_dict()
    for name, tensor in model.state_dict().items():
        rows = tokenizer.vocab_size if name in (EMBEDDING, HEAD) else None
        rows = min(rows, len(written[name])) if rows else None  # a placeholder's row may have been let go
        if not torch.equal(tensor[:rows], written[name][:rows]):
            raise ValueError(f"{folder}: {name}: expected what was written, read something else; check the disk")
    return len(written)

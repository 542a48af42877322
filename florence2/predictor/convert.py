"""Convert a checkpoint from layout to layout, and check what was written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from florence2.codec.tokenizer import Tokenizer
from florence2.model.florence import Florence
from florence2.model.layouts import EMBEDDING, HEAD
from florence2.predictor import checkpoints


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
    found = checkpoints.find(source, revision, adapter)
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: expected a new or empty folder, got one with files; name another")
    model, tokenizer, tasks = checkpoints.open_parts(found, found.checkpoint().dtype)
    checkpoints.save(model, tokenizer, tasks, target, layout, found.home)
    compared = _compare(model, target, tokenizer)
    dtype = str(model.dtype).removeprefix("torch.")
    return Converted(os.fspath(source), str(target), layout, dtype, compared, tokenizer.vocab_size)


def _compare(model: Florence, folder: Path, tokenizer: Tokenizer) -> int:
    """Read a folder back; how many tensors were compared with the model's, each bit-equal."""
    written = checkpoints.find(folder).model(model.dtype).state_dict()
    for name, tensor in model.state_dict().items():
        rows = tokenizer.vocab_size if name in (EMBEDDING, HEAD) else None
        rows = min(rows, len(written[name])) if rows else None  # a placeholder's row may have been let go
        if not torch.equal(tensor[:rows], written[name][:rows]):
            raise ValueError(f"{folder}: {name}: expected what was written, read something else; check the disk")
    return len(written)

"""Getting things in: a model from a name, a folder or the hub; pictures ahead of the model, in threads."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, Union

from torch import Tensor

from florence2.pixels import BadImage
from florence2.records import Failure

SHIPPED = Path(__file__).parent.parent / "weights"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
THREADS = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """A picture ready for the tower, (3, H, W) float32; its own size; and what the user gave as the picture."""

    pixels: Tensor
    size_wh: tuple[int, int]
    image: Any


@dataclass(frozen=True)
class Bad:
    """A picture that cannot be answered about."""

    failure: Failure
    error: ValueError


def find(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder of a shipped model's name, of a path, or of a hub id (downloaded, or found in the local cache)."""
    name = os.fspath(source)
    if name == "nano":  # a folder of that name is ./nano
        folder = SHIPPED / name
        if not (folder / "config.json").is_file():
            raise ValueError(f"nano: {folder} holds no weights; train them with `florence2 train --config nano`")
        return folder
    if name and Path(name).is_dir():
        return Path(name)
    if HUB_ID.fullmatch(name) and not Path(name).exists():
        return _from_hub(name, revision)
    raise ValueError(
        f"{name or 'model'}: no such folder; expected 'nano', a folder with config.json and weights, or a hub id"
    )


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
        why = " ".join(str(error).split())[:300]
        raise OSError(
            f"{name}: no such folder here, and the hub cannot give it ({why}); to load without a network, "
            "download the model's files elsewhere and give the folder: load('path/to/folder')"
        ) from None
    return folder


def load_ahead(
    items: Iterable[tuple[Any, Any]], prepare: Callable[[tuple[Any, Any]], T], ahead: int
) -> Iterator[Union[T, Bad]]:
    """Each (picture, what goes with it) prepared, in order, by threads that run at most `ahead` items in front."""
    numbered = enumerate(items)
    waiting: deque[tuple[int, Any, Future[T]]] = deque()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="florence2-images")
    try:
        while True:
            for index, item in islice(numbered, ahead - len(waiting)):
                waiting.append((index, item, pool.submit(prepare, item)))
            if not waiting:
                return
            index, item, future = waiting.popleft()
            try:
                yield future.result()
            except ValueError as error:
                yield Bad(_failure(index, item[0] if isinstance(item, tuple) else item, error), error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of `size`, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _failure(index: int, image: Any, error: ValueError) -> Failure:
    name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else f"image {index}"
    reason = error.reason if isinstance(error, BadImage) else "bad_ask"
    return Failure(index=index, image=name, reason=reason, detail=str(error))

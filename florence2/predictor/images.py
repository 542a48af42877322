"""Pictures on their way in: any form that a picture may have, to pixels or a Failure; ahead of the model, in threads.

A picture that cannot be loaded never stops the others: it becomes a Failure in its place, and
`each_in_place` does the rest in one call around it. Knows no model.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeGuard, TypeVar, Union

import numpy as np

from florence2 import pixels, sources
from florence2.formats import lookup
from florence2.pixels import MAX_PIXELS, BadImage, ImageLike
from florence2.records import Failure, ImageRef

ImageSource = Union[ImageLike, ImageRef]  # an ImageRef: the picture that a Sample is about
THREADS = 2
T = TypeVar("T")
R = TypeVar("R")


def load(image: ImageSource, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The upright picture, HWC uint8 RGB; BadImage where there is none."""
    if isinstance(image, ImageRef):
        return sources.pixels(image, max_pixels)
    return pixels.load(image, max_pixels)


def load_or_failure(image: ImageSource, max_pixels: int = MAX_PIXELS) -> np.ndarray | Failure:
    """The upright picture, or why there is none."""
    try:
        return load(image, max_pixels)
    except BadImage as error:
        return failure_of(error, image)


def failure_of(error: ValueError, image: object = None, index: int = -1) -> Failure:
    """What became of one picture or ask: a BadImage's reason, else bad_ask."""
    reason = error.reason if isinstance(error, BadImage) else "bad_ask"
    return Failure(index=index, image=name_of(image, index), reason=reason, detail=str(error))


def name_of(image: object, index: int = -1) -> str:
    """A picture's path or id, else its number."""
    if isinstance(image, ImageRef):
        return image.id or image.uri
    return os.fspath(image) if is_path(image) else f"image {index}" if index >= 0 else ""


def is_path(image: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a picture was given as a path."""
    return isinstance(image, (str, os.PathLike))


def pictures_in(folder: str | os.PathLike[str]) -> list[str]:
    """The files below a folder whose names end as a picture's, by path; ValueError where there are none.

    What other programs leave (hidden folders, a Mac's copies, previews) is passed over.
    """
    found = sorted(map(str, lookup.pictures_in(Path(folder), deep=True)))
    if not found:
        raise ValueError(f"{os.fspath(folder)}: holds no picture; expected files such as .jpg or .png")
    return found


def each_in_place(items: Sequence[T | Failure], work: Callable[[list[T]], Sequence[R]]) -> list[R | Failure]:
    """What `work` makes, in one call, of the items that are no failures; failures stay where they are."""
    good = [item for item in items if not isinstance(item, Failure)]
    results = iter(work(good) if good else ())
    return [item if isinstance(item, Failure) else next(results) for item in items]


@dataclass(frozen=True)
class Bad:
    """An item that could not be prepared: its Failure, and the error for whoever wants it raised."""

    failure: Failure
    error: ValueError


def load_ahead(
    items: Iterable[T], prepare: Callable[[T], R], ahead: int, picture_of: Callable[[T], object] = lambda item: item
) -> Iterator[R | Bad]:
    """Each item prepared, in order, by threads that run at most `ahead` items in front."""
    numbered = enumerate(items)
    waiting: deque[tuple[int, T, Future[R]]] = deque()
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
                yield Bad(failure_of(error, picture_of(item), index), error)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of `size`, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch

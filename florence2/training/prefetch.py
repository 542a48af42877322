"""Items made ahead by a thread, while those before them are used. Knows nothing of what the items are."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from typing import TypeVar, Union

T = TypeVar("T")


class _End:
    """There is no further item: none is left, or an error broke the making off."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def made_ahead(items: Iterator[T], count: int) -> Generator[T, None, None]:
    """The same items in the same order, up to `count` of them made before they are asked for.

    An error of `items` is raised where the item would have come. Closing the generator stops the thread.
    """
    ready: SimpleQueue[Union[T, _End]] = SimpleQueue()
    room = threading.Semaphore(count)
    stopped = threading.Event()

    def make() -> None:
        end = _End()
        try:
            while room.acquire() and not stopped.is_set():
                ready.put(next(items))
        except StopIteration:
            pass
        except BaseException as error:  # whatever it is, it is the caller's
            end = _End(error)
        ready.put(end)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        room.release()
        thread.join()

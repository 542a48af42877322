"""The worker process: it holds the model and answers work, a step at a time, in one batch that work joins and leaves.

    pipe --> decoded by threads --> encoded together --> OpenBatch --> pipe

A picture's features are kept by its content's hash, up to a number of bytes. What fails is repeated alone, so that it
fails alone. Knows no HTTP.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Union

import numpy as np

from florence2.predictor import Answer, Florence2
from florence2.predictor.batch import EncodedImage, LoadedImage, OpenBatch, Request
from florence2.predictor.batch import load as load_image
from florence2.predictor.images import failure_of
from florence2.predictor.post_filters import FILTERS
from florence2.records import Failure
from florence2.serving.messages import Alive, Answered, Cancel, Delta, Done, Ready, Refused, Work
from florence2.serving.settings import Settings

log = logging.getLogger(__name__)
DECODERS = 2  # threads that decode pictures
ALIVE_S = 0.25


@dataclass
class _Item:
    """Work in this process: its picture, decoded or encoded, and what has become of each ask."""

    work: Work
    picture: Union[LoadedImage, EncodedImage, Failure]
    cached: bool = False
    results: dict[int, Union[Answered, Refused]] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)  # in the batch -> place among the asks
    since: float = 0.0
    shown: str = ""


class Worker:
    """Answers what comes through a connection until it is closed."""

    def __init__(
        self, model: Florence2, connection: Connection, settings: Settings, leave: Callable[[], object] | None = None
    ) -> None:
        self.model, self.connection, self.settings = model, connection, settings
        self._leave = leave or (lambda: os._exit(0))
        self.most_tokens = min(settings.max_tokens, model.config.text.max_positions)
        self.features = EncodedImageCache(settings.cache_bytes)
        self.batch = OpenBatch(model)
        self.waiting: list[_Item] = []
        self.running: list[_Item] = []
        self._arrived: queue.SimpleQueue[Union[_Item, Cancel, None]] = queue.SimpleQueue()
        self._open: set[int] = set()  # work that has come and is not done
        self._cancelled: set[int] = set()  # of these
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="florence2-images")
        self._shown_alive = 0.0

    def run(self) -> None:
        """Say that it is ready, then answer until the server hangs up."""
        info = {**self.model.info(), "drawings_only": self.model.drawings_only}
        filters = {name: row.says for name, row in FILTERS.items()}
        ready = Ready(os.getpid(), dict(self.model.tasks), self.most_tokens, info, filters)
        self.connection.send(ready)
        threading.Thread(target=self._receive, name="florence2-receiver", daemon=True).start()
        while self._take():
            self._admit()
            self._step()
            self._give()

    # ---- in ----

    def _receive(self) -> None:
        """Hand work to the decoders as it comes; at the end of the connection leave, whatever is being done."""
        while True:
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                self._arrived.put(None)
                self._leave()
                return
            if isinstance(message, Cancel):
                if message.number in self._open:
                    self._cancelled.add(message.number)
                    self._arrived.put(message)
            else:
                self._open.add(message.number)
                self._decoders.submit(self._prepare, message)

    def _prepare(self, work: Work) -> None:
        """Find the picture's features, or decode it; whatever goes wrong is this work's own failure."""
        bare = replace(work, image=b"")
        known = self.features.get(work.key)
        if known is not None:
            self._arrived.put(_Item(bare, known, cached=True))
            return
        picture: Union[LoadedImage, Failure]
        try:
            if work.number in self._cancelled:
                picture = Failure(reason="cancelled")
            else:
                picture = replace(load_image(self.model.config, work.image), image=None)
        except ValueError as error:
            picture = failure_of(error)
        except Exception as error:  # a decoder may raise anything
            log.exception("a picture could not be decoded")
            picture = Failure(reason="error", detail=type(error).__name__)
        self._arrived.put(_Item(bare, picture))

    def _take(self) -> bool:
        """Take in what has arrived; waits where there is nothing to do."""
        block = not self.running and not self.waiting
        while True:
            try:
                item = self._arrived.get(block=block, timeout=ALIVE_S if block else None)
            except queue.Empty:
                if not block:
                    return True
                self._alive()
                continue
            block = False
            if isinstance(item, Cancel):
                self._cancel(item.number)
            elif item is None:
                return False
            else:
                self.waiting.append(item)

    def _cancel(self, number: int) -> None:
        for items in (self.waiting, self.running):
            for item in [item for item in items if item.work.number == number]:
                items.remove(item)
                self.batch.drop(list(item.numbers))
                self._done(Done(number, (), dropped=True))

    # ---- through ----

    def _admit(self) -> None:
        """Let waiting work join where half the batch is free, or all that waits fits: together it costs less."""
        if self.running and any(item.work.alone for item in self.running + self.waiting[:1]):
            return
        room = self.settings.batch_size - self.batch.rows
        wanted = sum(len(item.work.asks) for item in self.waiting)
        if self.running and room < min(wanted, max(1, self.settings.batch_size // 2)):
            return
        chosen: list[_Item] = []
        while self.waiting and (not chosen or room >= len(self.waiting[0].work.asks)):
            if chosen and (self.waiting[0].work.alone or chosen[0].work.alone):
                break
            item = self.waiting.pop(0)
            if item.work.number in self._cancelled:
                self._done(Done(item.work.number, (), dropped=True))
                continue
            item.since = time.monotonic()
            room -= len(item.work.asks)
            chosen.append(item)
        if chosen:
            self._join(chosen)

    def _join(self, items: list[_Item]) -> None:
        try:
            self._encode(items)
            requests = [self._request(item) for item in items]
            admitted = self.batch.admit([request for request in requests if isinstance(request, Request)])
        except Exception:
            self._restart(items)
            return
        in_order = iter(admitted)
        for item, request in zip(items, requests):
            found = [request] * len(item.work.asks) if isinstance(request, Failure) else next(in_order)
            for place, one in enumerate(found):
                if isinstance(one, Failure):
                    item.results[place] = Refused(one.reason, one.detail)
                else:
                    item.numbers[one] = place
            self.running.append(item)

    def _encode(self, items: Sequence[_Item]) -> None:
        """Encode the pictures that nobody has asked about lately, each once."""
        new: dict[str, LoadedImage | EncodedImage] = {
            item.work.key: item.picture for item in items if isinstance(item.picture, LoadedImage)
        }
        for key in list(new):
            if (known := self.features.get(key)) is not None:
                new[key] = known
        fresh = [key for key, picture in new.items() if isinstance(picture, LoadedImage)]
        for key, encoded in zip(fresh, self.model.encode_images([new[key] for key in fresh])):
            assert isinstance(encoded, EncodedImage)
            new[key] = encoded
            self.features.put(key, encoded)
        for item in items:
            if isinstance(item.picture, LoadedImage):
                item.cached = item.work.key not in fresh
                item.picture = new[item.work.key]

    def _request(self, item: _Item) -> Request | Failure:
        if isinstance(item.picture, Failure):
            return item.picture
        options = vars(item.work.options).copy()
        if options["max_new_tokens"] is None:
            options["max_new_tokens"] = self.most_tokens
        try:
            return self.model.request(item.picture, item.work.asks, **options)
        except ValueError as error:
            return failure_of(error)

    def _step(self) -> None:
        if not self.batch.rows:
            return
        try:
            ended = self.batch.step()
        except Exception:
            self._restart([])
            return
        owners = {number: item for item in self.running for number in item.numbers}
        for number, answer in ended:
            item = owners[number]
            item.results[item.numbers.pop(number)] = self._answered(answer, item)
        for item in self.running:
            if item.work.deltas and item.numbers:
                self._show(item)

    def _restart(self, more: list[_Item]) -> None:
        """The batch raised: answer everything in it again, one work at a time, so that only the culprit fails."""
        log.exception("a batch failed; its requests are answered one at a time")
        items, self.running, self.batch = [*self.running, *more], [], OpenBatch(self.model)
        for item in items:
            item.numbers.clear()
            request: Request | Failure
            try:
                self._encode([item])
                request = self._request(item)
                found = (
                    [request] * len(item.work.asks) if isinstance(request, Failure) else self.model.answer([request])[0]
                )
            except Exception as error:
                log.exception("a request failed")
                found = [Failure(reason="error", detail=type(error).__name__)] * len(item.work.asks)
            for place, one in enumerate(found):
                if isinstance(one, Failure):
                    item.results[place] = Refused(one.reason, one.detail)
                else:
                    item.results[place] = self._answered(one, item)
            self.running.append(item)
            self._give()

    # ---- out ----

    def _answered(self, answer: Answer, item: _Item) -> Answered:
        prompt = len(self.model.tokenizer.prompt_ids(answer.prompt))
        features = len(item.picture.features) if isinstance(item.picture, EncodedImage) else 0
        shown = json.dumps(answer.to_json(), ensure_ascii=False, allow_nan=False)
        return Answered(shown.encode("utf-8", "replace"), prompt + features, len(answer.token_ids) - 1)

    def _show(self, item: _Item) -> None:
        answer = self.batch.so_far(next(iter(item.numbers)))
        text = answer.texts[0].text.rstrip(" \ufffd") if answer is not None and answer.texts else ""
        if len(text) > len(item.shown):
            item.shown = text
            self.connection.send(Delta(item.work.number, text))

    def _give(self) -> None:
        """Send what is complete."""
        for item in [item for item in self.running if not item.numbers]:
            self.running.remove(item)
            results = tuple(item.results[place] for place in range(len(item.work.asks)))
            seconds = time.monotonic() - item.since
            self._done(Done(item.work.number, results, item.cached, seconds=seconds))
        self._alive()

    def _done(self, message: Done) -> None:
        self.connection.send(message)
        self._open.discard(message.number)
        self._cancelled.discard(message.number)

    def _alive(self) -> None:
        now = time.monotonic()
        if now - self._shown_alive >= ALIVE_S:
            self._shown_alive = now
            self.connection.send(Alive(self.batch.rows))


class EncodedImageCache:
    """Pictures' features by content, the least recently used given up first; at most so many bytes of them."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._kept: OrderedDict[str, EncodedImage] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> EncodedImage | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: str, encoded: EncodedImage) -> None:
        size = _bytes(encoded)
        if size > self.max_bytes:
            return
        alone = replace(encoded, features=encoded.features.clone())  # a view would keep its whole batch in memory
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = alone
            self.bytes += size
            while self.bytes > self.max_bytes:
                self.bytes -= _bytes(self._kept.popitem(last=False)[1])


def warm(model: Florence2) -> None:
    """Answer once, so that the first request does not wait for what is made on first use."""
    blank = np.full((64, 64, 3), 127, np.uint8)
    model.predict(blank, ["<CAPTION>", "<OD>"], num_beams=1, max_new_tokens=4)


def _bytes(encoded: EncodedImage) -> int:
    return encoded.features.numel() * encoded.features.element_size()

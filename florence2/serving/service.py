"""What the routes share: settings, metrics, the queue to the model; an app's `state.service`.

A route reads a picture (`picture`), asks about it (`answer`), and gets results as the worker wrote them. A client that
leaves meanwhile takes its request along.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, Union

from starlette.requests import Request

from florence2.codec.tasks import Task, known_tasks
from florence2.records import Ask
from florence2.serving import image_input
from florence2.serving.batcher import Batcher, Ticket
from florence2.serving.counters import Metrics
from florence2.serving.image_input import ImageBytes, refusal
from florence2.serving.messages import Answered, Done, Options, Refused
from florence2.serving.refusals import ServiceError
from florence2.serving.settings import Settings
from florence2.serving.task_schemas import option_schemas

R = TypeVar("R")
FETCHERS = 8  # threads that wait for other hosts
PLAIN = Options()
READERS = 4  # threads that read bodies and headers of pictures
_OPTIONS = tuple(option.name for option in dataclasses.fields(Options))  # fields of a whole request
_FIELDS = ("text", "labels", "region", *_OPTIONS)  # what a refusal of the model begins with
_PICTURE = ("missing", "unreadable", "empty", "not_an_image", "no_decoder", "too_large", "truncated", "corrupt")


class Service:
    """The model behind the routes, and what is counted."""

    def __init__(self, settings: Settings, metrics: Metrics, batcher: Batcher | None) -> None:
        self.settings, self.metrics, self.batcher = settings, metrics, batcher
        self.started = int(time.time())
        self.draining = False
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="florence2-bodies")
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="florence2-fetch")

    @property
    def tasks(self) -> dict[str, Task]:
        """The model's table of tasks; the known ones while it is being loaded."""
        return (self.batcher.tasks if self.batcher is not None else {}) or known_tasks()

    @property
    def max_tokens(self) -> int:
        """The most tokens of an answer."""
        return self.batcher.max_tokens if self.batcher is not None else self.settings.max_tokens

    @property
    def options(self) -> dict[str, dict[str, Any]]:
        """The JSON schema of what a request may say of decoding, by name."""
        filters = self.batcher.filters if self.batcher is not None else {}
        return option_schemas(self.settings.max_beams, self.max_tokens, filters)

    @property
    def ready(self) -> bool:
        """Whether requests would be answered now."""
        return not self.draining and (self.batcher is None or self.batcher.ready)

    def model(self) -> Batcher:
        """The queue to the model; 404 where only a store is served."""
        if self.batcher is None:
            raise ServiceError(404, "no model is served here; start the server with a MODEL")
        return self.batcher

    def deadline(self) -> float:
        """When a request that comes now is too late (of time.monotonic)."""
        return time.monotonic() + self.settings.timeout_s

    async def aside(self, work: Callable[..., R], *arguments: object, fetch: bool = False) -> R:
        """Work that would hold up the event loop, in a thread."""
        pool = self._fetchers if fetch else self._readers
        return await asyncio.get_running_loop().run_in_executor(pool, work, *arguments)

    async def picture(self, image: Union[str, bytes], field: str = "image") -> ImageBytes:
        """A picture's bytes, or base64, a data URL or an allowed address, checked by its header."""
        if isinstance(image, bytes):
            return await self.aside(image_input.of_bytes, image, self.settings, field)
        address = image[:8].lower().startswith(("http://", "https://"))
        return await self.aside(image_input.of_text, image, self.settings, field, fetch=address)

    async def answer(
        self,
        image: Union[bytes, ImageBytes],
        asks: Sequence[Ask],
        options: Options = PLAIN,
        request: Request | None = None,
        deadline: float | None = None,
    ) -> Done:
        """What becomes of each ask about a picture; ServiceError where there is nothing.

        `request`: whose client is watched; when it leaves, the work is dropped.
        """
        picture = image if isinstance(image, ImageBytes) else await self.picture(image)
        deadline = self.deadline() if deadline is None else deadline
        return await self.wait(self.model().submit(picture, asks, options, deadline), request)

    async def wait(self, ticket: Ticket, request: Request | None) -> Done:
        """The results of a request that was submitted."""
        watching = asyncio.ensure_future(left(request)) if request is not None else None
        try:
            if watching is not None:
                both: set[asyncio.Future[Any]] = {ticket.done, watching}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if not ticket.done.done():
                    self.model().abandon(ticket)
            return await ticket.done
        finally:
            if watching is not None:
                watching.cancel()
            self.model().abandon(ticket)  # where this was cancelled

    def answered(self, done: Done, asks: Sequence[Ask], place: str = "asks.{}.") -> list[Answered]:
        """The answers of a request, counted; the first refusal, where there is one, as an error with its field."""
        self.check(done, place)
        answers = [result for result in done.results if isinstance(result, Answered)]
        for ask, answer in zip(asks, answers):
            self.metrics.answers.labels(ask.task.strip("<>") or "PROMPT").inc()
            self.metrics.tokens.labels("prompt").inc(answer.prompt_tokens)
            self.metrics.tokens.labels("generated").inc(answer.tokens)
        return answers

    def check(self, done: Done, place: str) -> None:
        """Raise the first refusal among the results."""
        for number, result in enumerate(done.results):
            if isinstance(result, Refused):
                raise error_of(result, place.format(number))

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._fetchers.shutdown(wait=False, cancel_futures=True)


async def left(request: Request) -> None:
    """Returns when the client has gone; its body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_of(refused: Refused, place: str) -> ServiceError:
    """The error of an ask that has no answer."""
    if refused.reason == "error":
        return ServiceError(500, f"the model failed on this request ({refused.detail})", type="model_failed")
    detail = refused.detail.partition(": ")[2] if refused.detail.startswith("image of ") else refused.detail
    if refused.reason in _PICTURE:
        return refusal(refused.reason, f"image: {detail}")
    field = refused.detail.partition(":")[0]
    field = "text" if field == "prompt" else field
    own = field in _OPTIONS
    return ServiceError(422, detail, (field if own else place + field) if field in _FIELDS else place.rstrip("."))


def service_of(request: Request) -> Service:
    """The service of the app that a request came to."""
    service: Service = request.app.state.service
    return service

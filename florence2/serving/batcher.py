"""The bounded queue before the model: who may wait, who is sent to the worker, what happens when it dies.

Every request given to `submit` ends exactly once: with its results, or with a ServiceError. Batches are made in the
worker, which lets work join its batch at any step; here is only decided how much lies before it, so that what is late,
or left by its client, is never begun. Knows no HTTP beyond the statuses of errors.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from florence2.codec.tasks import Task
from florence2.records import Ask
from florence2.serving.counters import Metrics
from florence2.serving.image_input import ImageBytes
from florence2.serving.messages import Alive, Broken, Cancel, Delta, Done, Options, Ready, ToServer, ToWorker, Work
from florence2.serving.refusals import ServiceError
from florence2.serving.settings import Settings

log = logging.getLogger(__name__)
ATTEMPTS = 3  # workers that a request may see the end of
BOOTS = 5  # workers in a row that may end before one was ever ready
MOST_BACKOFF_S = 5.0  # before the next worker is asked for, where the last ones ended before they were ready
RETRY_AFTER_S = 1
LEFT = 499  # the client has left: counted, as nginx has it, and never sent
WATCH_S = 0.5


class Link(Protocol):
    """A worker, from the ask for it to its end; see `worker_link.WorkerLink`."""

    def send(self, message: ToWorker) -> None: ...
    def kill(self) -> None: ...
    def close(self) -> None: ...


OnMessage = Callable[[Link, ToServer], None]
OnEnd = Callable[[Link], None]
Connect = Callable[[OnMessage, OnEnd], Link]  # asks for a worker; both are called in the event loop


@dataclass(eq=False)
class Ticket:
    """A request on its way: `done` holds its results or its ServiceError; `deltas` what its answer begins with."""

    number: int
    image: ImageBytes
    asks: tuple[Ask, ...]
    options: Options
    done: asyncio.Future[Done]
    deltas: asyncio.Queue[str | None] | None
    came: float = field(default_factory=time.monotonic)
    attempts: int = 0
    timer: asyncio.TimerHandle | None = None


class Batcher:
    """The queue of one server process and its worker."""

    def __init__(self, settings: Settings, metrics: Metrics, connect: Connect) -> None:
        self.settings, self.metrics, self._connect = settings, metrics, connect
        self.tasks: dict[str, Task] = {}
        self.max_tokens = settings.max_tokens
        self.info: dict[str, object] = {}
        self.filters: Mapping[str, str] = {}
        self.fault = ""
        """Why no worker can be had at all; empty while one can."""
        self.on_fault: Callable[[], None] = lambda: None
        self.on_tasks: Callable[[], None] = lambda: None
        self._waiting: deque[Ticket] = deque()
        self._sent: dict[int, Ticket] = {}
        self._left: set[int] = set()  # sent, and no longer waited for
        self._link: Link | None = None
        self._ready = False
        self._boots = self._numbered = self._reading = 0
        self._sign = time.monotonic()
        self._watching: asyncio.Task[None] | None = None
        self._closing = False

    # ---- for the routes ----

    @property
    def ready(self) -> bool:
        """Whether a warm worker is there."""
        return self._ready and not self.fault

    @property
    def load(self) -> tuple[int, int]:
        """How many requests wait, and how many the worker has."""
        return len(self._waiting), len(self._sent)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around the reading of a request, until it is submitted: refused before where there would be no room for it.

        Bodies on their way in are counted too, so that memory is bounded by so many of them.
        """
        self._check_room()
        if self._reading + len(self._waiting) + len(self._sent) >= self.settings.queue + self._window:
            raise self._busy("too many requests are under way; try again later", "overloaded")
        self._reading += 1
        try:
            yield
        finally:
            self._reading -= 1

    def submit(
        self, image: ImageBytes, asks: Sequence[Ask], options: Options, deadline: float, deltas: bool = False
    ) -> Ticket:
        """Take a request in, to be answered before `deadline` (of time.monotonic); 503 where the queue is full."""
        self._check_room()
        loop = asyncio.get_running_loop()
        self._numbered += 1
        shown: asyncio.Queue[str | None] | None = asyncio.Queue() if deltas else None
        ticket = Ticket(self._numbered, image, tuple(asks), options, loop.create_future(), shown)
        ticket.timer = loop.call_later(max(0.0, deadline - time.monotonic()), self._expire, ticket)
        self._waiting.append(ticket)
        self._dispatch()
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Nobody waits for this request any more: what is not begun is never begun."""
        if not ticket.done.done():
            self.metrics.rejects.labels("client_left").inc()
            self._fail(ticket, ServiceError(LEFT, "the client has left"))

    # ---- life ----

    def start(self) -> None:
        """Ask for a worker, and watch over it."""
        self._link = self._connect(self.hear, self.ended)
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Let the worker go; whoever still waits gets an error."""
        self._closing = True
        if self._watching is not None:
            self._watching.cancel()
        for ticket in [*self._waiting, *self._sent.values()]:
            self._fail(ticket, ServiceError(503, "the server is stopping", type="stopping"))
        if self._link is not None:
            self._link.close()

    def hear(self, link: Link, message: ToServer) -> None:
        """What a worker says; of one that was given up nothing is heard any more."""
        if link is not self._link:
            return
        self._sign = time.monotonic()
        if isinstance(message, Ready):
            self.tasks, self.max_tokens, self.info = message.tasks, message.max_tokens, message.info
            self.filters = message.filters
            self._ready, self._boots = True, 0
            self.metrics.ready.set(1)
            self.on_tasks()
            self._dispatch()
        elif isinstance(message, Broken):
            self.fault = message.message
            for ticket in [*self._waiting, *self._sent.values()]:
                self._fail(ticket, ServiceError(503, "the model cannot be loaded", type="not_ready"))
            self.on_fault()
        elif isinstance(message, Alive):
            if message.rows:
                self.metrics.batch.observe(message.rows)
        elif isinstance(message, Delta):
            asked = self._sent.get(message.number)
            if asked is not None and asked.deltas is not None:
                asked.deltas.put_nowait(message.text)
        else:
            self._answered(message)

    def ended(self, link: Link) -> None:
        """A worker has ended: its requests go back to the head of the queue, one at a time from then on."""
        if link is not self._link or self._closing or self.fault:
            return
        if self._ready:
            self.metrics.deaths.inc()
            log.warning("the worker process ended; its %d requests are tried again", len(self._sent))
        else:
            self._boots += 1
        self._ready = False
        self.metrics.ready.set(0)
        lost = list(self._sent.values())
        self._left.clear()
        self._sent.clear()
        for ticket in reversed(lost):
            ticket.attempts += 1
            if ticket.attempts >= ATTEMPTS:
                message = f"{ticket.attempts} worker processes ended over this request"
                self._fail(ticket, ServiceError(500, message, type="worker_died"))
            else:
                self._waiting.appendleft(ticket)
        if self._boots >= BOOTS and not self.tasks:
            self.hear(link, Broken(f"{BOOTS} worker processes ended while loading"))
            return
        self._link = None
        again = min(MOST_BACKOFF_S, 0.05 * 2**self._boots if self._boots else 0.0)
        asyncio.get_running_loop().call_later(again, self._reconnect)

    def _reconnect(self) -> None:
        if not self._closing:
            self._link = self._connect(self.hear, self.ended)

    # ---- the queue ----

    @property
    def _window(self) -> int:
        """Asks that the worker may have: a batch in progress, and one being decoded."""
        return 2 * self.settings.batch_size

    def _check_room(self) -> None:
        if self.fault:
            raise ServiceError(503, f"the model cannot be loaded: {_no_path(self.fault)}", type="not_ready")
        if not self.tasks:
            raise self._busy("the model is being loaded", "not_ready")
        if len(self._waiting) >= self.settings.queue:
            raise self._busy(f"{self.settings.queue} requests wait already; try again later", "overloaded")

    def _dispatch(self) -> None:
        """Send work as far as the worker's window reaches."""
        while self._ready and self._link is not None and self._waiting:
            asked = sum(len(ticket.asks) for ticket in self._sent.values())
            ticket = self._waiting[0]
            alone = ticket.attempts > 0
            exclusive = alone or any(other.attempts for other in self._sent.values())
            if self._sent and (exclusive or asked + len(ticket.asks) > self._window):
                break
            self._waiting.popleft()
            if not self._sent and not self._left:
                self._sign = time.monotonic()
            self._sent[ticket.number] = ticket
            self.metrics.waited.observe(time.monotonic() - ticket.came)
            deltas = ticket.deltas is not None
            image = ticket.image
            self._link.send(Work(ticket.number, image.data, image.key, ticket.asks, ticket.options, deltas, alone))
        self.metrics.queued.set(len(self._waiting))
        self.metrics.running.set(len(self._sent))

    def _answered(self, message: Done) -> None:
        self._left.discard(message.number)
        ticket = self._sent.pop(message.number, None)
        if ticket is not None and not ticket.done.done():
            if ticket.timer is not None:
                ticket.timer.cancel()
            self.metrics.cache.labels("hit" if message.cached else "miss").inc()
            self.metrics.computed.observe(message.seconds)
            ticket.done.set_result(message)
            if ticket.deltas is not None:
                ticket.deltas.put_nowait(None)
        self._dispatch()

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.done.done():
            self.metrics.rejects.labels("timeout").inc()
            self._fail(ticket, ServiceError(504, f"no answer within {self.settings.timeout_s:g} seconds"))

    def _fail(self, ticket: Ticket, error: ServiceError) -> None:
        """End a request with an error; the worker drops it where it has it."""
        if ticket.timer is not None:
            ticket.timer.cancel()
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        if self._sent.pop(ticket.number, None) is not None and self._link is not None:
            self._left.add(ticket.number)
            self._link.send(Cancel(ticket.number))
        if not ticket.done.done():
            ticket.done.set_exception(error)
            ticket.done.exception()  # read: nobody may be there to do so
        if ticket.deltas is not None:
            ticket.deltas.put_nowait(None)
        if not self._closing:
            self._dispatch()

    def _busy(self, message: str, type: str) -> ServiceError:
        self.metrics.rejects.labels(type).inc()
        return ServiceError(503, message, type=type, headers={"Retry-After": str(RETRY_AFTER_S)})

    async def _watch(self) -> None:
        """Replace a worker that gives no sign while it has work."""
        while True:
            await asyncio.sleep(WATCH_S)
            working = bool(self._sent or self._left)
            if self._ready and working and time.monotonic() - self._sign > self.settings.hang_s and self._link:
                log.warning("the worker process gave no sign for %g s; it is replaced", self.settings.hang_s)
                self._link.kill()
                self._sign = time.monotonic()


def _no_path(text: str) -> str:
    """A message with what looks like a path taken out of it."""
    return " ".join("..." if "/" in word or "\\" in word else word for word in text.split())

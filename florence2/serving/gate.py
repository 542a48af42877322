"""What every request passes first: the name it was sent to, its origin, its key, its size, the time its body takes.

Also the last net: an error that nobody expected becomes a plain 500 here. Knows ASGI, no route.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from florence2.serving import errors
from florence2.serving.batcher import LEFT
from florence2.serving.counters import Metrics
from florence2.serving.pages import sign_in
from florence2.serving.refusals import ServiceError
from florence2.serving.settings import LOOPBACK, Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/healthz", "/readyz")  # asked by whoever keeps the server running: no key, any name
CHALLENGES = ("Bearer", 'Basic realm="florence2", charset="UTF-8"')


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self._keys = [key.encode() for key in settings.api_keys]
        self._hosts = {name.lower() for name in settings.allowed_hosts}
        if not self._hosts and settings.is_local:
            self._hosts = {*LOOPBACK, settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web socket is served: uvicorn answers 403
            await send({"type": "websocket.close"})
            return
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        body, start, status = _Body(receive, self.settings), time.monotonic(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if body.refusal is not None and not status:
                raise body.refusal  # in place of what a route makes of a body that broke off
            status = status or message.get("status", 0)
            await send(message)

        try:
            self._check(scope)
            body.announced(Headers(scope=scope))
            await self.app(scope, body.receive, answer)
        except ClientDisconnect:
            status = status or LEFT
        except Exception as error:
            refusal = body.refusal or (error if isinstance(error, ServiceError) else errors.internal(error))
            if status:
                raise  # half an answer is out: the connection ends without its end
            status = refusal.status
            await self._response(refusal, scope)(scope, receive, send)  # the rest of the body: uvicorn throws it away
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - start)

    def _response(self, refusal: ServiceError, scope: Scope) -> Response:
        if refusal.status != 401:
            return errors.response_of(refusal)
        if sign_in.is_for(scope["method"], scope["query_string"], Headers(scope=scope)):
            return sign_in.sign_in()
        response = errors.response_of(refusal)
        for challenge in CHALLENGES:  # a field each: Chromium reads one challenge of a field
            response.headers.append("WWW-Authenticate", challenge)
        return response

    def _check(self, scope: Scope) -> None:
        """Refuse what may not be answered at all."""
        if scope["path"] in OPEN:
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts and _hostname(host) not in self._hosts:
            raise ServiceError(421, "the server goes by another name; --allow-host NAME admits one")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise ServiceError(403, "pages of another origin may not send requests here")
        if self._keys and not self._knows(headers.get("authorization", "")):
            raise ServiceError(
                401,
                "expected an API key, as Authorization: Bearer KEY",
            )

    def _knows(self, authorization: str) -> bool:
        """Whether the header holds one of the keys: as a bearer, or as the password of any user (a browser's form)."""
        scheme, _, given = authorization.partition(" ")
        key = given.strip().encode("latin-1", "replace")
        if scheme.lower() == "basic":
            try:
                key = base64.b64decode(key, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                key = b""
        elif scheme.lower() != "bearer":
            key = b""
        return any([hmac.compare_digest(key, known) for known in self._keys])  # a list: every key is compared


def _without_body(send: Send) -> Send:
    """What GET would answer, as HEAD's answer: its status and headers alone."""

    async def answer(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return answer


class _Body:
    """A request's body on its way in: counted, timed, and refused while it still arrives."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive, self._settings = receive, settings
        self._bytes, self._whole = 0, False
        self._end = time.monotonic() + settings.timeout_s
        self.refusal: ServiceError | None = None

    def announced(self, headers: Headers) -> None:
        """Refuse by the length that the client announces."""
        self._whole = "transfer-encoding" not in headers and headers.get("content-length", "0") == "0"
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._settings.max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._end - time.monotonic()))
        except asyncio.TimeoutError:
            self.refusal = ServiceError(408, f"the body did not arrive in {self._settings.timeout_s:g} seconds")
            raise self.refusal from None
        self._take(message)
        if self._bytes > self._settings.max_bytes:
            self.refusal = self._too_large()
            raise self.refusal
        return message

    def _take(self, message: Message) -> None:
        self._bytes += len(message.get("body", b""))
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)

    def _too_large(self) -> ServiceError:
        return ServiceError(413, f"the body is larger than {self._settings.max_bytes:,} bytes")


def _hostname(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""

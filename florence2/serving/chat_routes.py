"""POST /v1/chat/completions: the OpenAI vision shape, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from florence2.serving import chat_bodies, errors
from florence2.serving.batcher import Ticket
from florence2.serving.chat_bodies import ChatRequest, Completion
from florence2.serving.messages import Answered, Done
from florence2.serving.predict_routes import SMALL
from florence2.serving.refusals import ServiceError
from florence2.serving.service import Service, left, service_of
from florence2.structuring import parse_json

router = APIRouter(tags=["model"])
EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


@router.post(
    "/v1/chat/completions",
    response_model=Completion,
    responses={200: {"content": EVENTS}, **errors.responses(404, 408, 413, 415, 422, 503, 504)},
    openapi_extra={"requestBody": {"$ref": "#/components/requestBodies/Chat"}},
)
async def chat(request: Request) -> Response:
    """Answer one task about a picture, in the form of OpenAI's chat completions; with `stream` as events."""
    service = service_of(request)
    deadline = service.deadline()
    with service.model().reading():
        asked = await _read(request, service)
        picture = await service.picture(asked.image, chat_bodies.CONTENT)
        ticket = service.model().submit(picture, [asked.ask], asked.options, deadline, asked.stream)
    if not asked.stream:
        answer = await _answered(service, ticket, asked, request)
        name = service.settings.model_name
        return JSONResponse(chat_bodies.completion(answer, _number(), int(time.time()), name))
    assert ticket.deltas is not None
    first = await _first(service, ticket, request)
    if first is None:
        await _done(service, ticket, None)  # an error is answered as one
    events = _events(service, ticket, asked, first)
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _read(request: Request, service: Service) -> ChatRequest:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ServiceError(415, f"expected application/json, got {kind or 'no content type'}")
    data = await request.body()
    if len(data) <= SMALL:
        return chat_bodies.of_json(data, service.tasks, service.settings)
    return await service.aside(chat_bodies.of_json, data, service.tasks, service.settings)


async def _answered(service: Service, ticket: Ticket, asked: ChatRequest, request: Request | None) -> Answered:
    return service.answered(await _done(service, ticket, request), [asked.ask], "")[0]


async def _done(service: Service, ticket: Ticket, request: Request | None) -> Done:
    done = await service.wait(ticket, request)
    try:
        service.check(done, "")
    except ServiceError as error:
        error.field = chat_bodies.CONTENT if error.field in ("image", "text") else error.field
        raise
    return done


async def _first(service: Service, ticket: Ticket, request: Request) -> str | None:
    """The first text, or None where the answer comes whole; errors come before anything is sent."""
    assert ticket.deltas is not None
    watching, waiting = asyncio.ensure_future(left(request)), asyncio.ensure_future(ticket.deltas.get())
    try:
        await asyncio.wait({watching, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            service.model().abandon(ticket)
        return await waiting
    finally:
        watching.cancel()
        if not waiting.done():
            service.model().abandon(ticket)


async def _events(service: Service, ticket: Ticket, asked: ChatRequest, first: str | None) -> AsyncIterator[bytes]:
    number, created, name = _number(), int(time.time()), service.settings.model_name

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _line({**head, "choices": [choice]})

    head = {"id": number, "object": "chat.completion.chunk", "created": created, "model": name}
    assert ticket.deltas is not None
    shown = ""
    try:
        yield event({"role": "assistant", "content": ""})
        text = first
        while text is not None:
            if text.startswith(shown) and len(text) > len(shown):
                yield event({"content": text[len(shown) :]})
                shown = text
            text = await ticket.deltas.get()
        answer = await _answered(service, ticket, asked, None)
        whole = parse_json(answer.json)
        content = chat_bodies.content_of(whole)
        rest = content[len(shown) :] if content.startswith(shown) else ""
        yield event({"content": rest, "answer": whole})
        yield event({}, chat_bodies.finish(whole))
        if asked.with_usage:
            yield _line({**head, "choices": [], "usage": chat_bodies.usage(answer)})
        yield b"data: [DONE]\n\n"
    except ServiceError as error:
        yield _line(errors.body_of(error))
    finally:
        service.model().abandon(ticket)  # where the client left


def _line(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _number() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"

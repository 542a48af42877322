"""Every error that a client sees: one JSON form, no path, no traceback; what a route may answer, for OpenAPI.

{"error": {"type": "invalid_request", "message": "...", "field": "asks.0.task"}}
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from florence2.serving.refusals import ServiceError, invalid

log = logging.getLogger(__name__)

MEANS = {  # status -> what it means, in OpenAPI
    400: "The request is no HTTP that is understood here.",
    401: "The API key is missing or wrong.",
    403: "A page of another origin sent the request.",
    404: "There is no such thing.",
    405: "The path takes other methods.",
    408: "The body did not arrive in time.",
    409: "Another change came first.",
    413: "The body, or the picture, is larger than allowed.",
    415: "The body is of another type, or the image is none that can be read.",
    421: "The Host header names another host.",
    422: "A field is wrong; `field` names it.",
    500: "The server failed on this request; others are not concerned.",
    503: "The queue is full, or the model is not ready; try again after Retry-After seconds.",
    504: "The answer was not ready in time, and is no longer worked on.",
}
ALWAYS = (400, 401, 403, 405, 421, 500)  # what any route may answer


class ErrorDetail(BaseModel):
    """What went wrong."""

    type: str
    message: str
    field: str | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


def body_of(error: ServiceError) -> dict[str, Any]:
    """The JSON form of an error."""
    return {"error": {"type": error.type, "message": _text(error.message), "field": _text(error.field) or None}}


def response_of(error: ServiceError) -> Response:
    """The HTTP form of an error."""
    return JSONResponse(body_of(error), error.status, error.headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors that a route may answer, for its OpenAPI entry."""
    found: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": MEANS[status]} for status in sorted({*ALWAYS, *statuses})
    }
    if 503 in found:
        found[503]["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return found


def first_fault(errors: Any) -> ServiceError:
    """The first of pydantic's errors, its place as a dotted field."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    if first["type"] == "json_invalid":  # its place is a letter's
        reason = first.get("ctx", {}).get("error", "")
        return invalid("body", f"body: expected JSON ({reason:.100})")
    if not place:
        return invalid("body", "body: expected a JSON object, as application/json")
    field = ".".join(place)
    message = str(first["msg"]).removeprefix("Value error, ")
    return invalid(field, f"{field}: {message}")


def install(app: FastAPI) -> None:
    """Make every error of the app one of these."""

    async def service(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return response_of(error)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"  # which every route that takes GET answers (gate.py)
        return response_of(ServiceError(error.status_code, str(error.detail), headers=headers))

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return response_of(first_fault(error.errors()))

    app.add_exception_handler(ServiceError, service)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, wrong)


def _text(text: str) -> str:
    """What may hold halves of characters, from a client, as text that can be sent."""
    return text.encode("utf-8", "backslashreplace").decode()


def internal(error: BaseException) -> ServiceError:
    """What a client is shown of a fault of the server's own; the log has the rest."""
    log.error("a request failed", exc_info=error)
    return ServiceError(500, "the server failed on this request; its log says why")

"""How a request is refused: one exception with an HTTP status, a type, the field at fault. Knows no web library."""

from __future__ import annotations

from collections.abc import Mapping

TYPES = {  # status -> the error's type
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "slow_request",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media",
    421: "wrong_host",
    422: "invalid_request",
    500: "internal",
    503: "overloaded",
    504: "timeout",
}


class ServiceError(Exception):
    """An error with its HTTP status, the field it lies in, and headers."""

    def __init__(
        self, status: int, message: str, field: str = "", type: str = "", headers: Mapping[str, str] | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.field = status, message, field
        self.type = type or TYPES.get(status, "error")
        self.headers = dict(headers or {})


def invalid(field: str, message: str) -> ServiceError:
    """A wrong argument."""
    return ServiceError(422, message, field)

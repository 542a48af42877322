"""A request's picture: bytes from base64, a data URL or an allowed address; refused by its header before it is queued.

Only the header is read here; the worker process decodes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from florence2 import pixels
from florence2.pixels import BadImage
from florence2.serving.refusals import ServiceError, invalid
from florence2.serving.settings import Settings
from florence2.sources.fetching import Fetching, fetch

_DATA_URL = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w=.+-]+)*;base64,", re.ASCII | re.IGNORECASE)
_STATUS = {  # why a picture is refused -> the HTTP status
    "too_large": 413,
    "empty": 415,
    "not_an_image": 415,
    "no_decoder": 415,
    "animated": 415,
    "corrupt": 415,
    "truncated": 422,
}


@dataclass(frozen=True)
class ImageBytes:
    """A picture file as it came, and its content's hash."""

    data: bytes
    key: str


def of_bytes(data: bytes, settings: Settings, field: str = "image") -> ImageBytes:
    """A picture's bytes, checked by their header: a still picture in a known format, within the limit of pixels."""
    try:
        width, height = pixels.read_size(data, "image")
        if width * height > settings.max_pixels:
            detail = f"has {width} x {height} pixels, over the limit of {settings.max_pixels:,}; make it smaller"
            raise BadImage("image", "too_large", detail)
        if pixels.holds_more(data, "image"):
            raise BadImage("image", "animated", "holds several frames or pages; send one of them")
    except BadImage as error:
        raise refusal(error.reason, f"image: {error.detail}", field) from None
    return ImageBytes(data, hashlib.blake2b(data, digest_size=16).hexdigest())


def of_text(text: str, settings: Settings, field: str = "image") -> ImageBytes:
    """A picture given as base64, as a data URL, or as an address where those are allowed (this waits for the host)."""
    if text[:8].lower().startswith(("http://", "https://")):
        return of_bytes(_fetched(text, settings, field), settings, field)
    head = _DATA_URL.match(text[:200])
    if head is None and ":" in text[:20]:
        raise invalid(field, "image: expected base64, or a data URL data:image/...;base64,...; got another address")
    try:
        data = base64.b64decode(text[head.end() if head else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise invalid(field, "image: expected base64, or a data URL; this does not decode") from None
    return of_bytes(data, settings, field)


def refusal(reason: str, message: str, field: str = "image") -> ServiceError:
    """The error of a picture that is refused."""
    return ServiceError(_STATUS.get(reason, 422), message, field, type=f"image_{reason}")


def _fetched(url: str, settings: Settings, field: str) -> bytes:
    if not settings.url_hosts:
        raise invalid(field, "image: addresses are not fetched here; send the picture itself as base64")
    rules = Fetching(settings.url_hosts, min(30.0, settings.timeout_s), settings.max_bytes)
    try:
        return fetch(url, rules)
    except BadImage as error:
        # the reason alone: the detail may name addresses of the server's network
        raise refusal(error.reason, f"image: its address could not be fetched ({error.reason})", field) from None

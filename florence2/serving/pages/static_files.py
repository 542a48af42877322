"""What the pages are made of, as files of the package: HTML, modules of JavaScript, one stylesheet; all in memory.

A page may load nothing but these, ask nothing but this server, and run no script that stands in its HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from florence2.serving import errors
from florence2.serving.refusals import ServiceError

FOLDER = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = {  # of every page: the Content-Security-Policy
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data: blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
ANY_TYPE: dict[int | str, dict[str, Any]] = {
    200: {"content": {kind: {"schema": {"type": "string"}} for kind in TYPES.values()}}
}

router = APIRouter(tags=["pages"])


@router.get("/static/{name}", response_class=Response, responses={**errors.responses(404, 422), **ANY_TYPE})
async def static_file(name: str) -> Response:
    """A stylesheet, a script or an icon of the pages."""
    data = files().get(name)
    if data is None:
        raise ServiceError(404, f"{name!r:.80}: no such file")
    return Response(data, media_type=TYPES[Path(name).suffix], headers=HEADERS)


def page(name: str, shown: str = "") -> Response:
    """A page of the package, under the policy that holds for all; `shown`: the id of an element that it hides."""
    html = (FOLDER / name).read_text(encoding="utf-8")
    if shown:
        html = html.replace(f'id="{shown}" hidden', f'id="{shown}"')
    return Response(html, media_type="text/html", headers={**HEADERS, "Content-Security-Policy": written(POLICY)})


def written(policy: Mapping[str, str]) -> str:
    """A policy as its header has it."""
    return "; ".join(f"{kind} {allowed}" for kind, allowed in policy.items())


@cache
def files() -> dict[str, bytes]:
    """File name -> its bytes, of what pages may load."""
    return {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}

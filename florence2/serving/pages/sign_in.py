"""The form for an API key: what a browser gets in place of a page while it has no key.

It holds its style and its script itself, since every file of the server asks for the key too.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache

from starlette.datastructures import Headers
from starlette.responses import Response

from florence2.serving.pages.static_files import FOLDER, HEADERS, POLICY, written

OWN_FORM = b"basic"  # the query by which the browser's own form is asked for


def is_for(method: str, query: bytes, headers: Headers) -> bool:
    """Whether a request without a key is a person's, who opens a page."""
    return method == "GET" and "text/html" in headers.get("accept", "") and query != OWN_FORM


def sign_in() -> Response:
    """The form, as the body of a 401; it challenges for no HTTP Basic, or the browser's own form would come first."""
    html, policy = _built()
    headers = {**HEADERS, "Cache-Control": "no-store", "Content-Security-Policy": policy, "WWW-Authenticate": "Bearer"}
    return Response(html, 401, headers, "text/html")


@cache
def _built() -> tuple[str, str]:
    """The page, and a policy that allows these very texts."""
    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("style.css", "sign_in.js"))
    html = (FOLDER / "sign_in.html").read_text(encoding="utf-8").replace("{style}", style).replace("{script}", script)
    policy = {**POLICY, "script-src": _hash(script), "style-src": _hash(style)}
    return html, written(policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

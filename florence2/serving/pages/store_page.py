"""The page to browse a store and to correct it: `/store`, and `/` where no model is served. It asks `/v1/store/...`."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from florence2.serving import errors
from florence2.serving.pages.static_files import HTML, page
from florence2.serving.settings import Settings


def router(settings: Settings) -> APIRouter:
    """The routes of this page."""
    out = APIRouter(tags=["pages"])
    for path in ("/store", *(() if settings.model else ("/",))):
        out.add_api_route(path, store_page, response_class=Response, responses={**errors.responses(), **HTML})
    return out


async def store_page() -> Response:
    """The page to browse and correct the store in a browser."""
    return page("store.html")

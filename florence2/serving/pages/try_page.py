"""The page to try the model: `/`, and pictures to try it on, drawn by number. It asks `/v1/predict` like any client."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from florence2 import pixels
from florence2.scenes import TRAINING_SEEDS, draw
from florence2.serving import errors
from florence2.serving.pages.static_files import HEADERS, HTML, page
from florence2.serving.service import service_of
from florence2.serving.settings import Settings

SAMPLES = 1_000_000
PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}


def router(settings: Settings) -> APIRouter:
    """The routes of this page."""
    out = APIRouter(tags=["pages"])

    async def try_page() -> Response:
        """The page to try the model in a browser."""
        return page("try.html", shown="store-link" if settings.store else "")

    out.add_api_route("/", try_page, response_class=Response, responses={**errors.responses(), **HTML})
    out.add_api_route("/sample/{number}", sample, response_class=Response, responses={**errors.responses(422), **PNG})
    return out


async def sample(request: Request, number: Annotated[int, Path(ge=0, lt=SAMPLES)]) -> Response:
    """A drawn picture to try the model on; none of them was in any training."""
    data = await service_of(request).aside(_drawn, number)
    return Response(data, media_type="image/png", headers=HEADERS)


def _drawn(number: int) -> bytes:
    return pixels.encode(draw(TRAINING_SEEDS + 20_000 + number, objects=(3, 4), signs=0.7, size=384)[0])

"""The route of assisted drawing: a rough box or a click on one of the store's pictures, put before the model."""

from __future__ import annotations

import math
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from florence2.records import Ask
from florence2.serving import assisted_drawing, errors
from florence2.serving.assisted_drawing import Suggestion
from florence2.serving.image_input import ImageBytes
from florence2.serving.messages import Answered
from florence2.serving.refusals import ServiceError, invalid
from florence2.serving.service import Service, service_of
from florence2.serving.store_routes import aside, browser_of, state_of
from florence2.store import Wanted
from florence2.structuring import parse_json

router = APIRouter(tags=["store"], prefix="/v1/store")


class AssistBody(BaseModel):
    """A rough box, or a point; pixels of the upright picture."""

    model_config = ConfigDict(extra="forbid")
    box: list[float] | None = Field(None, min_length=4, max_length=4)
    point: list[float] | None = Field(None, min_length=2, max_length=2)


class SuggestionBody(BaseModel):
    """What the model makes of it; nothing is written."""

    label: str
    """Empty where the model names nothing; a label of the store where it is the same word."""
    box: list[float]
    polygons: list[list[float]]
    score: float | None


@router.post(
    "/pictures/{image_id}/assist",
    response_model=SuggestionBody,
    responses=errors.responses(404, 408, 413, 415, 422, 503, 504),
)
async def assist(request: Request, image_id: str, body: AssistBody) -> SuggestionBody:
    """Name and tighten a rough box, or outline the thing at a point. The picture is encoded once, however often."""
    browser, service = browser_of(request), service_of(request)
    given = body.box if body.box is not None else body.point
    field = "box" if body.box is not None else "point"
    if given is None or (body.box is not None and body.point is not None):
        raise invalid("box", "expected a box or a point, and not both")
    if not all(map(math.isfinite, given)):
        raise invalid(field, f"{field}: expected finite numbers")
    tasks = service.model().tasks or service.tasks
    state = await aside(browser, state_of, browser, image_id)
    picture = await service.picture(await aside(browser, browser.model_input, state))
    size_wh = state.row.image.size_wh

    async def answers(asks: list[Ask]) -> list[dict[str, Any]]:
        return await _answers(service, picture, asks, request)

    if body.box is not None:
        box = _box(body.box, size_wh)
        found = assisted_drawing.tightened(box, await answers(assisted_drawing.asks_about(box, tasks)))
    else:
        x, y = body.point or (0.0, 0.0)
        if not (0 <= x <= size_wh[0] and 0 <= y <= size_wh[1]):
            raise invalid("point", f"point: expected one of the picture of {size_wh[0]} x {size_wh[1]}")
        thing = assisted_drawing.thing_at((x, y), size_wh, await answers(assisted_drawing.detect(tasks)))
        found = assisted_drawing.outlined(thing, await answers(assisted_drawing.asks_about(thing.box, tasks)))
    labels = (await aside(browser, lambda: browser.index().facets(Wanted())["label"])) if found.label else {}
    return _body(found, assisted_drawing.known_label(found.label, labels))


def _box(box: list[float], size_wh: tuple[int, int]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (min(max(v, 0.0), float(size_wh[n % 2])) for n, v in enumerate(box))
    if x2 - x1 < 1 or y2 - y1 < 1:
        raise invalid(
            "box", f"box: expected x1, y1, x2, y2 inside the picture, a pixel or more wide and high; got {box}"
        )
    return x1, y1, x2, y2


async def _answers(service: Service, picture: ImageBytes, asks: list[Ask], request: Request) -> list[dict[str, Any]]:
    """The answers of the asks that the model could answer; an error where it could none."""
    if not asks:
        return []
    done = await service.answer(picture, asks, request=request)
    found = [parse_json(one.json) for one in done.results if isinstance(one, Answered)]
    if not found:
        service.check(done, "asks.{}.")
        raise ServiceError(503, "the model gave no answer", headers={"Retry-After": "1"})
    return found


def _body(found: Suggestion, label: str) -> SuggestionBody:
    return SuggestionBody(
        label=label, box=list(found.box), polygons=[list(part) for part in found.polygons], score=found.score
    )

"""POST /v1/predict: a picture and asks in, answers out; JSON or a multipart form (forms.md)."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from florence2.records import Grounding, Region, Text
from florence2.serving import bodies, errors
from florence2.serving.bodies import PredictRequest
from florence2.serving.refusals import ServiceError
from florence2.serving.service import Service, service_of

FORM_FIELDS = 400
SMALL = 1 << 16  # bytes of a body that is read in the event loop


class AnswerBody(BaseModel):
    """One answer; boxes, quads and polygons are pixels of the upright picture, scores lie in 0 to 1."""

    task: str
    prompt: str
    size_wh: tuple[int, int]
    texts: list[Text]
    regions: list[Region]
    groundings: list[Grounding]
    truncated: bool
    text: str
    """As generated, special tokens in."""
    token_ids: list[int]
    token_logprobs: list[float]


class AnswersBody(BaseModel):
    """The answers, in the order of the asks."""

    answers: list[AnswerBody]


router = APIRouter(tags=["model"])


@router.post(
    "/v1/predict",
    response_model=AnswersBody,
    responses=errors.responses(404, 408, 413, 415, 422, 503, 504),
    openapi_extra={"requestBody": {"$ref": "#/components/requestBodies/Predict"}},
)
async def predict(request: Request) -> Response:
    """Answer tasks about a picture. It is encoded once; the answers are those of one call for each ask."""
    service = service_of(request)
    deadline = service.deadline()
    with service.model().reading():
        asked = await _read(request, service)
        picture = await service.picture(asked.image)
        ticket = service.model().submit(picture, asked.asks, asked.options, deadline)
    done = await service.wait(ticket, request)
    place = "asks.{}." if _kind(request) == "application/json" else ""
    answers = service.answered(done, asked.asks, place)
    return Response(b'{"answers":[' + b",".join(a.json for a in answers) + b"]}", media_type="application/json")


async def _read(request: Request, service: Service) -> PredictRequest:
    kind = _kind(request)
    if kind == "application/json":
        data = await request.body()
        if len(data) <= SMALL:
            return bodies.of_json(data, service.tasks, service.settings)
        return await service.aside(bodies.of_json, data, service.tasks, service.settings)
    if kind == "multipart/form-data":
        limits = {"max_files": 8, "max_fields": FORM_FIELDS, "max_part_size": service.settings.max_bytes}
        try:
            async with request.form(**limits) as form:
                return await bodies.of_form(form, service.tasks, service.settings)
        except HTTPException as error:  # the parser's
            raise ServiceError(422, f"body: expected a form ({error.detail.rstrip('.')})", "body") from None
    raise ServiceError(415, f"expected application/json or multipart/form-data, got {kind or 'no content type'}")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _in_a_form(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an option as a form has it: what may be null in JSON is left out there."""
    kinds = schema["type"]
    return {**schema, "type": kinds if isinstance(kinds, str) else kinds[0]}


def request_body(service: Service, asks: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI request body: `asks` is the schema of one ask of this model."""
    settings, options = service.settings, service.options
    allowed = ", or an https address of an allowed host" if settings.url_hosts else ""
    image = {"type": "string", "minLength": 1, "description": f"The picture as base64, a data URL{allowed}."}
    many = {"type": "array", "items": asks, "minItems": 1, "maxItems": settings.max_asks}
    json_body = {
        "type": "object",
        "properties": {"image": {**image, "format": "image"}, "asks": many, **options},
        "required": ["image", "asks"],
        "additionalProperties": False,
    }
    names = [name for task in service.tasks.values() for name in (task.name, task.token)]
    several, text = (
        {"type": "array", "items": {"enum": names}, "minItems": 1, "maxItems": settings.max_asks},
        {"type": "string"},
    )
    form = {
        "image": {"type": "string", "format": "binary", "contentMediaType": "image/*"},
        "task": {"anyOf": [{"enum": names}, several], "description": "One or several; /v1/tasks says what they take."},
        "text": {"type": "string", "description": "For the tasks that take one."},
        "labels": {"anyOf": [text, {"type": "array", "items": text}], "description": "Repeated, or joined by commas."},
        "region": {"type": "string", "description": "x1,y1,x2,y2 in pixels of the upright picture."},
        **{name: _in_a_form(schema) for name, schema in options.items()},
    }
    form_body = {"type": "object", "properties": form, "required": ["image", "task"], "additionalProperties": False}
    content = {
        "application/json": {"schema": json_body},
        "multipart/form-data": {"schema": form_body, "encoding": {"image": {"contentType": "image/*"}}},
    }
    return {"required": True, "content": content}

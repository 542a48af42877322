"""What the server says of itself: models, tasks, health, metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response

from florence2.serving import errors
from florence2.serving.refusals import ServiceError
from florence2.serving.service import Service, service_of
from florence2.serving.task_schemas import schemas

router = APIRouter(tags=["server"])


class ModelBody(BaseModel):
    """A model, as OpenAI's clients know one."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "florence2"
    device: str | None = None
    dtype: str | None = None
    drawings_only: bool | None = None
    """The model knows drawn scenes and no photographs; null while it is being loaded."""


class ModelsBody(BaseModel):
    """The models that are served: one, or none."""

    object: str = "list"
    data: list[ModelBody]


class TaskBody(BaseModel):
    """One task."""

    token: str
    prompt: str
    takes: str
    """"text", "region", or nothing."""
    gives: str
    ask: dict[str, Any]
    """The JSON schema of an ask."""


class TasksBody(BaseModel):
    """For each task the JSON schema of an ask, and the prompt that the model reads; the options of any request."""

    tasks: dict[str, TaskBody]
    options: dict[str, dict[str, Any]]
    """For each option of a request (min_score, filters ...) its JSON schema."""


class StateBody(BaseModel):
    """Whether the server is well."""

    status: str


@router.get("/v1/models", response_model=ModelsBody, responses=errors.responses())
async def models(request: Request) -> ModelsBody:
    """The model that is served, in OpenAI's form."""
    service = service_of(request)
    if service.batcher is None:
        return ModelsBody(data=[])
    return ModelsBody(data=[_model(service)])


@router.get("/v1/models/{model}", response_model=ModelBody, responses=errors.responses(404, 422))
async def model(request: Request, model: str) -> ModelBody:
    """One model, in OpenAI's form."""
    service = service_of(request)
    if service.batcher is None or model != service.settings.model_name:
        raise ServiceError(404, f"model {model!r:.80}: is not served here; see /v1/models", "model")
    return _model(service)


def _model(service: Service) -> ModelBody:
    shown = {name: value for name, value in service.model().info.items() if name in ModelBody.model_fields}
    return ModelBody.model_validate({"id": service.settings.model_name, "created": service.started, **shown})


@router.get("/v1/tasks", response_model=TasksBody, responses=errors.responses())
async def tasks(request: Request) -> Response:
    """The tasks of the model, each with the JSON schema of an ask."""
    service = service_of(request)
    table = service.tasks
    found = schemas(table)
    rows = {
        row.name: {
            "token": row.token,
            "prompt": row.prompt,
            "takes": row.input_kind,
            "gives": row.output_kind,
            "ask": found[row.name],
        }
        for row in table.values()
    }
    return JSONResponse({"tasks": rows, "options": service.options})


@router.get("/healthz", response_model=StateBody, responses=errors.responses())
async def healthz() -> StateBody:
    """The process is alive."""
    return StateBody(status="ok")


@router.get("/readyz", response_model=StateBody, responses=errors.responses(503))
async def readyz(request: Request) -> StateBody:
    """The model is loaded and warm, and the server is not stopping."""
    service = service_of(request)
    if not service.ready:
        what = "the server is stopping" if service.draining else "the model is being loaded"
        raise ServiceError(503, what, type="not_ready", headers={"Retry-After": "1"})
    return StateBody(status="ready")


@router.get(
    "/metrics",
    response_class=PlainTextResponse,
    responses={**errors.responses(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Counts and times for Prometheus; the names begin with `florence2_`."""
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

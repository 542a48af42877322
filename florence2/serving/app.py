"""The app: routes, errors, the gate, the life of the worker. `create_app(settings)` is all that a server needs."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from florence2.serving import chat_bodies, chat_routes, errors, info_routes, predict_routes
from florence2.serving.batcher import Batcher, Connect
from florence2.serving.counters import Metrics
from florence2.serving.gate import OPEN, Gate
from florence2.serving.pages.mounting import routers
from florence2.serving.service import Service
from florence2.serving.settings import Settings
from florence2.serving.task_schemas import schemas
from florence2.serving.worker_link import ModelHost

HOST_S = 1.0
ABOUT = "Florence-2: a picture and tasks in; texts, boxes, quads and polygons out."


def create_app(settings: Settings, connect: Connect | None = None) -> FastAPI:
    """The app of these settings; it starts its worker when it starts up.

    `connect`: how a worker is had; without it the app starts a model host of its own.
    """
    app = FastAPI(
        title="florence2",
        description=ABOUT,
        lifespan=_lifespan,
        separate_input_output_schemas=False,
        docs_url=None,  # its page asks another host for its script
        redoc_url=None,
    )
    metrics = Metrics()
    host = ModelHost(settings) if settings.model and connect is None else None
    connect = connect or (host.connect if host is not None else None)
    batcher = Batcher(settings, metrics, connect) if connect is not None else None
    app.state.service = Service(settings, metrics, batcher)
    app.state.host = host
    app.state.browser = _browser(settings)
    errors.install(app)
    for router in (predict_routes.router, chat_routes.router, info_routes.router, *routers(settings)):
        app.include_router(router)
    app.add_middleware(Gate, settings=settings, metrics=metrics)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    if service.batcher is not None:
        service.batcher.on_tasks = lambda: setattr(app, "openapi_schema", None)
        service.batcher.start()
    if app.state.browser is not None:
        app.state.browser.start()
    watching = asyncio.ensure_future(_keep(app.state.host)) if app.state.host is not None else None
    yield
    if watching is not None:
        watching.cancel()
    service.draining = True
    if service.batcher is not None:
        await service.batcher.stop()
    if app.state.host is not None:
        app.state.host.stop()
    if app.state.browser is not None:
        await asyncio.to_thread(app.state.browser.stop)
    service.close()


def _browser(settings: Settings) -> Any:
    """The store of these settings; None without one."""
    if not settings.store:
        return None
    from florence2.serving.store_browser import StoreBrowser  # what only serves a model does without Arrow

    return StoreBrowser(settings.store, settings.max_pixels, settings.shared)


async def _keep(host: ModelHost) -> None:
    """Start the host again when it has ended, so that it is ready when a worker is asked for."""
    while True:
        await asyncio.sleep(HOST_S)
        host.ensure()


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of this model's API: its own tasks, its own limits."""
    if app.openapi_schema:
        return app.openapi_schema
    service: Service = app.state.service
    out = get_openapi(title=app.title, version="1", description=ABOUT, routes=app.routes)
    parts = out.setdefault("components", {}).setdefault("schemas", {})
    asks = {re.sub(r"\W", "_", f"Ask{name}", flags=re.ASCII): schema for name, schema in schemas(service.tasks).items()}
    parts.update(asks)
    one_of = {"oneOf": [{"$ref": f"#/components/schemas/{name}"} for name in asks]}
    chat, named = chat_bodies.request_body(service.settings, service.max_tokens)
    parts.update(named)
    out["components"]["requestBodies"] = {
        "Predict": predict_routes.request_body(service, one_of),
        "Chat": chat,
    }
    if service.settings.api_keys:
        out["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in out["paths"].items():
            for operation in methods.values():
                operation["security"] = [] if path in OPEN else [{"key": []}]
    app.openapi_schema = out
    return out

"""Where a page joins the app: one router a page, in `routers`.

A page's module defines `router(settings) -> APIRouter`. In a route `service_of(request)` gives the model (see
`service.Service`): `await service.answer(image_bytes, asks)`. Errors are raised as `refusals.ServiceError`. Every route
goes through the same checks of key, origin and size; what a route may answer is declared by `errors.responses(...)`.
A page's HTML comes from `static_files.page("NAME.html")`, the modules and styles that all share lie in `static/`:
style.css, dom.js (elements without HTML strings), api.js (requests and errors), overlay.js (regions on a picture).
"""

from __future__ import annotations

from fastapi import APIRouter

from florence2.serving.pages import static_files, store_page, try_page
from florence2.serving.settings import Settings


def routers(settings: Settings) -> list[APIRouter]:
    """The routers of the pages that these settings ask for: the first one in the list has `/`."""
    found = [static_files.router]
    if settings.model:
        found.append(try_page.router(settings))
    if settings.store:
        from florence2.serving import assist_routes, store_routes  # they read Arrow, which a model alone does not need

        found += [store_page.router(settings), store_routes.router, assist_routes.router]
    return found

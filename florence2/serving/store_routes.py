"""The routes of a store: listings, facets, pictures by id, thumbnails, corrections. Pictures are known by id alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Future
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from florence2.engine.curation.correcting import CorrectionRefused, NotInStore, Overtaken
from florence2.pixels import BadImage
from florence2.serving import errors
from florence2.serving.refusals import ServiceError, invalid
from florence2.serving.store_bodies import (
    CorrectedBody,
    CorrectionBody,
    FacetsBody,
    PictureBody,
    PicturesBody,
    PlaceBody,
    StoreBody,
    picture_of,
    summary_of,
)
from florence2.serving.store_browser import SIDES, NotReady, StoreBrowser
from florence2.store import PictureState, Wanted

R = TypeVar("R")
MOST = 200  # pictures in a page
WAITING = 256  # requests about the store that may be under way; one more is refused
CACHED = {"Cache-Control": "private, max-age=31536000, immutable"}
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
PICTURE_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
}

router = APIRouter(tags=["store"], prefix="/v1/store")

Texts = Annotated[list[str], Query(max_length=100)]
Score = Annotated[float | None, Query(ge=0, le=1)]
READ = errors.responses(404, 422, 503)


def wanted_of(
    label: Texts = [],  # noqa: B006
    source: Texts = [],  # noqa: B006
    status: Texts = [],  # noqa: B006
    reason: Texts = [],  # noqa: B006
    round: Texts = [],  # noqa: B006
    split: Texts = [],  # noqa: B006
    picture: Texts = [],  # noqa: B006
    review: Texts = [],  # noqa: B006
    min_score: Score = None,
    max_score: Score = None,
) -> Wanted:
    """The filter of a query. Values of one name are alternatives; one annotation fits all that is asked of them."""
    return Wanted(
        label=tuple(label),
        source=tuple(source),
        status=tuple(status),
        reason=tuple(reason),
        round=tuple(round),
        least=min_score,
        most=max_score,
        split=tuple(split),
        picture=tuple(picture),
        review=tuple(review),
    )


Filter = Annotated[Wanted, Depends(wanted_of)]


def browser_of(request: Request) -> StoreBrowser:
    """The store behind the app that a request came to."""
    browser: StoreBrowser = request.app.state.browser
    return browser


async def aside(browser: StoreBrowser, work: Callable[..., R], *arguments: Any) -> R:
    """Work of the store's threads; what it raises as a client sees it."""
    try:
        return await under_way(browser, browser.pool.submit, work, *arguments)
    except NotReady:
        raise ServiceError(503, "the store is being read", type="not_ready", headers={"Retry-After": "1"}) from None
    except BadImage as error:
        raise ServiceError(
            404 if error.reason in ("missing", "unreadable", "not_fetched") else 415,
            f"the picture {error.detail.partition(';')[0]}",
            type=f"image_{error.reason}",
        ) from None


async def under_way(browser: StoreBrowser, begin: Callable[..., Future[R]], *arguments: Any) -> R:
    """The result of work about the store, counted meanwhile; a correction that waits for its turn holds no thread."""
    if browser.waiting >= WAITING:
        raise ServiceError(503, "too many requests wait for the store", headers={"Retry-After": "1"})
    browser.waiting += 1
    try:
        return await asyncio.wrap_future(begin(*arguments))
    finally:
        browser.waiting -= 1


def state_of(browser: StoreBrowser, image_id: str) -> PictureState:
    """All that the store holds of a picture; 404 where it has none of that id."""
    state = browser.state(image_id)
    if state is None:
        raise ServiceError(404, f"the store has no picture {image_id!r:.80}", "image_id")
    return state


@router.get("", response_model=StoreBody, responses=READ)
async def store(request: Request) -> StoreBody:
    """The store that is served."""
    browser = browser_of(request)

    def read() -> StoreBody:
        index = browser.index()
        return StoreBody(
            name=browser.name,
            snapshot=index.snapshot.number,
            pictures=len(index),
            annotations=len(index.columns["place"]),
            labels=index.facets(Wanted())["label"],
            queue_ready=browser.queue.ready,
            model=request.app.state.service.batcher is not None,
        )

    return await aside(browser, read)


@router.get("/pictures", response_model=PicturesBody, responses=READ)
async def pictures(
    request: Request,
    wanted: Filter,
    order: Literal["queue", "store"] = "queue",
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 60,
    listing: Annotated[str, Query(max_length=40)] = "",
) -> Response:
    """A page of the pictures that fit; by queue those worth most first, as `florence2 review` orders them."""
    browser = browser_of(request)

    def read() -> PicturesBody:
        found, index = browser.listing(wanted, order == "queue", listing), browser.index(whole=False)
        same = found.index.ids is index.ids
        shown = found.positions[offset : offset + limit]
        return PicturesBody(
            whole=index.whole,
            listing=found.name,
            snapshot=index.snapshot.number,
            total=len(found.positions),
            offset=offset,
            queue_ready=browser.queue.ready,
            pictures=[summary_of(index if same else found.index, int(place)) for place in shown],
        )

    return Response((await aside(browser, read)).model_dump_json(), media_type="application/json")


@router.get("/facets", response_model=FacetsBody, responses=READ)
async def facets(request: Request, wanted: Filter) -> FacetsBody:
    """What can be filtered by, and how much each value would leave."""
    browser = browser_of(request)
    return FacetsBody(**await aside(browser, lambda: browser.index().facets(wanted)))


@router.get("/pictures/{image_id}/place", response_model=PlaceBody, responses=READ)
async def place(
    request: Request,
    image_id: str,
    wanted: Filter,
    order: Literal["queue", "store"] = "queue",
    listing: Annotated[str, Query(max_length=40)] = "",
) -> PlaceBody:
    """Where a picture is among those that fit, in their order; null where it is not among them."""
    browser = browser_of(request)

    def read() -> PlaceBody:
        state_of(browser, image_id)
        found = browser.listing(wanted, order == "queue", listing)
        (places,) = (found.positions == found.index.place.get(image_id, -1)).nonzero()
        return PlaceBody(listing=found.name, total=len(found.positions), place=int(places[0]) if len(places) else None)

    return await aside(browser, read)


@router.get("/pictures/{image_id}", response_model=PictureBody, responses=READ)
async def picture(request: Request, image_id: str) -> Response:
    """A picture with every annotation: who made it, what was judged of it and why."""
    browser = browser_of(request)
    body = await aside(browser, lambda: picture_of(browser, browser.index(whole=False), state_of(browser, image_id)))
    return Response(body.model_dump_json(), media_type="application/json")


@router.get(
    "/pictures/{image_id}/image",
    responses={**errors.responses(404, 415, 422, 503), **PICTURE_RESPONSES},
    response_class=Response,
)
async def image(request: Request, image_id: str) -> Response:
    """The picture, upright, from where it lies."""
    browser = browser_of(request)
    found = await aside(browser, lambda: browser.picture(state_of(browser, image_id)))
    return Response(found.data, media_type=found.media_type, headers={**CACHED, **SAFE})


@router.get(
    "/pictures/{image_id}/thumbnail",
    responses={**errors.responses(404, 415, 422, 503), **PICTURE_RESPONSES},
    response_class=Response,
)
async def thumbnail(
    request: Request, image_id: str, side: Annotated[int, Query(ge=SIDES[0], le=SIDES[-1])] = SIDES[1]
) -> Response:
    """A small JPEG of the picture, its longer side at least `side` where the picture is as large."""
    browser = browser_of(request)
    wanted = next(known for known in SIDES if known >= side)
    data = await aside(browser, lambda: browser.thumbnail(state_of(browser, image_id), wanted))
    return Response(data, media_type="image/jpeg", headers={**CACHED, **SAFE})


@router.post("/corrections", response_model=CorrectedBody, responses=errors.responses(404, 408, 409, 413, 422, 503))
async def corrections(request: Request, body: CorrectionBody) -> Response:
    """Enter what a person did to a picture; answered when it stands in the store.

    A person's word is kept in every later round. 409: it was judged meanwhile, by whom the picture says.
    """
    browser = browser_of(request)
    _check_numbers(body)
    if not body.image_id:
        body.image_id = await aside(browser, _picture_of_first, browser, body)
    correction = body.correction()

    try:
        outcome = await under_way(browser, browser.correct, correction)
    except OSError as error:  # a full disk, a folder that is for reading alone: sent again, it may be entered
        message = f"the store cannot be written ({error.strerror or type(error).__name__}); nothing was entered"
        raise ServiceError(503, message, type="not_writable", headers={"Retry-After": "5"}) from None
    if isinstance(outcome, CorrectionRefused):
        status = 404 if isinstance(outcome, NotInStore) else 409 if isinstance(outcome, Overtaken) else 422
        raise ServiceError(status, str(outcome), outcome.field)

    def entered() -> CorrectedBody:
        index = browser.index()
        state = index.state(correction.image_id)
        if state is None:
            raise ServiceError(404, "the picture was taken out of the store meanwhile", "image_id")
        return CorrectedBody(
            name=outcome.name,
            snapshot=outcome.snapshot,
            ann_ids=list(outcome.ann_ids),
            picture=picture_of(browser, index, state),
        )

    found = await aside(browser, entered)
    return Response(found.model_dump_json(), media_type="application/json")


def _picture_of_first(browser: StoreBrowser, body: CorrectionBody) -> str:
    index = browser.index()
    named = next((change.ann_id for change in body.changes if change.ann_id), "")
    if not named:
        raise invalid("image_id", "image_id: expected a picture's id, as no change names an annotation")
    place = index.picture_of(named)
    if place < 0:
        raise ServiceError(404, f"the store has no annotation {named!r:.80}", "changes.0.ann_id")
    return index.ids[place]


def _check_numbers(body: CorrectionBody) -> None:
    for number, change in enumerate(body.changes):
        for name in ("box", "quad", "polygons"):
            value = getattr(change, name) or []
            flat = [v for part in value for v in part] if name == "polygons" else value
            if not all(map(math.isfinite, flat)):
                raise invalid(f"changes.{number}.{name}", f"changes.{number}.{name}: expected finite numbers")

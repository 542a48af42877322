"""The bodies of /v1/predict, JSON and forms: pydantic models that refuse unknown keys, and what they ask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import FormData, UploadFile

from florence2.codec.tasks import CLOSED, Task, task_of
from florence2.records import Ask
from florence2.serving import errors
from florence2.serving.messages import Options
from florence2.serving.refusals import ServiceError, invalid
from florence2.serving.settings import Settings
from florence2.serving.task_schemas import MAX_FILTERS, MAX_MARGIN, checked_ask

OPTIONS = {"min_score": float, "num_beams": int, "max_new_tokens": int, "margin": float, "filters": list}
OPTIONS |= {"each_class": bool, "more_above": float}
FORM_FIELDS = ("image", "task", "text", "labels", "region", *OPTIONS)
M = TypeVar("M", bound=BaseModel)


def _whole(value: Any) -> Any:
    """In JSON 3.0 is a whole number too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Strict(BaseModel):
    """A body whose keys are all known, and whose values have the type they should."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AskBody(Strict):
    """One ask; which fields a task takes is in /v1/tasks."""

    task: str
    text: Union[str, None] = None
    labels: Union[list[str], None] = None
    region: Union[list[float], None] = None


class DecodingBody(Strict):
    """How answers are decoded, and which of their items are given."""

    min_score: float = Field(0.0, ge=0, le=1)
    """Items scored lower are left out."""
    num_beams: Union[Whole, None] = Field(None, ge=1)
    max_new_tokens: Union[Whole, None] = Field(None, ge=2)
    margin: float = Field(0.0, ge=0, le=MAX_MARGIN)
    """Nats: an answer ends only where its end is so much likelier than what could follow."""
    filters: list[str] = Field(default_factory=list, max_length=MAX_FILTERS)
    """Names of filters that judge the regions; /v1/tasks names them."""
    each_class: bool = True
    """Whether the classes of an open-vocabulary question that its answer does not name are asked about alone."""
    more_above: Union[float, None] = Field(None, ge=0, le=1)
    """An answer goes on exactly where anything but its end is more probable than this."""

    @model_validator(mode="before")
    @classmethod
    def _whole_pictures(cls, data: Any) -> Any:
        if isinstance(data, dict):
            _refuse_tiles(data)
        return data


class PredictBody(DecodingBody):
    """The JSON body of /v1/predict."""

    image: str = Field(min_length=1)
    asks: list[AskBody] = Field(min_length=1)


@dataclass(frozen=True)
class PredictRequest:
    """What a request asks, checked; the picture is still as it came."""

    image: Union[str, bytes]
    asks: tuple[Ask, ...]
    options: Options


def parsed_json(data: bytes) -> Any:
    """A JSON document that says one thing; 422 where it is none."""
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ServiceError(422, f"body: expected JSON ({str(error)[:100]})", "body") from None


def validated(kind: type[M], data: Any) -> M:
    """A body of this kind; 422 names the first field that is wrong."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise errors.first_fault(error.errors(include_url=False, include_context=False)) from None


def of_json(data: bytes, tasks: Mapping[str, Task], settings: Settings) -> PredictRequest:
    """The request of a JSON body."""
    body = validated(PredictBody, parsed_json(data))
    _limit_asks(len(body.asks), settings)
    asks = tuple(
        checked_ask(tasks, ask.task, ask.text or "", ask.labels or (), ask.region or (), f"asks.{place}.")
        for place, ask in enumerate(body.asks)
    )
    return PredictRequest(body.image, asks, options_of(body, settings))


async def of_form(form: FormData, tasks: Mapping[str, Task], settings: Settings) -> PredictRequest:
    """The request of a multipart form: one picture, one or several tasks, which share text, labels and region."""
    _refuse_tiles(form)
    unknown = [name for name in form if name not in FORM_FIELDS]
    if unknown:
        raise invalid(unknown[0][:80], f"{unknown[0]:.80}: unknown field; expected {', '.join(FORM_FIELDS)}")
    files = form.getlist("image")
    if len(files) != 1 or not isinstance(files[0], UploadFile):
        raise invalid("image", f"image: expected one file, got {len(files)} fields that are {_kinds(files)}")
    names = _names(form, "task")
    if not names:
        raise invalid("task", f"task: expected one of {', '.join(task.name for task in tasks.values())}; got none")
    _limit_asks(len(names), settings, "task")
    text = _one(form, "text")
    labels = _names(form, "labels")
    region = _numbers(_one(form, "region"), "region")
    asks = _shared_asks(tasks, names, text, labels, region)
    numbers: dict[str, Any] = {}
    for name, kind in OPTIONS.items():
        if kind is list:
            numbers[name] = _names(form, name)
        elif value := _one(form, name):
            numbers[name] = _number(value, name, kind)
    body = validated(DecodingBody, numbers)
    return PredictRequest(await files[0].read(), asks, options_of(body, settings))


def _refuse_tiles(given: Mapping[str, Any]) -> None:
    """Tiles are many pictures for one request, and would hold up everybody else's."""
    if given.get("tiles"):
        raise invalid("tiles", "tiles: a picture is asked about whole here; use predict(tiles=...), or send the parts")


def options_of(body: DecodingBody, settings: Settings) -> Options:
    """The options of a body, within the server's caps."""
    for name, most in (("num_beams", settings.max_beams), ("max_new_tokens", settings.max_tokens)):
        value = getattr(body, name)
        if value is not None and value > most:
            raise invalid(name, f"{name}: expected at most {most} on this server, got {value}")
    given = {name: getattr(body, name) for name in OPTIONS}
    return Options(**{**given, "filters": tuple(body.filters)})


def _shared_asks(
    tasks: Mapping[str, Task], names: Sequence[str], text: str, labels: Sequence[str], region: Sequence[float]
) -> tuple[Ask, ...]:
    """One ask a task, each with what it takes of the fields they share; a field that none takes is refused."""
    if len(names) == 1:
        return (checked_ask(tasks, names[0], text, labels, region),)
    rows = []
    for name in names:
        try:
            rows.append(task_of(name, tasks))
        except ValueError as error:
            raise invalid("task", str(error)) from None
    takes = {
        "text": [row.input_kind == "text" for row in rows],
        "labels": [row.output_kind in CLOSED for row in rows],
        "region": [row.input_kind == "region" for row in rows],
    }
    for field, given in (("text", text), ("labels", labels), ("region", region)):
        if given and not any(takes[field]):
            raise invalid(field, f"{field}: none of {', '.join(names)} takes it; leave it out")
    return tuple(
        checked_ask(
            tasks,
            name,
            text if takes["text"][place] else "",
            labels if takes["labels"][place] else (),
            region if takes["region"][place] else (),
        )
        for place, name in enumerate(names)
    )


def _limit_asks(count: int, settings: Settings, field: str = "asks") -> None:
    if count > settings.max_asks:
        raise invalid(field, f"{field}: expected at most {settings.max_asks} in one request, got {count}")


def _texts(form: FormData, name: str) -> list[str]:
    values = form.getlist(name)
    if any(not isinstance(value, str) for value in values):
        raise invalid(name, f"{name}: expected text, got a file")
    return [value for value in values if isinstance(value, str)]


def _names(form: FormData, name: str) -> list[str]:
    """A field given several times, or with commas."""
    return [part.strip() for value in _texts(form, name) for part in value.split(",") if part.strip()]


def _one(form: FormData, name: str) -> str:
    values = [value for value in _texts(form, name) if value.strip()]
    if len(values) > 1:
        raise invalid(name, f"{name}: expected it once, got it {len(values)} times")
    return values[0] if values else ""


def _numbers(value: str, name: str) -> list[float]:
    return [_number(part, name, float) for part in value.split(",")] if value else []


def _number(value: str, name: str, kind: type) -> Any:
    if kind is bool:
        if value.strip().lower() not in ("true", "false"):
            raise invalid(name, f"{name}: expected true or false, got {value!r:.60}")
        return value.strip().lower() == "true"
    try:
        return kind(value)
    except ValueError:
        raise invalid(name, f"{name}: expected a number, got {value!r:.60}") from None


def _kinds(values: Sequence[object]) -> str:
    return "texts" if values and all(isinstance(value, str) for value in values) else "files" if values else "missing"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")

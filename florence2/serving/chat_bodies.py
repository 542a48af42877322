"""The OpenAI chat form: one user message with a picture and a text that names the task; the answer as a message.

    text "<OD>"                         the task, and what follows it is its text
    text "..." beside `task` in the body  the task's text
    any other text                      a prompt, sent as written

What would change the answer elsewhere (temperature, tools, several choices) is refused rather than ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field

from florence2.codec.tasks import Task, ask_of
from florence2.records import Ask
from florence2.serving.bodies import DecodingBody, Strict, Whole, options_of, parsed_json, validated
from florence2.serving.messages import Answered, Options
from florence2.serving.refusals import ServiceError, invalid
from florence2.serving.settings import Settings
from florence2.serving.task_schemas import checked_ask
from florence2.structuring import parse_json

CONTENT = "messages.0.content"
_TASK = re.compile(r"\s*(<[A-Za-z][A-Za-z0-9_-]*>)")


class ImageUrl(Strict):
    url: str = Field(min_length=1)
    """A data URL, or an address of an allowed host."""
    detail: Literal["auto", "low", "high"] = "auto"
    """Taken, without effect."""


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(Strict):
    type: Literal["text"]
    text: str


Part = Annotated[Union[TextPart, ImagePart], Field(discriminator="type")]


class UserMessage(Strict):
    role: Literal["user"]
    content: list[Part] = Field(min_length=1)
    name: Union[str, None] = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ResponseFormat(Strict):
    type: Literal["text"]


class ChatBody(DecodingBody):
    """The body of /v1/chat/completions."""

    model: str
    messages: list[UserMessage] = Field(min_length=1, max_length=1)
    """One user message: the model keeps no conversation."""
    stream: Union[bool, None] = False
    stream_options: Union[StreamOptions, None] = None
    max_tokens: Union[Whole, None] = Field(None, ge=2)
    max_completion_tokens: Union[Whole, None] = Field(None, ge=2)
    n: Union[Literal[1], None] = 1
    temperature: Union[Literal[0], None] = None
    """Decoding is deterministic: 0, or left out."""
    top_p: Union[Literal[1], None] = None
    seed: Union[Whole, None] = None
    """Taken, without effect: equal requests have equal answers."""
    frequency_penalty: Union[Literal[0], None] = None
    presence_penalty: Union[Literal[0], None] = None
    logprobs: Union[Literal[False], None] = None
    """The scores of tokens are in the answer."""
    stop: Union[list[str], None] = Field(None, max_length=0)
    tools: Union[list[dict[str, Any]], None] = Field(None, max_length=0)
    response_format: Union[ResponseFormat, None] = None
    user: Union[str, None] = None
    """Taken, without effect."""
    task: str = ""
    """A task, in place of its token in the text."""
    labels: Union[list[str], None] = None
    region: Union[list[float], None] = None


class ChatMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    """The text of a task that answers in words, else the found items as JSON."""
    refusal: None = None
    answer: dict[str, Any]
    """The whole answer, as /v1/predict gives it."""


class Choice(BaseModel):
    index: int = 0
    message: ChatMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    prompt_tokens: int
    """The picture's vectors count."""
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The answer as a chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


def request_body(settings: Settings, max_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The OpenAPI request body with this server's model and caps, and the schemas that it names."""
    schema = ChatBody.model_json_schema(ref_template="#/components/schemas/{model}")
    named = schema.pop("$defs", {})
    fields = schema["properties"]
    fields["model"] = {"enum": [settings.model_name]}
    caps = {"max_tokens": max_tokens, "max_completion_tokens": max_tokens, "max_new_tokens": max_tokens}
    for name, most in {**caps, "num_beams": settings.max_beams}.items():
        fields[name]["anyOf"][0]["maximum"] = most
    content = named["UserMessage"]["properties"]["content"]
    content |= {
        "maxItems": 2,
        "contains": {"$ref": "#/components/schemas/ImagePart"},
        "minContains": 1,
        "maxContains": 1,
    }
    named["ImageUrl"]["properties"]["url"]["format"] = "image-url"
    return {"required": True, "content": {"application/json": {"schema": schema}}}, named


@dataclass(frozen=True)
class ChatRequest:
    """What a chat request asks, checked; the picture is still as it came."""

    image: str
    ask: Ask
    options: Options
    stream: bool
    with_usage: bool


def of_json(data: bytes, tasks: Mapping[str, Task], settings: Settings) -> ChatRequest:
    """The request of a chat body."""
    given = parsed_json(data)
    body = validated(ChatBody, given)
    if body.model != settings.model_name:
        raise ServiceError(404, f"model: {body.model!r:.80} is not served here; see /v1/models", "model")
    image, text = _parts(body.messages[0])
    limits = [n for n in (body.max_new_tokens, body.max_tokens, body.max_completion_tokens) if n is not None]
    if len(limits) > 1:
        raise invalid("max_tokens", "max_tokens: the limit is given twice; keep one of its names")
    name = next((n for n in ("max_tokens", "max_completion_tokens") if getattr(body, n) is not None), "max_new_tokens")
    if limits and limits[0] > settings.max_tokens:
        raise invalid(name, f"{name}: expected at most {settings.max_tokens} on this server, got {limits[0]}")
    options = options_of(body.model_copy(update={"max_new_tokens": limits[0] if limits else None}), settings)
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    return ChatRequest(image, _ask(body, text, tasks), options, bool(body.stream), with_usage)


def content_of(answer: Mapping[str, Any]) -> str:
    """What a person would read: a text task's text, else the found items as compact JSON."""
    if not answer["regions"] and not answer["groundings"] and answer["texts"]:
        return "\n".join(text["text"] for text in answer["texts"])
    phrases = {i: g.get("phrase", "") for g in answer["groundings"] for i in g.get("region_ids", [])}
    return json.dumps([_item(region, phrases) for region in answer["regions"]], ensure_ascii=False)


def completion(answered: Answered, number: str, created: int, model: str) -> dict[str, Any]:
    """The whole answer at once."""
    answer = parse_json(answered.json)
    message = {"role": "assistant", "content": content_of(answer), "refusal": None, "answer": answer}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish(answer)}
    head = {"id": number, "object": "chat.completion", "created": created, "model": model}
    return {**head, "choices": [choice], "usage": usage(answered)}


def usage(answered: Answered) -> dict[str, int]:
    """How many tokens were read and made."""
    total = answered.prompt_tokens + answered.tokens
    return {"prompt_tokens": answered.prompt_tokens, "completion_tokens": answered.tokens, "total_tokens": total}


def finish(answer: Mapping[str, Any]) -> str:
    """Why the answer ends."""
    return "length" if answer["truncated"] else "stop"


def _parts(message: UserMessage) -> tuple[str, str]:
    """The one picture and the one text of a message."""
    images = [part.image_url.url for part in message.content if isinstance(part, ImagePart)]
    texts = [part.text for part in message.content if isinstance(part, TextPart)]
    if len(images) != 1 or len(texts) > 1:
        raise invalid(CONTENT, f"{CONTENT}: expected one image_url and one text, got {len(images)} and {len(texts)}")
    return images[0], texts[0] if texts else ""


def _ask(body: ChatBody, text: str, tasks: Mapping[str, Task]) -> Ask:
    """What is asked: the task of the body, or of the token that the text begins with, or the text as a prompt."""
    found = None if body.task else _TASK.match(text)
    token, text = (found[1], text[found.end() :]) if found else (body.task, text)
    if token:
        try:
            return checked_ask(tasks, token, text.strip(), body.labels or (), body.region or ())
        except ServiceError as error:
            own = error.field in ("labels", "region") or (error.field == "task" and not found)
            raise error if own else invalid(CONTENT, error.message) from None
    if not text.strip():
        raise invalid(CONTENT, f"text: expected a task such as {next(iter(tasks))}, got none")
    if body.labels or body.region:
        raise invalid("labels" if body.labels else "region", "labels, region: go with a task; name one")
    try:
        text.encode()
        return ask_of(text, tasks)
    except ValueError as error:
        raise invalid(CONTENT, str(error)) from None


def _item(region: Mapping[str, Any], phrases: Mapping[str, str]) -> dict[str, Any]:
    label = region.get("label") or region.get("description") or phrases.get(region.get("id", ""), "")
    out: dict[str, Any] = {"label": label} if label else {}
    for name in ("box", "quad", "polygons"):
        if region.get(name):
            out[name] = _rounded(region[name])
    if region.get("score") is not None:
        out["score"] = round(region["score"], 3)
    return out


def _rounded(values: Sequence[Any]) -> list[Any]:
    return [_rounded(value) if isinstance(value, list) else round(value, 1) for value in values]

"""/v1/chat/completions, asked by OpenAI's own client: whole and streamed, errors as its exceptions."""

import base64
import json

import httpx
import openai
import pytest

from florence2.records import Ask
from florence2.serving.chat_bodies import content_of
from tests.serving.test_predict_route import assert_same


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture(scope="module")
def message(scene):
    url = "data:image/png;base64," + base64.b64encode(scene).decode()

    def make(text):
        image = {"type": "image_url", "image_url": {"url": url}}
        return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]

    return make


def test_the_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["nano"]
    assert client.models.retrieve("nano").id == "nano"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("text", "extra", "ask"),
    [
        ("<CAPTION>", {}, Ask("<CAPTION>")),
        ("<OD>", {}, Ask("<OD>")),
        ("<OPEN_VOCABULARY_DETECTION> fish", {}, Ask("<OPEN_VOCABULARY_DETECTION>", text="fish")),
        ("<OPEN_VOCABULARY_DETECTION>fish", {}, Ask("<OPEN_VOCABULARY_DETECTION>", text="fish")),
        ("fish", {"task": "OPEN_VOCABULARY_DETECTION"}, Ask("<OPEN_VOCABULARY_DETECTION>", text="fish")),
        ("", {"task": "OD", "labels": ["fish"]}, Ask("<OD>", labels=("fish",))),
        ("<REGION_TO_CATEGORY>", {"region": [9, 9, 99, 99]}, Ask("<REGION_TO_CATEGORY>", region=(9, 9, 99, 99))),
        ("What does the image describe?", {}, Ask(prompt="What does the image describe?")),
    ],
)
def test_a_completion_holds_the_answer_of_an_unbatched_call(client, message, nano, scene, text, extra, ask):
    found = client.chat.completions.create(model="nano", messages=message(text), extra_body=extra)
    alone = nano.predict(scene, ask)
    choice = found.choices[0]
    assert (found.object, choice.finish_reason, choice.message.role) == ("chat.completion", "stop", "assistant")
    assert found.usage.completion_tokens == len(alone.token_ids) - 1
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens
    answer = choice.message.model_extra["answer"]
    assert choice.message.content == content_of(answer)
    assert_same(answer, alone)
    if alone.texts and not alone.regions:
        assert choice.message.content == alone.texts[0].text
    else:
        items = json.loads(choice.message.content)
        assert [item.get("label", "") for item in items] == alone.labels.tolist()


@pytest.mark.parametrize("text", ["<MORE_DETAILED_CAPTION>", "<CAPTION>", "<OD>", "<OCR>"])
def test_a_stream_adds_up_to_the_completion(client, message, text):
    whole = client.chat.completions.create(model="nano", messages=message(text))
    chunks = list(
        client.chat.completions.create(
            model="nano", messages=message(text), stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage and len({chunk.id for chunk in chunks}) == 1
    answers = [c.choices[0].delta.model_extra["answer"] for c in chunks if c.choices and c.choices[0].delta.model_extra]
    assert answers[0]["token_ids"] == whole.choices[0].message.model_extra["answer"]["token_ids"]
    if text == "<MORE_DETAILED_CAPTION>":
        assert len([c for c in chunks if c.choices and c.choices[0].delta.content]) > 3  # as it is made


def test_beam_search_streams_whole(client, message):
    extra = {"num_beams": 3}
    whole = client.chat.completions.create(model="nano", messages=message("<CAPTION>"), extra_body=extra)
    chunks = client.chat.completions.create(model="nano", messages=message("<CAPTION>"), extra_body=extra, stream=True)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert texts == [whole.choices[0].message.content]


def test_a_limit_of_tokens_is_said_to_have_ended_the_answer(client, message):
    for name in ("max_tokens", "max_completion_tokens"):
        found = client.chat.completions.create(model="nano", messages=message("<MORE_DETAILED_CAPTION>"), **{name: 4})
        assert found.choices[0].finish_reason == "length" and found.usage.completion_tokens <= 4


def test_what_asks_for_nothing_else_is_taken(client, message):
    """Clients send the defaults of their own settings."""
    neutral = {"n": 1, "temperature": 0.0, "top_p": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0, "tools": []}
    neutral |= {"logprobs": False, "stop": [], "response_format": {"type": "text"}, "seed": 3, "user": "Ada"}
    plain = client.chat.completions.create(model="nano", messages=message("<OD>"))
    found = client.chat.completions.create(model="nano", messages=message("<OD>"), **neutral)
    assert found.choices[0].message.content == plain.choices[0].message.content
    assert client.chat.completions.create(model="nano", messages=message("<OD>"), **dict.fromkeys(neutral)).choices


WRONG = [  # what is given -> the field that is named
    ({"model": "gpt-4o"}, "model"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "system", "content": "be brief"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": "<OD>"}]}, "messages.0.content"),
    ({"text": "<NO_SUCH_TASK>"}, "messages.0.content"),
    ({"text": "<OD> cat"}, "messages.0.content"),
    ({"text": ""}, "messages.0.content"),
    ({"text": "<REGION_TO_CATEGORY>"}, "region"),
    ({"text": "<OD>", "extra_body": {"task": "NO_SUCH"}}, "task"),
    ({"text": "hello", "extra_body": {"labels": ["cat"]}}, "labels"),
    ({"n": 2}, "n"),
    ({"temperature": 0.7}, "temperature"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ({"frequency_penalty": 0.5}, "frequency_penalty"),
    ({"presence_penalty": -1}, "presence_penalty"),
    ({"logprobs": True}, "logprobs"),
    ({"stop": ["."]}, "stop"),
    ({"response_format": {"type": "json_object"}}, "response_format.type"),
    ({"max_tokens": 100_000}, "max_tokens"),
    ({"max_tokens": 9, "max_completion_tokens": 9}, "max_tokens"),
    ({"extra_body": {"num_beams": 99}}, "num_beams"),
    ({"text": "<VQA>" + "what " * 600}, "messages.0.content"),  # longer than the model reads
    ({"extra_body": {"region": [90, 9, 9, 99], "task": "REGION_TO_OCR"}, "text": ""}, "region"),
    ({"extra_body": {"region": [900, 900, 950, 950], "task": "REGION_TO_OCR"}, "text": ""}, "region"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("given", "field"), WRONG)
def test_a_wrong_argument_is_named(client, message, given, field, stream):
    given = {"model": "nano", "messages": message(given.get("text", "<OD>")), "stream": stream, **given}
    given.pop("text", None)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**given)
    assert caught.value.status_code == (404 if field == "model" else 422)
    assert caught.value.body["field"] == field, caught.value.body


def test_a_picture_that_is_none(client):
    bad = base64.b64encode(b"no picture").decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{bad}"}},
        {"type": "text", "text": "<OD>"},
    ]
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="nano", messages=[{"role": "user", "content": content}])
    assert caught.value.status_code == 415 and caught.value.body["field"] == "messages.0.content"


def test_a_stream_is_server_sent_events(server, message):
    body = {"model": "nano", "messages": message("<CAPTION>"), "stream": True}
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = "".join(answer.iter_text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(line.startswith("data: {") for line in lines[:-2])

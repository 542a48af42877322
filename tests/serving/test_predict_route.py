"""/v1/predict of a running server: the answers of an unbatched call, in JSON and in forms; wrong use named by field."""

import base64
import dataclasses
import json

import httpx
import pytest

from florence2.pixels import encode
from florence2.predictor.asks import DecodingOptions
from florence2.predictor.post_filters import FILTERS
from florence2.records import Ask
from florence2.scenes import draw
from florence2.serving.messages import Options

ASKS = [
    {"task": "OD"},
    {"task": "<CAPTION>"},
    {"task": "OPEN_VOCABULARY_DETECTION", "text": "fish"},
    {"task": "OD", "labels": ["fish", "umbrella"]},
    {"task": "REGION_TO_CATEGORY", "region": [233, 14, 329, 104]},
    {"task": "CAPTION_TO_PHRASE_GROUNDING", "text": "a fish and an umbrella"},
]


def record(ask):
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in ask.items()}
    return Ask(**given)


def assert_same(found, alone):
    """An answer as the server gives it, and of a call: equal but for rounding in the scores."""
    alone = json.loads(json.dumps(alone.to_json()))
    for items in ("texts", "regions", "groundings"):
        for one, other in zip(found[items], alone[items], strict=True):
            assert one.pop("score", None) == pytest.approx(other.pop("score", None), abs=1e-4)
    for one, other in zip(found.get("decisions", []), alone.get("decisions", []), strict=True):
        assert one.pop("value", None) == pytest.approx(other.pop("value", None), abs=1e-4)
    assert found.pop("token_logprobs") == pytest.approx(alone.pop("token_logprobs"), abs=1e-4)
    assert found == alone


def test_json_gives_what_unbatched_calls_give(server, nano, scene):
    body = {"image": base64.b64encode(scene).decode(), "asks": ASKS}
    answer = httpx.post(server.url + "/v1/predict", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["answers"]
    for found, ask in zip(answer.json()["answers"], ASKS, strict=True):
        assert_same(found, nano.predict(scene, record(ask)))


def test_a_form_gives_what_unbatched_calls_give(server, nano, scene):
    forms = [
        ({"task": "OD"}, [Ask("OD")]),
        ({"task": ["OD", "CAPTION"]}, [Ask("OD"), Ask("CAPTION")]),
        ({"task": "OD", "labels": "fish,umbrella"}, [Ask("OD", labels=("fish", "umbrella"))]),
        ({"task": "OD", "labels": ["fish", "umbrella"]}, [Ask("OD", labels=("fish", "umbrella"))]),
        (
            {"task": "REGION_TO_CATEGORY", "region": "233,14,329,104"},
            [Ask("REGION_TO_CATEGORY", region=(233, 14, 329, 104))],
        ),
        (
            {"task": ["CAPTION", "OPEN_VOCABULARY_DETECTION"], "text": "fish"},
            [Ask("CAPTION"), Ask("OPEN_VOCABULARY_DETECTION", text="fish")],
        ),
    ]
    for data, asks in forms:
        answer = httpx.post(server.url + "/v1/predict", data=data, files={"image": scene}, timeout=60)
        assert answer.status_code == 200, answer.text
        for found, ask in zip(answer.json()["answers"], asks, strict=True):
            assert_same(found, nano.predict(scene, ask))


def test_a_data_url_and_a_score(server, nano, scene):
    url = "data:image/png;base64," + base64.b64encode(scene).decode()
    scores = sorted(region.score for region in nano.predict(scene, "<OD>").regions)
    least = sum(scores[:2]) / 2
    answer = httpx.post(server.url + "/v1/predict", json={"image": url, "asks": [{"task": "OD"}], "min_score": least})
    assert [r["score"] for r in answer.json()["answers"][0]["regions"]].sort() == scores[1:].sort()
    assert len(answer.json()["answers"][0]["regions"]) == len(scores) - 1 >= 1
    form = {"task": "OD", "min_score": str(least)}
    answer = httpx.post(server.url + "/v1/predict", data=form, files={"image": scene})
    assert len(answer.json()["answers"][0]["regions"]) == len(scores) - 1


def test_options_are_those_of_predict(server, nano, scene):
    asks = [{"task": "REGION_PROPOSAL"}, {"task": "OD"}]
    options = {"margin": 3.0, "filters": ["containers", "nms_all"], "min_score": 0.05}
    plain, alone = (nano.predict(scene, [one["task"] for one in asks], **given) for given in ({}, options))
    assert [len(one.regions) for one in alone] != [len(one.regions) for one in plain] and alone[0].decisions
    body = {"image": base64.b64encode(scene).decode(), "asks": asks, **options}
    form = {"task": ["REGION_PROPOSAL", "OD"], **options, "filters": "containers,nms_all"}
    for given in ({"json": body}, {"data": form, "files": {"image": scene}}):
        answer = httpx.post(server.url + "/v1/predict", timeout=60, **given)
        for found, one in zip(answer.json()["answers"], alone, strict=True):
            assert_same(found, one)
    schemas = httpx.get(server.url + "/v1/tasks").json()["options"]
    assert [one["const"] for one in schemas["filters"]["items"]["oneOf"]] == list(FILTERS)
    assert set(schemas) == {option.name for option in dataclasses.fields(Options)}
    assert set(schemas) == set(DecodingOptions.__annotations__) - {"official", "grammar", "tiles"}


def test_each_class_and_more_above_are_those_of_predict(server, nano, scene):
    labels = ["crescent", "fish", "star", "umbrella", "sun"]
    image = base64.b64encode(scene).decode()
    told = set()
    for options in ({}, {"each_class": False}, {"more_above": 0.02}):
        body = {"image": image, "asks": [{"task": "OPEN_VOCABULARY_DETECTION", "labels": labels}], **options}
        answer = httpx.post(server.url + "/v1/predict", json=body, timeout=60).json()["answers"][0]
        told.add(answer["text"])
        assert_same(answer, nano.predict(scene, Ask("<OPEN_VOCABULARY_DETECTION>", labels=tuple(labels)), **options))
    assert len(told) > 1
    form = {"task": "OPEN_VOCABULARY_DETECTION", "labels": labels, "each_class": "false"}
    answer = httpx.post(server.url + "/v1/predict", data=form, files={"image": scene}, timeout=60).json()["answers"][0]
    ask = Ask("<OPEN_VOCABULARY_DETECTION>", labels=tuple(labels))
    assert_same(answer, nano.predict(scene, ask, each_class=False))


def test_other_pictures_other_answers(server, nano):
    """Many at once, so that they share batches; each gets its own."""
    from concurrent.futures import ThreadPoolExecutor

    pictures = [encode(draw(2**31 + 20 + n)[0]) for n in range(12)]

    def ask(data):
        return httpx.post(
            server.url + "/v1/predict", data={"task": ["OD", "CAPTION"]}, files={"image": data}, timeout=60
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, pictures))
    for data, answer in zip(pictures, answers):
        assert answer.status_code == 200
        for found, task in zip(answer.json()["answers"], ("OD", "CAPTION"), strict=True):
            assert_same(found, nano.predict(data, task))


WRONG = [  # body without the picture -> the field that is named
    ({"asks": []}, "asks"),
    ({"asks": [{}]}, "asks.0.task"),
    ({"asks": [{"task": "NO_SUCH"}]}, "asks.0.task"),
    ({"asks": [{"task": ""}]}, "asks.0.task"),
    ({"asks": [{"task": 7}]}, "asks.0.task"),
    ({"asks": [{"task": "OD"}, {"task": "OD", "text": "cat"}]}, "asks.1.text"),
    ({"asks": [{"task": "OPEN_VOCABULARY_DETECTION"}]}, "asks.0.text"),
    ({"asks": [{"task": "OPEN_VOCABULARY_DETECTION", "text": "  "}]}, "asks.0.text"),
    ({"asks": [{"task": "CAPTION", "labels": ["a"]}]}, "asks.0.labels"),
    ({"asks": [{"task": "OD", "labels": [" "]}]}, "asks.0.labels"),
    ({"asks": [{"task": "OD", "labels": "cat"}]}, "asks.0.labels"),
    ({"asks": [{"task": "OD", "region": [1, 2, 3, 4]}]}, "asks.0.region"),
    ({"asks": [{"task": "REGION_TO_CATEGORY"}]}, "asks.0.region"),
    ({"asks": [{"task": "REGION_TO_CATEGORY", "region": [1, 2, 3]}]}, "asks.0.region"),
    ({"asks": [{"task": "REGION_TO_CATEGORY", "region": [1, 2, 3, 1e9]}]}, "asks.0.region"),
    ({"asks": [{"task": "OD"}, {"task": "REGION_TO_CATEGORY", "region": [99, 2, 3, 40]}]}, "asks.1.region"),  # reversed
    ({"asks": [{"task": "REGION_TO_CATEGORY", "region": [900, 900, 950, 950]}]}, "asks.0.region"),  # outside
    ({"asks": [{"task": "OD", "colour": "red"}]}, "asks.0.colour"),
    ({"asks": [{"task": "OD"}] * 17}, "asks"),
    ({"asks": [{"task": "OD"}], "colour": "red"}, "colour"),
    ({"asks": [{"task": "OD"}], "min_score": 2}, "min_score"),
    ({"asks": [{"task": "OD"}], "min_score": "0.5"}, "min_score"),
    ({"asks": [{"task": "OD"}], "num_beams": 5}, "num_beams"),
    ({"asks": [{"task": "OD"}], "num_beams": 0}, "num_beams"),
    ({"asks": [{"task": "OD"}], "max_new_tokens": 5000}, "max_new_tokens"),
    ({"asks": [{"task": "OD"}], "max_new_tokens": 513}, "max_new_tokens"),  # within the server's cap, over nano's
    ({"asks": [{"task": "OD"}], "margin": -1}, "margin"),
    ({"asks": [{"task": "OD"}], "margin": True}, "margin"),
    ({"asks": [{"task": "OD"}], "filters": "nms"}, "filters"),
    ({"asks": [{"task": "OD"}], "filters": ["no_such"]}, "filters"),
    ({"asks": [{"task": "CAPTION"}], "filters": ["nms"]}, "filters"),  # judges nothing of this request
    ({"asks": [{"task": "OD"}], "filters": ["nms"] * 17}, "filters"),
    ({"asks": [{"task": "OD"}], "tiles": "auto"}, "tiles"),
    ({"asks": [{"task": "VQA", "text": "what " * 600}]}, "asks.0.text"),  # longer than the model reads
    ({"asks": [{"task": "VQA", "text": "\ud800"}]}, "asks.0.text"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
def test_a_wrong_argument_is_422_and_named(server, scene, body, field):
    given = {"image": base64.b64encode(scene).decode(), **body}
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(server.url + "/v1/predict", content=json.dumps(given), headers=headers, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, field), error
    assert error["type"] == "invalid_request" and error["message"] and "\n" not in error["message"]


FORMS = [
    ({}, "task"),
    ({"task": "NO_SUCH"}, "task"),
    ({"task": "OD", "colour": "red"}, "colour"),
    ({"task": "OD", "text": "cat"}, "text"),
    ({"task": ["OD", "CAPTION"], "text": "cat"}, "text"),
    ({"task": "CAPTION", "labels": "cat"}, "labels"),
    ({"task": "REGION_TO_CATEGORY", "region": "1,2,x,4"}, "region"),
    ({"task": "REGION_TO_CATEGORY", "region": "1,20,30,4"}, "region"),
    ({"task": "OD", "min_score": "high"}, "min_score"),
    ({"task": "OD", "min_score": "nan"}, "min_score"),
    ({"task": "OD", "text": ["a", "b"]}, "text"),
    ({"task": "OD", "margin": "wide"}, "margin"),
    ({"task": "OD", "filters": "nms,no_such"}, "filters"),
    ({"task": "OD", "tiles": "2x2"}, "tiles"),
    ({"task": "OD", "each_class": "perhaps"}, "each_class"),
    ({"task": "OD", "more_above": "2"}, "more_above"),
]


@pytest.mark.parametrize(("data", "field"), FORMS)
def test_a_wrong_form_is_422_and_named(server, scene, data, field):
    answer = httpx.post(server.url + "/v1/predict", data=data, files={"image": scene}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field), answer.text


def test_one_picture_a_request(server, scene):
    for files in ([], [("image", scene), ("image", scene)]):
        answer = httpx.post(server.url + "/v1/predict", data={"task": "OD"}, files=files or {"other": b"x"}, timeout=60)
        assert answer.status_code == 422


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"image": NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_422(server, content):
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(server.url + "/v1/predict", content=content, headers=headers)
    assert answer.status_code == 422 and set(answer.json()["error"]) == {"type", "message", "field"}
    if content != b'{"image": NaN}':  # an object
        assert answer.json()["error"]["field"] == "body"
    assert "Body" not in answer.json()["error"]["message"]  # what it is called inside is nobody's concern


FORM = "multipart/form-data; boundary=b"
NO_FORMS = [
    ("multipart/form-data", b"--b--"),  # no boundary
    (FORM, b"no boundary in it"),
    (FORM, b"--b\r\nX: " + b"x" * 50_000 + b"\r\n\r\n\r\n--b--"),
    (FORM, b'--b\r\nContent-Disposition: form-data; name="task"\r\n\r\nOD\r\n' * 500 + b"--b--"),  # too many fields
    (FORM, b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n\r\n' * 9 + b"--b--"),
]


@pytest.mark.parametrize(("kind", "content"), NO_FORMS)
def test_a_form_that_is_none_is_422(server, kind, content):
    answer = httpx.post(server.url + "/v1/predict", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "body"), answer.text


def test_other_content_types_are_415(server):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = httpx.post(server.url + "/v1/predict", content=b"task=OD", headers={"Content-Type": kind})
        assert answer.status_code == 415

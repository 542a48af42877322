"""Cloud specialists against a local server that speaks the documented protocols, faults included."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import florence2
from florence2 import pixels
from florence2.engine.specialists.azure import Azure
from florence2.engine.specialists.cloud import Cloud, CloudError
from florence2.engine.specialists.writer import Writer, facts
from florence2.records import Decision, Failure, ImageRef, Region, Sample, Text
from tests.engine.doubles import folder_of

IMAGE = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3).astype(np.uint8)
SAMPLE = Sample("s", ImageRef("s", "s.png", width=80, height=60))
LINE = {
    "text": "OPEN 24h",
    "boundingPolygon": [{"x": 10, "y": 5}, {"x": 60, "y": 8}, {"x": 59, "y": 20}, {"x": 9, "y": 17}],
    "words": [{"text": "OPEN", "confidence": 0.9, "boundingPolygon": []}, {"text": "24h", "confidence": 0.7}],
}
READ = {
    "modelVersion": "2023-10-01",
    "metadata": {"width": 80, "height": 60},
    "readResult": {"blocks": [{"lines": [LINE]}]},
}
CHAT = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": " A dog\n runs. "}, "finish_reason": "stop"}]
}


class Service:
    """Answers what it is told to, one answer a request, the last one again; keeps the requests."""

    def __init__(self):
        self.answers, self.requests = [], []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.requests.append((self.path, dict(self.headers), body))
                answers = service.answers
                status, headers, answer = answers.pop(0) if len(answers) > 1 else answers[0]
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def service():
    found = Service()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def azure(service, monkeypatch):
    monkeypatch.setenv("AZURE_VISION_KEY", "secret")
    monkeypatch.setenv("AZURE_VISION_ENDPOINT", service.url + "/")

    def made(**settings):
        found = Azure(**{"cache": "", **settings})
        found.waits = []
        found.cloud.sleep = found.waits.append
        found.setup("cpu")
        return found

    return made


OK = (200, {}, READ)


def test_azure_sends_the_documented_request_and_reads_its_lines(service, azure):
    service.answers = [OK]
    (result,) = azure().annotate([SAMPLE], [IMAGE])
    (line,) = result.regions
    assert (line.kind, line.label, line.score) == ("text", "OPEN 24h", pytest.approx(0.8))
    assert line.quad == (10, 5, 60, 8, 59, 20, 9, 17) and line.box == (9, 5, 60, 20)
    path, headers, body = service.requests[0]
    assert path == "/computervision/imageanalysis:analyze?api-version=2024-02-01&features=read"
    assert headers["Ocp-Apim-Subscription-Key"] == "secret" and headers["Content-Type"] == "application/octet-stream"
    assert (pixels.load(body) == IMAGE).all()


def test_an_answer_is_kept_by_content_and_paid_once(service, azure, tmp_path):
    service.answers = [OK]
    first = azure(cache=str(tmp_path), cost=0.5)
    assert first.annotate([SAMPLE] * 2, [IMAGE] * 2)[0].regions
    again = azure(cache=str(tmp_path), cost=0.5)
    assert again.annotate([SAMPLE], [IMAGE]) == first.annotate([SAMPLE], [IMAGE])
    assert len(service.requests) == 1 and again.cloud.spent == 0.5
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())


def test_the_budget_is_kept_over_runs(service, azure, tmp_path):
    service.answers = [OK]
    pictures = [IMAGE + np.uint8(i) for i in range(3)]
    azure(cache=str(tmp_path), cost=1, budget=2).annotate([SAMPLE], pictures[:1])
    results = azure(cache=str(tmp_path), cost=1, budget=2).annotate([SAMPLE] * 2, pictures[1:])
    assert results[0].regions and isinstance(results[1], Failure)
    assert results[1].reason == "budget" and "2 of 2 spent" in results[1].detail
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    "fault, reason, requests",
    [
        ((429, {"Retry-After": "7"}, {"error": {"code": "429", "message": "slow down"}}), "throttled", 3),
        ((503, {}, b"busy"), "unavailable", 3),
        ((200, {}, b"<html>"), "garbled", 3),
        ((401, {}, {"error": {"code": "401", "message": "Access denied"}}), "denied", 1),
        ((400, {}, {"error": {"code": "InvalidRequest", "message": "no such feature"}}), "refused", 1),
        ((200, {}, {"readResult": {}}), "garbled", 1),
    ],
)
def test_faults_are_tried_again_or_told(service, azure, fault, reason, requests):
    service.answers = [fault]
    (result,) = azure(attempts=3).annotate([SAMPLE], [IMAGE])
    assert isinstance(result, Failure) and (result.reason, result.image) == (reason, "s.png")
    assert len(service.requests) == requests and "secret" not in result.detail
    service.answers = [fault, OK]
    assert isinstance(azure(attempts=3).annotate([SAMPLE], [IMAGE])[0], Failure) == (requests == 1)


def test_waits_grow_and_obey_the_service(service, azure):
    service.answers = [(503, {}, b""), (503, {}, b""), (429, {"Retry-After": "7"}, b""), OK]
    found = azure(per_second=1e6)
    assert found.annotate([SAMPLE], [IMAGE])[0].regions
    first, second, third = [wait for wait in found.waits if wait > 1e-3]
    assert 0.5 <= first <= 1.5 and 1 <= second <= 3 and third == 7


def test_the_rate_is_limited():
    now = [0.0]
    cloud = Cloud("x", per_second=2, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    for _ in range(5):
        cloud._wait_turn()
    assert now[0] == pytest.approx(2.0)


def test_a_service_that_is_not_there():
    cloud = Cloud("x", attempts=2, timeout_s=2, sleep=lambda s: None)
    with pytest.raises(CloudError, match="unreachable"):
        cloud.ask("http://127.0.0.1:9/", b"", {}, "k")


@pytest.mark.parametrize(
    "variable, value, expected",
    [("AZURE_VISION_KEY", "", "AZURE_VISION_KEY"), ("AZURE_VISION_ENDPOINT", "http://example.com", "https://")],
)
def test_azure_without_key_or_endpoint_says_what_to_set(azure, monkeypatch, variable, value, expected):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=expected):
        azure()


def test_azure_leaves_pictures_it_does_not_take(service, azure):
    (result,) = azure().annotate([SAMPLE], [IMAGE[:40]])
    assert result.reason == "size" and not service.requests


KNOWN = Sample(
    "s",
    ImageRef("s"),
    (Text("t", "A dog in a park."),),
    (
        Region("a", box=(1, 2, 30, 40), label="dog", score=0.9),
        Region("b", kind="text", box=(5, 6, 20, 10), label="NO DOGS", score=0.8),
        Region("c", box=(0, 0, 5, 5), label="ghost"),
    ),
    decisions=(Decision("c", "rejected", "region_score"),),
)


def test_the_writer_tells_the_model_what_stands_and_takes_its_text(service):
    service.answers = [(200, {}, CHAT)]
    writer = Writer("some-model", service.url + "/v1", detail="more_detailed", cache="")
    writer.setup("cpu")
    (result,) = writer.annotate([KNOWN], [IMAGE])
    (text,) = result.texts
    assert (text.text, text.detail) == ("A dog runs.", "more_detailed")
    path, headers, body = service.requests[0]
    request = json.loads(body)
    assert path == "/v1/chat/completions" and request["model"] == "some-model" and request["temperature"] == 0
    said = request["messages"][0]["content"]
    assert 'Text "NO DOGS"' in said and "Object: dog" in said and "A dog in a park." in said and "ghost" not in said
    assert "Authorization" not in headers


def test_the_writer_may_send_the_picture(service):
    service.answers = [(200, {}, CHAT)]
    writer = Writer("m", service.url, picture=True, cache="")
    writer.setup("cpu")
    writer.annotate([SAMPLE], [IMAGE])
    text, image = json.loads(service.requests[0][2])["messages"][0]["content"]
    assert text["type"] == "text" and image["image_url"]["url"].startswith("data:image/png;base64,")


def test_the_writer_asks_nothing_where_nothing_is_known(service):
    writer = Writer("m", service.url, cache="")
    writer.setup("cpu")
    (result,) = writer.annotate([SAMPLE], [IMAGE])
    assert result.texts == () and not service.requests


def test_the_writer_fails_a_picture_on_an_answer_without_a_text(service):
    service.answers = [(200, {}, {"choices": []})]
    writer = Writer("m", service.url, cache="")
    writer.setup("cpu")
    (result,) = writer.annotate([KNOWN], [IMAGE])
    assert isinstance(result, Failure) and result.reason == "garbled"


def test_the_writer_needs_a_key_for_a_far_server(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        Writer("m").setup("cpu")
    with pytest.raises(ValueError, match="https"):
        Writer("m", "http://example.com/v1").setup("cpu")


def test_facts_are_limited_to_the_surest():
    regions = tuple(Region(f"{i}", box=(0, i, 9, i + 9), label=f"thing {i}", score=i / 100) for i in range(100))
    told = facts(Sample("s", ImageRef("s"), regions=regions))
    assert len(told) == 60 and "thing 40," in told[0]


def test_a_billed_specialist_works_in_one_process(tmp_path):
    (tmp_path / "billed.py").write_text(BILLED)
    folder_of(tmp_path, 6)
    store = florence2.annotate(
        tmp_path / "pictures", tmp_path / "s", [f"{tmp_path / 'billed.py'}:Billed"], workers=3, unit=1
    )
    assert len({text.text for sample in store.samples() for text in sample.texts}) == 1


BILLED = """
import os, time
from florence2 import Text
class Billed:
    name, version, billed = "billed", "1", True
    def annotate(self, samples, images):
        time.sleep(0.05)
        return [[Text(text=str(os.getpid()))] for _ in samples]
"""

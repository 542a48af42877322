"""What is promised to clients, a test a line; the worker is a double that answers when it is told to."""

import asyncio
import base64
import io
import json
import time

import numpy as np
import pytest
from PIL import Image

import florence2
from florence2.pixels import encode
from florence2.records import Ask
from florence2.scenes import draw
from florence2.serving.app import create_app
from florence2.serving.image_input import of_bytes
from florence2.serving.messages import Cancel, Work
from florence2.serving.service import PLAIN
from florence2.serving.settings import Settings
from florence2.sources import fetching
from tests.engine.doubles import Boxes, folder_of
from tests.serving.running import FakeWorker, call, started

PICTURE = encode(draw(2**31 + 1)[0])


def predict_body(image=PICTURE, **more):
    image = base64.b64encode(image).decode() if isinstance(image, bytes) else image
    return json.dumps({"image": image, "asks": [{"task": "OD"}], **more}).encode()


def error_in(answer):
    body = json.loads(answer[2])
    assert set(body) == {"error"} and set(body["error"]) == {"type", "message", "field"}
    return body["error"]


def run(scenario, worker=None, **settings):
    """Run `scenario(app, worker)` against an app with a double behind it."""
    worker = worker or FakeWorker()

    async def main():
        app = create_app(Settings(model="nano", **settings), worker.connect)
        async with started(app):
            return await scenario(app, worker)

    return asyncio.run(asyncio.wait_for(main(), 30))


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to that")


def works(worker):
    return [message for message in worker.sent if isinstance(message, Work)]


def test_a_full_queue_is_503_with_retry_after_at_once():
    async def scenario(app, worker):
        waiting = [asyncio.ensure_future(call(app, "/v1/predict", predict_body())) for _ in range(5)]
        await until(lambda: app.state.service.batcher.load == (3, 2))  # a window of two, a queue of three
        start = time.monotonic()
        answer = await call(app, "/v1/predict", predict_body())
        assert answer[0] == 503 and int(answer[1]["retry-after"]) >= 1 and time.monotonic() - start < 1
        assert error_in(answer)["type"] == "overloaded"
        for done in range(5):
            await until(lambda done=done: len(works(worker)) > done)
            worker.answer(works(worker)[done])
        assert [(await one)[0] for one in waiting] == [200] * 5

    run(scenario, queue=3, batch_size=1)


def test_a_full_queue_is_said_before_the_body_is_read():
    async def scenario(app, worker):
        waiting = [asyncio.ensure_future(call(app, "/v1/predict", predict_body())) for _ in range(3)]
        await until(lambda: app.state.service.batcher.load == (1, 2))

        async def never():
            raise AssertionError("the body was read")
            yield b""

        assert (await call(app, "/v1/predict", chunks=never()))[0] == 503
        for one in waiting:
            one.cancel()

    run(scenario, queue=1, batch_size=1)


def test_bodies_on_their_way_in_are_counted():
    async def scenario(app, worker):
        arrive = asyncio.Event()

        async def slow():
            yield predict_body()[:5]
            await arrive.wait()
            yield predict_body()[5:]

        slow_ones = [asyncio.ensure_future(call(app, "/v1/predict", chunks=slow())) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert (await call(app, "/v1/predict", predict_body()))[0] == 503
        arrive.set()
        assert [(await one)[0] for one in slow_ones] == [200] * 3
        assert (await call(app, "/v1/predict", predict_body()))[0] == 200
        for body in (b"junk", predict_body(b"junk"), predict_body(task=1)):  # a place is given back whatever happens
            for _ in range(5):
                assert (await call(app, "/v1/predict", body))[0] in (415, 422)

    run(scenario, FakeWorker(answers=True), queue=1, batch_size=1)


def test_a_late_request_is_504_and_its_work_is_skipped():
    async def scenario(app, worker):
        batcher = app.state.service.batcher
        for seconds in (0.6, 30):  # a full window before it, of which one is late while it is made
            batcher.submit(
                of_bytes(PICTURE, app.state.service.settings), [Ask("<OD>")], PLAIN, time.monotonic() + seconds
            )
        answer = await call(app, "/v1/predict", predict_body())
        assert answer[0] == 504 and error_in(answer)["type"] == "timeout"
        assert [work.number for work in works(worker)] == [1, 2] and batcher.load == (0, 2)
        await until(lambda: batcher.load == (0, 1))
        assert worker.sent[-1] == Cancel(1)
        answer = asyncio.ensure_future(call(app, "/v1/predict", predict_body()))
        await until(lambda: len(works(worker)) == 3)
        worker.answer(works(worker)[2])
        assert (await answer)[0] == 200

    run(scenario, batch_size=1, timeout_s=0.3)


def test_a_client_that_leaves_is_dropped_before_its_batch():
    async def scenario(app, worker):
        stays = [asyncio.ensure_future(call(app, "/v1/predict", predict_body())) for _ in range(2)]
        await until(lambda: len(works(worker)) == 2)
        gone = asyncio.Event()
        leaver = asyncio.ensure_future(call(app, "/v1/predict", predict_body(), leaves=gone))
        await until(lambda: app.state.service.batcher.load == (1, 2))  # it is the third
        after = asyncio.ensure_future(call(app, "/v1/predict", predict_body()))
        await until(lambda: app.state.service.batcher.load == (2, 2))
        gone.set()
        await leaver
        assert app.state.service.batcher.load == (1, 2)
        for done in range(3):
            await until(lambda done=done: len(works(worker)) > done)
            worker.answer(works(worker)[done])
        assert [(await one)[0] for one in (*stays, after)] == [200] * 3
        assert [work.number for work in works(worker)] == [1, 2, 4]  # the third is the one that left

    run(scenario, batch_size=1)


def test_a_client_that_leaves_while_its_answer_is_made_is_cancelled():
    async def scenario(app, worker):
        gone = asyncio.Event()
        leaver = asyncio.ensure_future(call(app, "/v1/predict", predict_body(), leaves=gone))
        await until(lambda: works(worker))
        gone.set()
        await leaver
        assert worker.sent[-1] == Cancel(1)

    run(scenario)


def test_the_requests_of_a_worker_that_dies_are_tried_alone_and_the_culprit_fails_alone():
    async def scenario(app, worker):
        asked = [asyncio.ensure_future(call(app, "/v1/predict", predict_body())) for _ in range(4)]
        await until(lambda: len(works(worker)) == 4)
        worker.die()  # all four were with it
        for tried in (5, 6, 7, 8, 9):  # one at a time, the third twice
            await until(lambda tried=tried: len(works(worker)) == tried)
            assert works(worker)[-1].alone
            if works(worker)[-1].number == 3:
                worker.die()
            else:
                worker.answer(works(worker)[-1])
        answers = sorted([await one for one in asked], key=lambda answer: answer[0])
        assert [answer[0] for answer in answers] == [200, 200, 200, 500]
        assert error_in(answers[3])["type"] == "worker_died"
        assert worker.links == 4 and app.state.service.batcher.ready

    run(scenario)


def test_a_worker_that_hangs_is_replaced():
    async def scenario(app, worker):
        asked = asyncio.ensure_future(call(app, "/v1/predict", predict_body()))
        await until(lambda: worker.killed)
        worker.die()
        await until(lambda: len(works(worker)) == 2)
        worker.answer(works(worker)[1])
        assert (await asked)[0] == 200

    run(scenario, hang_s=0.1)


def test_a_model_that_cannot_be_loaded_is_said_and_nothing_waits():
    async def scenario(app, worker):
        for _ in range(5):
            worker.die()
        assert (await call(app, "/readyz", method="GET"))[0] == 503
        answer = await call(app, "/v1/predict", predict_body())
        assert answer[0] == 503 and error_in(answer)["type"] == "not_ready"
        assert (await call(app, "/healthz", method="GET"))[0] == 200

    run(scenario, FakeWorker(ready=False))


def test_before_the_model_is_warm_readyz_says_so():
    async def scenario(app, worker):
        answer = await call(app, "/readyz", method="GET")
        assert answer[0] == 503 and "retry-after" in answer[1]
        assert (await call(app, "/v1/predict", predict_body()))[0] == 503
        worker.begin()
        assert (await call(app, "/readyz", method="GET"))[0] == 200

    run(scenario, FakeWorker(ready=False))


def test_bytes_are_limited_while_they_stream_in():
    taken = []

    async def endless():
        while True:
            taken.append(1)
            yield b"x" * 10_000

    async def scenario(app, worker):
        answer = await call(app, "/v1/predict", chunks=endless())
        assert answer[0] == 413 and error_in(answer)["type"] == "too_large"
        assert len(taken) < 20
        taken.clear()
        form = {"content-type": "multipart/form-data; boundary=b"}
        head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'

        async def form_body():
            yield head
            async for chunk in endless():
                yield chunk

        assert (await call(app, "/v1/predict", chunks=form_body(), headers=form))[0] == 413
        assert len(taken) < 20
        announced = await call(app, "/v1/predict", b"{}", headers={"content-length": "1000000"})
        assert announced[0] == 413

    run(scenario, max_bytes=100_000)


def test_a_body_that_does_not_arrive_is_408():
    async def slow():
        yield b"{"
        await asyncio.sleep(20)

    async def scenario(app, worker):
        start = time.monotonic()
        assert (await call(app, "/v1/predict", chunks=slow()))[0] == 408
        assert time.monotonic() - start < 5

    run(scenario, timeout_s=0.3)


def picture_file(format, **options):
    out = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(out, format, **options, append_images=frames[1:] if options else [])
    return out.getvalue()


IMAGES = [  # what is sent -> status, type
    (b"no picture at all", 415, "image_not_an_image"),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, 415, None),
    (picture_file("GIF", save_all=True), 415, "image_animated"),
    (picture_file("PNG", save_all=True), 415, "image_animated"),
    (picture_file("WEBP", save_all=True), 415, "image_animated"),
    (picture_file("TIFF", save_all=True), 415, "image_animated"),
    (encode(np.zeros((1000, 1001, 3), np.uint8)), 413, "image_too_large"),
    ("not base64!", 422, "invalid_request"),
    ("data:image/png;base64,****", 422, "invalid_request"),
    ("file:///etc/passwd", 422, "invalid_request"),
    ("/etc/passwd0", 415, None),  # base64 by its letters, no picture by its bytes
    ("http://127.0.0.1/a.png", 422, "invalid_request"),
    ("https://example.org/a.png", 422, "invalid_request"),
]


@pytest.mark.parametrize(("image", "status", "kind"), IMAGES)
def test_what_is_no_still_picture_is_refused(image, status, kind):
    async def scenario(app, worker):
        answer = await call(app, "/v1/predict", predict_body(image))
        assert answer[0] == status, answer
        assert error_in(answer)["field"] == "image"
        assert kind in (None, error_in(answer)["type"])
        assert not worker.sent

    run(scenario, max_pixels=1_000_000)


def test_addresses_are_fetched_where_allowed_and_by_the_one_checked_way(monkeypatch):
    seen = []

    def fetch(url, rules):
        seen.append((url, rules))
        if "inside" in url:
            raise fetching.BadImage(url, "private_address", "inside.example.org is 10.0.0.7")
        return PICTURE

    monkeypatch.setattr("florence2.serving.image_input.fetch", fetch)

    async def scenario(app, worker):
        answer = await call(app, "/v1/predict", predict_body("https://example.org/a.png"))
        assert answer[0] == 200 and works(worker)[0].image == PICTURE
        answer = await call(app, "/v1/predict", predict_body("https://inside.example.org/a.png"))
        assert answer[0] == 422 and error_in(answer)["type"] == "image_private_address"
        assert b"10.0.0.7" not in answer[2]

    run(scenario, FakeWorker(answers=True), url_hosts=("example.org", "inside.example.org"), max_bytes=1 << 20)
    assert seen[0][1].hosts == ("example.org", "inside.example.org") and seen[0][1].max_bytes == 1 << 20
    assert seen[0][1].seconds <= 60


def test_a_key_is_asked_for_on_every_route_but_health():
    async def scenario(app, worker):
        paths = [(path, method) for path, methods in app.openapi()["paths"].items() for method in methods]
        assert len(paths) >= 8
        for path, method in [*paths, ("/openapi.json", "get"), ("/no/such/path", "get"), ("/", "get")]:
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic " + "x" * 9}):
                answer = await call(app, path, method=method.upper(), headers=headers)
                if path in ("/healthz", "/readyz"):
                    assert answer[0] == 200
                else:
                    assert answer[0] == 401, (path, answer)
                    assert error_in(answer)["type"] == "unauthorized" and "www-authenticate" in answer[1]
        basic = base64.b64encode(b"Ada:other").decode()
        for given in ("Bearer secret", "bearer secret", "Bearer other", f"Basic {basic}"):
            assert (await call(app, "/v1/models", method="GET", headers={"authorization": given}))[0] == 200

    run(scenario, FakeWorker(answers=True), api_keys=("secret", "other"))


def test_keys_are_compared_in_constant_time(monkeypatch):
    compared = []
    monkeypatch.setattr("florence2.serving.gate.hmac.compare_digest", lambda a, b: compared.append((a, b)) or a == b)

    async def scenario(app, worker):
        await call(app, "/v1/models", method="GET", headers={"authorization": "Bearer one"})
        assert compared == [(b"one", b"one"), (b"one", b"two")]  # all of them, though the first fits

    run(scenario, api_keys=("one", "two"))


def test_other_origins_and_names_are_refused():
    async def scenario(app, worker):
        for headers, status in [
            ({}, 200),
            ({"host": "localhost:8000"}, 200),
            ({"host": "[::1]:8000"}, 200),
            ({"host": "evil.example:8000"}, 421),
            ({"host": ""}, 421),
            ({"origin": "http://127.0.0.1:8000"}, 200),
            ({"origin": "http://evil.example"}, 403),
            ({"origin": "null"}, 403),
        ]:
            answer = await call(app, "/v1/models", method="GET", headers=headers)
            assert answer[0] == status, headers
        assert (await call(app, "/healthz", method="GET", headers={"host": "probe"}))[0] == 200

    run(scenario)


def test_an_unexpected_fault_is_a_plain_500(monkeypatch, caplog):
    def fail(*arguments):
        raise KeyError("/secret/path/to/weights")

    monkeypatch.setattr("florence2.serving.image_input.of_text", fail)

    async def scenario(app, worker):
        answer = await call(app, "/v1/predict", predict_body())
        assert answer[0] == 500 and error_in(answer)["type"] == "internal"
        assert b"secret" not in answer[2] and b"Traceback" not in answer[2]

    run(scenario)
    assert "KeyError" in caplog.text  # the log has what the client has not


def test_paths_and_methods_that_are_not_there():
    async def scenario(app, worker):
        assert error_in(await call(app, "/v1/nothing", method="GET"))["type"] == "not_found"
        answer = await call(app, "/v1/predict", method="GET")
        assert answer[0] == 405 and error_in(answer)["type"] == "method_not_allowed"

    run(scenario)


def test_metrics_count_what_happens():
    async def scenario(app, worker):
        await call(app, "/v1/predict", predict_body())
        await call(app, "/v1/predict", predict_body(b"no picture"))
        text = (await call(app, "/metrics", method="GET"))[2].decode()
        for line in (
            'florence2_requests_total{route="/v1/predict",status="200"} 1.0',
            'florence2_requests_total{route="/v1/predict",status="415"} 1.0',
            'florence2_answers_total{task="OD"} 1.0',
            'florence2_tokens_total{kind="generated"} 2.0',
            'florence2_image_cache_total{result="miss"} 1.0',
            "florence2_queue_requests 0.0",
            "florence2_running_requests 0.0",
            "florence2_ready_workers 1.0",
        ):
            assert line in text.splitlines()
        names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        assert all(name.startswith(("florence2_", "python_", "process_")) for name in names)
        assert {"process_resident_memory_bytes", "florence2_request_seconds", "florence2_batch_asks"} <= names

    run(scenario, FakeWorker(answers=True))


def test_a_server_without_a_model_says_so(tmp_path):
    store = florence2.annotate(folder_of(tmp_path, 1), tmp_path / "s", [Boxes()], workers=0)

    async def main():
        app = create_app(Settings(store=str(store.root)))
        async with started(app):
            assert (await call(app, "/readyz", method="GET"))[0] == 200
            assert json.loads((await call(app, "/v1/models", method="GET"))[2])["data"] == []
            assert (await call(app, "/v1/predict", predict_body()))[0] == 404

    asyncio.run(main())


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "MODEL"),
        ({"model": "nano", "queue": 0}, "queue"),
        ({"model": "nano", "timeout_s": 0}, "timeout_s"),
        ({"model": "nano", "port": 70000}, "port"),
        ({"model": "nano", "api_keys": ("",)}, "api_key"),
        ({"model": "nano", "max_bytes": 10}, "max_bytes"),
        ({"model": "nano", "allowed_hosts": ("https://example.org",)}, "allow_host"),
        ({"model": "nano", "allowed_hosts": ("example.org:8000",)}, "allow_host"),
        ({"model": "nano", "allowed_hosts": ("",)}, "allow_host"),
        ({"model": "nano", "url_hosts": ("",)}, "allowed host"),
        ({"model": "nano", "url_hosts": ("example.org:https",)}, "allowed host"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, word):
    with pytest.raises(ValueError, match=word):
        Settings(**given)


def test_names_by_which_a_server_may_go():
    names = ("localhost", "example.org", "gpu_1", "::1", "10.0.0.7")
    assert Settings(model="nano", allowed_hosts=names).allowed_hosts == names


def test_it_listens_on_this_machine_alone_unless_told():
    assert Settings(model="nano").host == "127.0.0.1"


def test_the_models_name_is_no_path():
    assert Settings(model="/home/ada/models/best").model_name == "best"
    assert Settings(model="microsoft/Florence-2-base").model_name == "Florence-2-base"

"""The server as a process: killed workers, SIGTERM, several processes, what it prints."""

import base64
import os
import re
import signal
import socket
import threading
import time

import httpx
import pytest

from florence2 import cli
from florence2.records import Ask
from tests.serving.running import RunningServer, children, is_open, processes
from tests.serving.test_predict_route import assert_same

LONG = {"task": "MORE_DETAILED_CAPTION"}


def ask(url, picture, data, **more):
    return httpx.post(url + "/v1/predict", data=data, files={"image": picture}, timeout=60, **more)


def in_threads(count, work):
    """The results of `work(number)`, run at once."""
    results = [None] * count

    def run(number):
        results[number] = work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


def test_a_web_socket_is_refused_without_a_fault(server):
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sent:
        sent.sendall(f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{upgrade}{key}\r\n".encode())
        status = int(sent.recv(4096).split()[1])
    # without a library for web sockets uvicorn answers as if none was asked for
    assert status in (200, 403) and not [line for line in server.lines if "handshake" in line]


def test_sigterm_answers_what_came_closes_the_port_and_exits(nano, scene):
    with RunningServer("nano", "--batch-size", "1", "--threads", "1") as server:
        server.wait_ready()
        hosts = children(server.process.pid)
        workers = server.worker_pids()
        threads, results = in_threads(6, lambda number: ask(server.url, scene, LONG))
        while httpx.get(server.url + "/metrics").text.count("florence2_running_requests 2.0") == 0:
            time.sleep(0.01)
        port = server.port
        assert server.stop() == 0
        for thread in threads:
            thread.join(5)
        for answer in results:
            assert answer.status_code == 200
            assert_same(answer.json()["answers"][0], nano.predict(scene, "<MORE_DETAILED_CAPTION>"))
        assert not is_open(port)
        end = time.monotonic() + 5
        while left := {*hosts, *workers} & set(processes()):
            assert time.monotonic() < end, left
            time.sleep(0.05)
        assert "".join(server.lines).count("\n") == 1  # the line that it listens


def test_a_killed_worker_loses_no_request(server, nano, scene):
    alone = nano.predict(scene, "<CAPTION>")
    for _ in range(3):
        threads, results = in_threads(4, lambda number: ask(server.url, scene, {"task": "CAPTION"}))
        time.sleep(0.05)
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        for thread in threads:
            thread.join(60)
        for answer in results:
            assert answer.status_code == 200, answer.text
            assert_same(answer.json()["answers"][0], alone)
    server.wait_ready()
    deaths = re.search(r"florence2_worker_deaths_total (\d+)", httpx.get(server.url + "/metrics").text)
    assert int(deaths[1]) == 3


def test_several_processes_share_the_port_the_weights_and_the_counts(nano, scene):
    key = {"FLORENCE2_API_KEY": "secret"}
    with RunningServer("nano", "--processes", "2", env=key) as server:
        server.wait_ready()
        below = children(server.process.pid)
        assert len(below) == 3  # the model host and two servers
        headers = {"Authorization": "Bearer secret"}
        assert ask(server.url, scene, {"task": "OD"}).status_code == 401
        threads, results = in_threads(12, lambda number: ask(server.url, scene, {"task": "OD"}, headers=headers))
        for thread in threads:
            thread.join(60)
        alone = nano.predict(scene, "<OD>")
        for answer in results:
            if answer.status_code == 503:  # one of the two is not ready yet, and says so
                assert answer.json()["error"]["type"] == "not_ready"
            else:
                assert_same(answer.json()["answers"][0], alone)
        good = sum(answer.status_code == 200 for answer in results)
        text = httpx.get(server.url + "/metrics", headers=headers).text
        counted = re.findall(r'florence2_requests_total\{route="/v1/predict",status="200"\} (\S+)', text)
        assert good and [float(count) for count in counted] == [good]
        host = next(pid for pid in below if children(pid))
        assert len(children(host)) == 2  # both workers are forks of the one that loaded
        os.kill(next(pid for pid in below if pid != host), signal.SIGKILL)
        end = time.monotonic() + 60
        while len(children(server.process.pid)) < 3 or not children(host)[1:]:
            assert time.monotonic() < end
            time.sleep(0.1)
        port = server.port
        assert server.stop() == 0 and not is_open(port)


def test_a_model_that_is_not_there_is_one_line(tmp_path, capsys):
    with RunningServer(str(tmp_path / "nothing")) as server:
        assert server.process.wait(60) == 1
        server._reader.join(5)
        assert len([line for line in server.lines if "no such folder" in line]) == 1


def test_a_port_that_is_taken_is_one_line(server, capsys):
    assert cli.main(["serve", "nano", "--port", str(server.port)]) == 1
    err = capsys.readouterr().err
    assert f"127.0.0.1:{server.port}" in err and err.count("\n") == 1


def test_the_body_is_refused_while_it_is_sent(server):
    """A client that sends without end, with and without saying how much, hears 413."""

    def endless():
        for _ in range(400):
            yield b"x" * 100_000

    headers = {"Content-Type": "application/json"}
    assert httpx.post(server.url + "/v1/predict", content=endless(), headers=headers, timeout=30).status_code == 413
    data = {"image": base64.b64encode(b"x" * 3_000_000).decode(), "asks": [{"task": "OD"}]}
    assert httpx.post(server.url + "/v1/predict", json=data, timeout=30).status_code == 413
    assert httpx.get(server.url + "/healthz").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/static/dom.js", "/sample/3", "/v1/tasks", "/v1/x"],
)
def test_head_is_get_without_its_body(server, path):
    whole, head = httpx.get(server.url + path), httpx.head(server.url + path)
    assert head.status_code == whole.status_code and head.content == b"" != whole.content
    both = {"content-type", "cache-control", "content-security-policy", "content-length"} - (
        {"content-length"} if path == "/metrics" else set()  # each asking is counted
    )
    assert {name: head.headers.get(name) for name in both} == {name: whole.headers.get(name) for name in both}


def test_head_of_what_is_posted_to_is_405(server):
    assert httpx.head(server.url + "/v1/predict").headers["allow"] == "POST"
    assert httpx.post(server.url + "/healthz").headers["allow"] == "GET, HEAD"


def test_the_front_holds_no_model(server):
    """A server process is small: torch is in the worker alone."""
    maps = open(f"/proc/{server.process.pid}/maps").read()
    assert "libtorch" not in maps
    assert any("libtorch" in open(f"/proc/{pid}/maps").read() for pid in server.worker_pids())


def test_equal_asks_equal_answers_whatever_shares_the_batch(server, nano, scene):
    asks = ["OD", "CAPTION", "DETAILED_CAPTION", "OCR"]
    threads, results = in_threads(16, lambda number: ask(server.url, scene, {"task": asks[number % 4]}))
    for thread in threads:
        thread.join(60)
    for number, answer in enumerate(results):
        assert_same(answer.json()["answers"][0], nano.predict(scene, Ask(asks[number % 4])))

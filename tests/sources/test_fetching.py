"""Fetching: what is not allowed is never connected to; whatever a host does ends in bytes or in one reason word."""

import socket
import threading
import time

import pytest

from florence2.pixels import BadImage
from florence2.sources.fetching import Fetching, fetch, is_public

BODY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


def head(status="200 OK", *lines):
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "", "")).encode()


ANSWERS = {  # path -> what the host sends, then closes; a float in it is a pause
    "/ok.png": [head("200 OK", "Content-Type: image/png", f"Content-Length: {len(BODY)}"), BODY],
    "/untold.png": [head("200 OK"), BODY],
    "/chunked.png": [head("200 OK", "Transfer-Encoding: chunked"), b"5\r\nhello\r\n0\r\n\r\n"],
    "/a%20b.png?q=1": [head("200 OK", "Content-Type: image/png"), BODY],
    "/moved": [head("302 Found", "Location: /ok.png")],
    "/away": [head("301 Moved", "Location: http://other.test:{port}/ok.png")],
    "/inward": [head("302 Found", "Location: http://inner.test:{port}/ok.png")],
    "/file": [head("302 Found", "Location: file:///etc/passwd")],
    "/loop": [head("302 Found", "Location: /loop")],
    "/404": [head("404 Not Found", "Content-Length: 3"), b"no!"],
    "/busy": [head("503 Service Unavailable")],
    "/page": [head("200 OK", "Content-Type: text/html"), b"<html>"],
    "/packed": [head("200 OK", "Content-Type: image/png", "Content-Encoding: gzip"), BODY],
    "/announced": [head("200 OK", "Content-Length: 99999999999")],
    "/endless": [head("200 OK", "Content-Type: image/png"), *[b"x" * 4096] * 1000],
    "/short": [head("200 OK", "Content-Length: 5000"), b"x" * 100],
    "/nothing": [head("200 OK", "Content-Length: 0")],
    "/slow": [head("200 OK", "Content-Length: 5000"), *[b"x", 0.1] * 100],
    "/slowhead": [b"HTTP/1.1 200 OK\r\n", *[b"X", 0.1] * 100],
    "/silent": [20.0],
    "/garbage": [b"\x00\x01not http\r\n\r\n"],
    "/hangup": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def port():
    """A host on this machine that answers as the table says."""
    listener = socket.create_server(("127.0.0.1", 0))
    number = listener.getsockname()[1]
    asked.clear()

    def answer(connection):
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                more = connection.recv(4096)
                if not more:
                    return
                request += more
            path = request.split(b" ")[1].decode()
            asked.append((path, dict(line.split(": ", 1) for line in request.decode().split("\r\n")[1:-2])))
            for part in ANSWERS.get(path, []):
                try:
                    if isinstance(part, float):
                        time.sleep(min(part, 2.0))
                    else:
                        connection.sendall(part.replace(b"{port}", str(number).encode()))
                except OSError:
                    return

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield number
    listener.close()


asked: list = []
NAMES = {"pictures.test": ["127.0.0.1"], "other.test": ["127.0.0.1"], "inner.test": ["10.0.0.7"], "none.test": []}


def rules(port, **changes):
    hosts = tuple(f"http://{name}:{port}" for name in NAMES if name != "other.test")
    return Fetching(**{"hosts": hosts, "seconds": 5.0, "max_bytes": 100_000, **changes})


def get(path, port, host="pictures.test", **changes):
    """Fetch from the host; its own address counts as public, those of the table do not."""
    return fetch(
        f"http://{host}:{port}{path}", rules(port, **changes), lambda h, p: NAMES[h], {"127.0.0.1"}.__contains__
    )


def refused(*args, **more):
    with pytest.raises(BadImage) as caught:
        get(*args, **more)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return caught.value.reason


def test_a_picture_comes_whole(port):
    assert get("/ok.png", port) == get("/untold.png", port) == get("/moved", port) == get("/a b.png?q=1", port) == BODY
    assert get("/chunked.png", port) == b"hello"
    path, headers = asked[0]
    assert path == "/ok.png" and headers["Host"] == f"pictures.test:{port}"
    assert headers["Accept-Encoding"] == "identity" and "Cookie" not in headers


@pytest.mark.parametrize(
    "path, reason",
    [
        ("/away", "host_not_allowed"),  # a redirect to a host that is not named
        ("/inward", "private_address"),  # a redirect to a named host that is inside
        ("/file", "bad_url"),
        ("/loop", "too_many_redirects"),
        ("/404", "http_404"),
        ("/busy", "http_503"),
        ("/page", "wrong_type"),
        ("/packed", "wrong_type"),
        ("/announced", "too_large"),
        ("/endless", "too_large"),
        ("/short", "truncated"),
        ("/nothing", "empty"),
        ("/garbage", "unreachable"),
        ("/hangup", "unreachable"),
    ],
)
def test_what_a_host_does_wrong_is_one_word(port, path, reason):
    assert refused(path, port) == reason


@pytest.mark.parametrize("path", ["/slow", "/slowhead", "/silent"])
def test_a_slow_host_is_left_when_the_time_is_over(port, path):
    begun = time.monotonic()
    assert refused(path, port, seconds=0.4) == "timeout"
    assert time.monotonic() - begun < 1.5


def test_no_redirect_is_followed_where_none_is_allowed(port):
    assert refused("/moved", port, redirects=0) == "too_many_redirects"


def test_nothing_private_is_connected_to(port):
    asked.clear()
    assert refused("/ok.png", port, host="inner.test") == "private_address"
    assert refused("/ok.png", port, host="none.test") == "unknown_host"
    assert refused("/ok.png", port, host="evil.test") == "host_not_allowed"
    real = Fetching(
        hosts=(
            f"http://127.0.0.1:{port}",
            f"http://localhost:{port}",
            f"http://2130706433:{port}",
            f"http://[::1]:{port}",
        )
    )
    for host in ("127.0.0.1", "localhost", "2130706433", "[::1]"):
        with pytest.raises(BadImage, match="not a public address") as caught:  # the real look-up, the real rule
            fetch(f"http://{host}:{port}/ok.png", real)
        assert caught.value.reason == "private_address"
    assert asked == []


def test_a_host_is_looked_up_once_and_all_its_addresses_count(port):
    looked = []

    def rebinding(host, number):
        looked.append(host)
        return ["127.0.0.1"] if len(looked) == 1 else ["10.0.0.7"]

    own = {"127.0.0.1"}.__contains__
    assert fetch(f"http://pictures.test:{port}/ok.png", rules(port), rebinding, own) == BODY and len(looked) == 1
    with pytest.raises(BadImage, match=r"is 10.0.0.7, which is not") as caught:  # one public address does not help
        fetch(f"http://pictures.test:{port}/ok.png", rules(port), lambda h, p: ["127.0.0.1", "10.0.0.7"], own)
    assert caught.value.reason == "private_address"
    with pytest.raises(BadImage, match="not found in time"):
        fetch(f"http://pictures.test:{port}/x", rules(port, seconds=0.1), lambda h, p: time.sleep(1) or [], own)


@pytest.mark.parametrize(
    "address, public",
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("64:ff9b::5db8:d822", True),  # NAT64 of a public address
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),  # where clouds keep their keys
        ("100.64.0.1", False),  # carrier's own
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", False),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),  # NAT64 of 127.0.0.1
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::", False),  # 6to4 of 127.0.0.1
        ("2001:0:53aa:64c:0:fbff:f5ff:fffe", False),  # Teredo
    ],
)
def test_what_a_public_address_is(address, public):
    assert is_public(address) == public


@pytest.mark.parametrize(
    "url, reason",
    [
        ("ftp://example.org/a.png", "bad_url"),
        ("file:///etc/passwd", "bad_url"),
        ("https:///a.png", "bad_url"),
        ("https://example.org:x/a.png", "bad_url"),
        ("https://example.org@evil.test/a.png", "bad_url"),
        ("not an address", "bad_url"),
        ("http://example.org/a.png", "host_not_allowed"),  # https only, where the entry does not say http
        ("https://example.org:8443/a.png", "host_not_allowed"),
        ("https://example.org.evil.test/a.png", "host_not_allowed"),
        ("https://badexample.org/a.png", "host_not_allowed"),
        ("https://sub.example.org/a.png", "host_not_allowed"),
        ("https://EXAMPLE.org./a.png", "private_address"),  # allowed; its address is not
        ("https://cdn.example.net/a.png", "private_address"),
        ("https://example.net/a.png", "host_not_allowed"),  # *. means its subdomains
    ],
)
def test_what_the_list_of_hosts_means(url, reason):
    with pytest.raises(BadImage) as caught:
        fetch(url, Fetching(hosts=("example.org", "*.example.net")), lambda h, p: ["10.0.0.1"])
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "host", ["", " ", "ftp://a.org", "a.org/b", "a.org:https", "a b.org", "[::1", "*a.org", "u@a.org"]
)
def test_what_names_no_host_is_refused_before_anything_is_asked(host):
    with pytest.raises(ValueError, match="allowed host .*expected a name"):
        Fetching((host,))


def test_nothing_is_allowed_by_default():
    with pytest.raises(BadImage, match=r"not among the allowed hosts \(none\)"):
        fetch("https://example.org/a.png", Fetching())


def test_https_is_never_spoken_in_the_clear(port):
    asked.clear()
    rules = Fetching(hosts=(f"pictures.test:{port}",), seconds=0.5)
    with pytest.raises(BadImage) as caught:  # the host speaks no TLS
        fetch(f"https://pictures.test:{port}/ok.png", rules, lambda h, p: ["127.0.0.1"], {"127.0.0.1"}.__contains__)
    assert caught.value.reason == "timeout" and asked == []

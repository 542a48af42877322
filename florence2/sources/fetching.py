"""The one function that fetches a picture from an address: `fetch`. Nothing else in this package opens a URL of data.

What is not allowed is refused before a byte is sent: only named hosts, https unless a host is named with http://, and
only public addresses. A host is resolved once, all of its addresses are checked, and the checked address is the one
that is connected to; each redirect goes through the same checks. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urljoin, urlsplit

from florence2.labels import one_line
from florence2.pixels import BadImage

AGENT = "florence2 (pictures for annotation)"
PORTS = {"https": 443, "http": 80}
REDIRECTS = (301, 302, 303, 307, 308)
BLOCK = 1 << 16
_HOST = re.compile(  # of an allow-list: a scheme, a name, a port
    r"(?:(https?)://)?(\*|(?:\*\.)?[\w-]+(?:\.[\w-]+)*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.IGNORECASE
)
_QUERY = "/%:@!$&'()*+,;=~?"
# IPv6 forms that carry or stand for an IPv4 address: mapped, compatible, 6to4, Teredo, local NAT64
_CARRIERS = [ipaddress.ip_network(n) for n in ("::/96", "::ffff:0:0/96", "2002::/16", "2001::/32", "64:ff9b:1::/48")]
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # how an IPv6-only network reaches all of IPv4

Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True)
class Fetching:
    """What may be fetched, and how much of it."""

    hosts: tuple[str, ...] = ()
    """Allowed hosts: example.org, *.example.org (subdomains), example.org:8443, http://example.org, or * for any."""
    seconds: float = 30.0
    """For one picture in all: name resolution, redirects, slow answers."""
    max_bytes: int = 64 << 20
    """A longer answer is refused, by what it announces or else by what it sends."""
    redirects: int = 3
    """How many are followed; 0 for none."""
    types: tuple[str, ...] = ("image/", "application/octet-stream", "binary/octet-stream")
    """Content types that are taken, by how they begin; an answer that names none is taken too."""

    def __post_init__(self) -> None:
        for host in self.hosts:
            if not _HOST.fullmatch(host.strip()):
                raise ValueError(
                    f"allowed host {host!r:.80}: expected a name such as example.org, *.example.org, example.org:8443, "
                    "http://example.org, or * for any"
                )


@dataclass(frozen=True)
class Target:
    """An address in parts."""

    url: str
    scheme: str
    host: str
    port: int
    path: str = field(repr=False)


def fetch(
    url: str, rules: Fetching, resolve: Resolve | None = None, public: Callable[[str], bool] | None = None
) -> bytes:
    """The bytes behind an address, under these rules; BadImage says in one word why not.

    Reasons: bad_url, host_not_allowed, private_address, unknown_host, unreachable, timeout, too_many_redirects,
    wrong_type, too_large, truncated, empty, http_404 and the like.
    """
    end = time.monotonic() + rules.seconds
    first = url
    for _ in range(rules.redirects + 1):
        target = _target(url, rules)
        addresses = _addresses(target, resolve or look_up, public or is_public, end)
        answer = _get(target, addresses, rules, end)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(target.url, answer)
    raise BadImage(first, "too_many_redirects", f"redirects more than {rules.redirects} times")


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the open internet; one that hides an IPv4 address in IPv6 is not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.is_site_local or any(ip in network for network in _CARRIERS):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_link_local)


def look_up(host: str, port: int) -> Sequence[str]:
    """A host's addresses, as numbers."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _target(url: str, rules: Fetching) -> Target:
    """An address in parts, allowed by its scheme, host and port."""
    try:
        parts = urlsplit(url.strip())
        host = (parts.hostname or "").rstrip(".").encode("idna").decode().lower()
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise BadImage(url, "bad_url", "is no address; expected https://HOST/PATH") from None
    if parts.scheme not in PORTS or not host or parts.username is not None:
        raise BadImage(url, "bad_url", "expected https://HOST/PATH, without a user's name")
    if not any(_allows(entry, parts.scheme, host, port) for entry in rules.hosts):
        named = ", ".join(rules.hosts) or "none"
        place = host if PORTS[parts.scheme] == port else f"{host}:{port}"
        place = place if parts.scheme == "https" else f"{parts.scheme}://{place}"
        raise BadImage(url, "host_not_allowed", f"{place} is not among the allowed hosts ({named})")
    query = f"?{quote(parts.query, safe=_QUERY)}" if parts.query else ""
    return Target(url, parts.scheme, host, port, quote(parts.path or "/", safe=_QUERY) + query)


def _allows(entry: str, scheme: str, host: str, port: int) -> bool:
    """Whether an entry of the allow-list holds for a host; it means https and the usual port where it says nothing."""
    found = _HOST.fullmatch(entry.strip().lower())
    if found is None or (found[1] or "https") != scheme or int(found[3] or PORTS[scheme]) != port:
        return False
    name = found[2].strip("[]")
    return name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))


def _addresses(target: Target, resolve: Resolve, public: Callable[[str], bool], end: float) -> Sequence[str]:
    """The host's addresses, each of them public; resolved once, in the time that is left."""
    found: list[Sequence[str]] = []
    failed: list[Exception] = []

    def ask() -> None:
        try:
            found.append(resolve(target.host, target.port))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(max(0.0, end - time.monotonic()))
    if failed or (found and not found[0]):
        raise BadImage(target.url, "unknown_host", f"{target.host} cannot be found")
    if not found:
        raise BadImage(target.url, "timeout", f"{target.host} was not found in time")
    inside = [address for address in found[0] if not public(address)]
    if inside:
        raise BadImage(target.url, "private_address", f"{target.host} is {inside[0]}, which is not a public address")
    return found[0]


def _get(target: Target, addresses: Sequence[str], rules: Fetching, end: float) -> bytes | str:
    """The body, or where a redirect leads. Whatever the host does, it ends when the time is over."""
    connection = http.client.HTTPConnection(target.host, target.port)
    watch: threading.Timer | None = None
    try:
        plain = _connected(target, addresses, end)
        connection.sock = plain
        if target.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(plain, server_hostname=target.host, do_handshake_on_connect=False)
        watch = threading.Timer(max(0.0, end - time.monotonic()), _cut, [connection.sock])
        watch.daemon = True
        watch.start()
        if isinstance(connection.sock, ssl.SSLSocket):
            connection.sock.do_handshake()
        host = f"[{target.host}]" if ":" in target.host else target.host
        usual = PORTS[target.scheme] == target.port
        headers = {"Host": host if usual else f"{host}:{target.port}", "User-Agent": AGENT}
        connection.request("GET", target.path, headers={**headers, "Accept": "image/*", "Accept-Encoding": "identity"})
        answer = _answer(target, connection.getresponse(), rules)
        if time.monotonic() >= end:  # an answer that was cut can look like one that ended
            raise TimeoutError
        return answer
    except (OSError, http.client.HTTPException, BadImage) as error:
        if time.monotonic() >= end:
            raise BadImage(target.url, "timeout", f"gave no whole answer in {rules.seconds:g} seconds") from None
        if isinstance(error, BadImage):
            raise
        reason = "truncated" if isinstance(error, http.client.IncompleteRead) else "unreachable"
        raise BadImage(target.url, reason, f"no whole answer ({one_line(error, 120)})") from None
    finally:
        if watch is not None:
            watch.cancel()
        connection.close()


def _connected(target: Target, addresses: Sequence[str], end: float) -> socket.socket:
    """A socket to the first checked address that answers: a number is connected to, no name is resolved again."""
    error: OSError = OSError("no address")
    for address in addresses:
        try:
            made = socket.create_connection((address, target.port), timeout=max(0.001, end - time.monotonic()))
            made.settimeout(None)  # from here the watch ends it
            return made
        except OSError as why:
            error = why
    raise error


def _cut(sock: socket.socket) -> None:
    """Wake whoever waits on a socket."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already


def _answer(target: Target, response: http.client.HTTPResponse, rules: Fetching) -> bytes | str:
    if response.status in REDIRECTS and response.headers.get("Location"):
        return response.headers["Location"]
    if response.status != 200:
        raise BadImage(target.url, f"http_{response.status}", f"answered {response.status} {response.reason}")
    kind = (response.headers.get("Content-Type") or "").split(";")[0].strip().lower()
    if kind and not kind.startswith(rules.types):
        raise BadImage(target.url, "wrong_type", f"is {kind:.60}, not one of {', '.join(rules.types)}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise BadImage(target.url, "wrong_type", "is packed, though it was asked for as it is")
    announced = response.length
    if announced is not None and announced > rules.max_bytes:
        raise BadImage(target.url, "too_large", f"announces {announced:,} bytes, over the limit of {rules.max_bytes:,}")
    data = bytearray()
    while block := response.read(BLOCK):
        data += block
        if len(data) > rules.max_bytes:
            raise BadImage(target.url, "too_large", f"sends more than the limit of {rules.max_bytes:,} bytes")
    if announced is not None and len(data) < announced:
        raise http.client.IncompleteRead(bytes(data[:0]), announced - len(data))
    if not data:
        raise BadImage(target.url, "empty", "is empty (0 bytes)")
    return bytes(data)

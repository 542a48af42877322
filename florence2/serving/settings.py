"""What a server is started with: one frozen record that the command line, the app and the worker processes share."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from florence2.sources.fetching import Fetching

LOOPBACK = ("127.0.0.1", "::1", "localhost")
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")
MAX_TOKENS = 1024


@dataclass(frozen=True)
class Settings:
    """How a server listens, what it serves and what a request may cost; contradictions are refused when it is made."""

    model: str = ""
    """What `florence2.load` takes; empty: no model, only a store is shown."""
    store: str = ""
    """The folder of a store to browse and correct; empty: none."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free port."""
    api_keys: tuple[str, ...] = ()
    """Empty: no key is asked for."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names by which the server may be addressed; empty: those of this machine when bound to it, else any."""
    queue: int = 64
    """Requests that may wait behind those in the batch; one more is answered 503."""
    timeout_s: float = 60.0
    """From a request's first byte to its answer; then 504."""
    max_bytes: int = 32 << 20
    """Of a request's body, and of a fetched picture."""
    max_pixels: int = 50_000_000
    max_asks: int = 16
    """Asks in one request."""
    max_tokens: int = MAX_TOKENS
    max_beams: int = 4
    url_hosts: tuple[str, ...] = ()
    """Hosts that pictures may be fetched from, as `sources.fetching.Fetching.hosts`; empty: URLs are refused."""
    batch_size: int = 8
    """Asks decoded together."""
    cache_bytes: int = 256 << 20
    """Memory for the features of pictures seen before, in each worker process."""
    processes: int = 1
    """Server processes behind the port, each with a worker process of its own."""
    threads: int = 0
    """Threads of a worker process; 0: the processors divided by `processes`."""
    device: str = "auto"
    dtype: str | None = None
    quantize: str | None = None
    speed: str = "exact"
    shared: str = ""
    """A folder that the processes of one server have in common; it ends with them."""
    hang_s: float = 120.0
    """A worker that gives no sign for so long while it has work is replaced."""

    def __post_init__(self) -> None:
        if not self.model and not self.store:
            raise ValueError("serve: expected a MODEL or --store STORE, got neither; name one")
        least = {"queue": 1, "max_bytes": 1024, "max_pixels": 1, "max_asks": 1, "max_tokens": 2, "max_beams": 1}
        least |= {"batch_size": 1, "cache_bytes": 0, "processes": 1, "threads": 0, "port": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}: expected at least {low}, got {getattr(self, name)}")
        for name in ("timeout_s", "hang_s"):
            if not 0 < getattr(self, name) < 1e6:
                raise ValueError(f"{name}: expected seconds above 0, got {getattr(self, name)}")
        if self.port > 65535:
            raise ValueError(f"port: expected at most 65535, got {self.port}")
        if any(not key.strip() or not key.isascii() or not key.isprintable() for key in self.api_keys):
            raise ValueError("api_key: expected printable ASCII, got an empty key or one with other letters")
        for name in self.allowed_hosts:
            if not _NAME.fullmatch(name) and not _is_address(name):
                raise ValueError(f"allow_host: expected a name such as example.org, without a port; got {name!r:.80}")
        Fetching(self.url_hosts)  # refuses what names no host

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in LOOPBACK

    @property
    def model_name(self) -> str:
        """How clients name the model: the last part of what was loaded, so that no path is shown."""
        return self.model.rstrip("/\\").replace("\\", "/").rpartition("/")[2] or "florence2"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

"""A server as a process of its own, as a user starts it; and a double for the worker behind an app in this process."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from florence2.codec.tasks import known_tasks
from florence2.serving.messages import Answered, Cancel, Done, Ready

ROOT = Path(__file__).parent.parent.parent


class RunningServer:
    """`florence2 serve ...` on a free port; what it prints is kept."""

    def __init__(self, *arguments, env=None):
        command = [sys.executable, "-m", "florence2", "serve", *arguments, "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.lines, self.url, self.hosts = [], "", set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if "listening on" in line:
                self.url = line.split()[-1]

    def wait_ready(self, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, "".join(self.lines)
            with contextlib.suppress(httpx.TransportError):
                if self.url and httpx.get(self.url + "/readyz").status_code == 200:
                    return self
            time.sleep(0.1)
        raise AssertionError("not ready: " + "".join(self.lines))

    @property
    def port(self):
        return int(self.url.rpartition(":")[2])

    def worker_pids(self):
        """The worker processes, those included whose model host was killed."""
        self.hosts |= {pid for pid in children(self.process.pid) if session(pid) == pid}
        return [pid for pid in processes() if session(pid) in self.hosts and pid not in self.hosts]

    def stop(self, seconds=90):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def children(pid):
    """The processes that a process started and that have not ended."""
    return [child for child in processes() if stat(child)[1:2] == [str(pid)]]


def processes():
    """All that have not ended."""
    return [pid for path in Path("/proc").glob("[0-9]*") if (stat(pid := int(path.name)) or ["Z"])[0] != "Z"]


def session(pid):
    """The process that a process's session began with; -1 where it has ended."""
    return int((stat(pid) or [0, 0, 0, -1])[3])


def stat(pid):
    """State, parent, group, session ... of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def is_open(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class FakeWorker:
    """A worker that answers when the test says so; `sent` is what it was sent."""

    def __init__(self, ready=True, answers=False):
        self.sent, self.links, self.killed = [], 0, 0
        self.ready, self.answers = ready, answers

    def connect(self, on_message, on_end):
        self.links += 1
        self.on_message, self.on_end = on_message, on_end
        self.begin = lambda: on_message(self, Ready(1, known_tasks(), 512, {}))
        if self.ready:
            asyncio.get_running_loop().call_soon(self.begin)
        return self

    def send(self, message):
        self.sent.append(message)
        if isinstance(message, Cancel):
            self.on_message(self, Done(message.number, (), dropped=True))
        elif self.answers:
            self.answer(message)

    def answer(self, work, text=b"{}"):
        self.on_message(self, Done(work.number, tuple(Answered(text, 3, 2) for _ in work.asks)))

    def die(self):
        """The connection ends; the app asks for the next worker."""
        self.on_end(self)

    def kill(self):
        self.killed += 1

    def close(self):
        pass


@contextlib.asynccontextmanager
async def started(app):
    """The app in this event loop, as a server would run it."""
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0)  # a double that is ready says so
        yield app


async def call(app, path, body=b"", headers=None, method="POST", leaves=None, chunks=None):
    """One request by ASGI: (status, headers, body), or None where the client left before an answer.

    `leaves`: an event after which the client is gone; `chunks`: an async iterator in place of `body`.
    """
    sent, whole = [], False

    async def receive():
        nonlocal whole
        if chunks is not None:
            async for chunk in chunks:
                return {"type": "http.request", "body": chunk, "more_body": True}
        if not whole:
            whole = True
            return {"type": "http.request", "body": body if chunks is None else b"", "more_body": False}
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    given = {"host": "127.0.0.1:8000", "content-type": "application/json", **(headers or {})}
    if chunks is None:
        given.setdefault("content-length", str(len(body)))
    else:
        given.setdefault("transfer-encoding", "chunked")
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "http", "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    if not sent:
        return None
    data = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, data

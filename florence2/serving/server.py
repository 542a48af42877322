"""`florence2 serve`: the port opened, one or several server processes behind it, all ended in good order.

    one process      this one serves; it starts the model host
    several          this one holds the port and the host, and starts, watches and stops the server processes

SIGTERM or Ctrl-C: the port is closed, requests that came are answered, then the process ends with code 0.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from florence2.serving.app import create_app
from florence2.serving.batcher import Connect
from florence2.serving.counters import SHARED
from florence2.serving.settings import Settings
from florence2.serving.stop_signal import StopSignal
from florence2.serving.worker_link import ModelHost, connect, hand_over

log = logging.getLogger(__name__)
BACKLOG = 2048
GRACE_S = 5.0  # beyond the longest request, until a process that stops is ended
TICK_S = 0.2
FAILURES_S = 60.0  # server processes that end within this time are counted; too many end the server
BROKEN = 3  # a server process's exit code where another one would end the same
_CODE = (
    "import sys; sys.path[:] = {path!r}; from florence2.serving.stop_signal import StopSignal; stop = StopSignal(); "
    "from florence2.serving.server import serve_inherited; "
    "sys.exit(serve_inherited({listening}, {asking}, {parent}, stop))"
)


def serve(settings: Settings, stop: StopSignal, on_listening: Callable[[str], None] | None = None) -> int:
    """Serve until `stop`; the exit code. `on_listening` is given the address once the port is open."""
    if settings.store:
        from florence2.store import Store  # what only serves a model does without Arrow

        Store(settings.store)  # refused before anybody is told that it is served
    listening = _listen(settings)
    if on_listening:
        on_listening(_address(listening))
    if settings.processes == 1:
        return _run(settings, listening, None, stop)
    return _supervise(settings, listening, stop)


def serve_inherited(listening: int, asking: int, parent: int, stop: StopSignal) -> int:
    """One of several server processes: its settings come by standard input, port and host by descriptors."""
    settings: Settings = pickle.loads(sys.stdin.buffer.read())
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    ask = functools.partial(connect, socket.socket(fileno=asking)) if asking >= 0 else None
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    try:
        return _run(settings, socket.socket(fileno=listening), ask, stop)
    except (ValueError, OSError) as error:
        print(f"florence2 serve: {error}", file=sys.stderr)
        return BROKEN


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def _run(settings: Settings, listening: socket.socket, ask: Connect | None, stop: StopSignal) -> int:
    """Serve in this process."""
    app = create_app(settings, ask)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(settings.timeout_s + GRACE_S),
    )
    server = uvicorn.Server(config)
    fault: list[str] = []
    service = app.state.service

    def broken() -> None:
        fault.append(service.batcher.fault)
        server.should_exit = True

    if service.batcher is not None:
        service.batcher.on_fault = broken
    stop.then(lambda: setattr(server, "should_exit", True))  # while uvicorn does not listen to signals itself
    server.run(sockets=[listening])
    if fault:
        raise ValueError(fault[0])
    return 0


def _supervise(settings: Settings, listening: socket.socket, stop: StopSignal) -> int:
    """Keep the server processes and the model host running until a signal comes."""
    folder = tempfile.mkdtemp(prefix="florence2-serve-")
    os.environ[SHARED] = os.path.join(folder, "metrics")
    settings = dataclasses.replace(settings, shared=os.path.join(folder, "listings"))
    for path in (os.environ[SHARED], settings.shared):
        os.mkdir(path)
    host = ModelHost(settings) if settings.model else None
    children: list[subprocess.Popen[bytes]] = []
    failures: list[float] = []
    try:
        while not stop.came and len(failures) < 5 * settings.processes:
            failures = [moment for moment in failures if moment > time.monotonic() - FAILURES_S]
            if host is not None:
                host.ensure()
            for child in [child for child in children if child.poll() is not None]:
                if child.returncode == BROKEN:
                    return 1
                log.warning("a server process ended with code %s; another one is started", child.returncode)
                failures.append(time.monotonic())
                children.remove(child)
                _forget_metrics(child.pid)
            while len(children) < settings.processes:
                children.append(_start(settings, listening, host))
            time.sleep(TICK_S)
        listening.close()
        return _stop(children, host, settings.timeout_s + 2 * GRACE_S) or int(not stop.came)
    finally:
        for child in children:
            child.kill()
        if host is not None:
            host.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _start(settings: Settings, listening: socket.socket, host: ModelHost | None) -> subprocess.Popen[bytes]:
    asking = host.asking.fileno() if host is not None else -1
    code = _CODE.format(path=sys.path, listening=listening.fileno(), asking=asking, parent=os.getpid())
    fds = [listening.fileno()] + ([asking] if asking >= 0 else [])
    child = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=fds, stdin=subprocess.PIPE, stdout=2, start_new_session=True
    )
    hand_over(child, pickle.dumps(settings))
    return child


def _stop(children: list[subprocess.Popen[bytes]], host: ModelHost | None, seconds: float) -> int:
    """Ask the processes to end and wait for them; 1 where one did not end well."""
    asked = [child for child in children if child.poll() is None]  # what had died before would have been replaced
    for child in asked:
        child.terminate()
    end = time.monotonic() + seconds
    while any(child.poll() is None for child in asked) and time.monotonic() < end:
        if host is not None:
            host.ensure()  # what is still answered may need a worker
        time.sleep(TICK_S / 4)
    return int(any(child.returncode not in (0, -signal.SIGTERM) for child in asked))  # one that was starting just ends


def _forget_metrics(pid: int) -> None:
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)


def _listen(settings: Settings) -> socket.socket:
    """The open port; OSError says which address could not be taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        place = f"{settings.host}:{settings.port}"
        raise OSError(
            f"{place}: cannot be listened on ({error.strerror or error}); choose another --host or --port"
        ) from None
    return listening


def _address(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def settings_of(**given: Any) -> Settings:
    """Settings of what was given; what is None keeps its default."""
    return Settings(**{name: value for name, value in given.items() if value is not None})

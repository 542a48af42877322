"""The model host: a process that loads the model once and forks a worker process for whoever asks over its socket.

A worker that died is replaced in the time of a fork, and all workers share the memory of the weights. Where a fork
cannot share (a GPU, another system than Linux) each worker loads its own. The host runs no model and starts no thread:
both would be unsafe to fork.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import select
import signal
import socket
import sys
from multiprocessing.connection import Connection
from typing import Any

from florence2.serving.messages import Broken
from florence2.serving.settings import Settings

TICK_S = 0.5


def main(control: int, parent: int) -> None:
    """Load what standard input names, then fork a worker for each connection that comes through `control`.

    SIGTERM is the server's, who still needs host and workers for what has come: a service manager sends it to all
    processes at once. They end when the server has: the host by its `parent`, a worker by its connection.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    path, settings = pickle.loads(sys.stdin.buffer.read())
    sys.path[:] = path
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    requests = socket.socket(fileno=control)
    model, fault = None, ""
    try:
        model = _load(settings, threads=1) if shares_memory(settings) else None
    except Exception as error:  # whatever it is, the server says it and ends
        fault = " ".join(str(error).split())[:900] or type(error).__name__
    gc.collect()
    gc.freeze()  # what is loaded stays in pages that all workers share
    while os.getppid() == parent:
        _reap()
        if not select.select([requests], [], [], TICK_S)[0]:
            continue
        _, fds, _, _ = socket.recv_fds(requests, 1, 1)
        for fd in fds:
            if fault:
                _send_fault(fd, fault)
            elif os.fork() == 0:
                requests.close()
                _work(fd, model, settings)
            os.close(fd)


def shares_memory(settings: Settings) -> bool:
    """Whether the weights of a forked process are those of its parent."""
    gpu = settings.device == "auto" and any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd")))
    return sys.platform == "linux" and settings.device in ("auto", "cpu") and not gpu


def _work(fd: int, model: Any, settings: Settings) -> None:
    """The life of a forked worker; it never returns."""
    connection = Connection(fd)
    try:
        import torch

        from florence2.serving.worker import Worker, warm

        threads = settings.threads or max(1, len(os.sched_getaffinity(0)) // settings.processes)
        if model is None:
            model = _load(settings, threads)
        torch.set_num_threads(threads)
        warm(model)
        Worker(model, connection, settings).run()
    except (ValueError, OSError) as error:
        if not isinstance(error, (BrokenPipeError, ConnectionResetError)):
            _send_fault(fd, " ".join(str(error).split())[:900])
    except BaseException:
        logging.getLogger(__name__).exception("a worker ended")
        os._exit(1)
    os._exit(0)


def _load(settings: Settings, threads: int) -> Any:
    import torch

    from florence2.predictor import load

    torch.set_num_threads(threads)
    return load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        quantize=settings.quantize,
        speed=settings.speed,
        static=False,  # requests join others that run
    )


def _send_fault(fd: int, fault: str) -> None:
    connection = Connection(os.dup(fd))
    try:
        connection.send(Broken(fault))
    except OSError:
        pass  # nobody listens any more
    connection.close()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

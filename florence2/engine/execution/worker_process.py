"""A worker process: receives what it holds, then jobs until its supervisor hangs up."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from multiprocessing.connection import Connection

from florence2.engine.execution.job_worker import JobWorker, Message


def serve(fd: int) -> None:
    """The worker's life."""
    _leave_with_parent()
    connection = Connection(fd)
    path, pickled = pickle.loads(connection.recv_bytes())
    sys.path[:] = path
    worker = JobWorker(pickled)

    def send(message: Message) -> None:
        try:
            connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            if message[0] not in ("done", "error"):
                raise  # there is nobody to work for; at a job's end the next receive says so

    while True:
        try:
            job, device, isolate, poison_images = connection.recv()
        except (EOFError, OSError):
            return
        worker.do(job, device, isolate, poison_images, send)


def _leave_with_parent() -> None:
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

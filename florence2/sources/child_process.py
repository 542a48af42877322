"""Tables are listed in a child process: a damaged one may end the process that reads it, and must not end the run.

The child reads a path a line and answers a line of JSON; one that dies or is silent is replaced for the next table.
"""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from florence2.object_store import NoAnswer
from florence2.sources.tables import Cell, Listing, listing
from florence2.structuring import parse_json

SECONDS = 600.0  # for one table
MAX_BYTES = 8 << 30  # of a child's own memory
_CODE = "import sys; sys.path[:] = {path!r}; from florence2.sources.child_process import serve; serve()"


def serve() -> None:
    """What the child does: list the tables that it is asked about, one after another."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass  # no such limits on this system
    for line in sys.stdin:
        try:
            answer = asdict(listing(os.fsdecode(bytes.fromhex(line.strip()))))
        except (ValueError, OSError, MemoryError) as error:
            answer = {"error": str(error) or type(error).__name__}
            if isinstance(error, NoAnswer):
                answer = {"no_answer": [error.strerror, error.filename]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


class TableLister:
    """Lists tables in a child that is started with the first of them; used in a `with` block."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> TableLister:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def list(self, path: str | Path) -> Listing:
        """The pictures of a table; ValueError says how it is damaged, also where it ended its reader.

        NoAnswer where it lies in an object store that is not reached.
        """
        with self._lock:
            child = self._child = self._child or self._start()
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(os.fsencode(path).hex().encode() + b"\n")
                child.stdin.flush()
                ready, _, _ = select.select([child.stdout], [], [], SECONDS)
                line = child.stdout.readline() if ready else b""
            except OSError:
                line = b""
            if not line.endswith(b"\n"):
                self._end()
                raise ValueError(f"{path}: not a whole table (it ends or hangs whoever reads it)")
        answer = parse_json(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        if "no_answer" in answer:
            raise NoAnswer(errno.EIO, *answer["no_answer"])
        return Listing([Cell(**cell) for cell in answer["cells"]], answer["left_out"], answer["passed_over"])

    def _start(self) -> subprocess.Popen[bytes]:
        code = _CODE.format(path=sys.path)
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

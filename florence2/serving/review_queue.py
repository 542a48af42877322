"""The order of `florence2 review` for the pages: computed in a process of its own, as it reads every record.

Until it is there pictures come in the store's order. A picture that was gone over since keeps its place.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import numpy as np

from florence2.store import PictureIndex, Snapshot, Store

log = logging.getLogger(__name__)
LAST = np.iinfo(np.int32).max
_CODE = (
    "import sys, os; os.nice(5); sys.path[:] = {path!r}; from florence2.serving.review_queue import write_order; "
    "write_order({store!r})"
)


def write_order(path: str) -> None:
    """What the process does: print the pictures worth a look, a line each."""
    from florence2.engine.curation.review_order import review_order

    for one in review_order(Store(path)):
        print(one.image_id)


class ReviewQueue:
    """The ranks of pictures, kept up with the store's snapshots."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._order: list[str] = []
        self._ranks: tuple[object, np.ndarray] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._begun, self._stopped = -1, False
        self.ready = False

    def follow(self, snapshot: Snapshot) -> None:
        """Compute the order anew, unless people's corrections are all that came since."""
        with self._lock:
            between = (self.store.snapshot(number) for number in range(self._begun + 1, snapshot.number))
            phases = (one.phase.get("phase") for one in (snapshot, *(between if self._begun >= 0 else ())))
            corrections = self._begun >= 0 and all(phase == "correct" for phase in phases)
            self._begun = snapshot.number
            if corrections or self._stopped:
                return
            self._end()
            code = _CODE.format(path=sys.path, store=str(self.store.root))
            self._process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        out, _ = process.communicate()
        with self._lock:
            if process is not self._process or self._stopped:
                return
            if process.returncode:
                log.error("the review order could not be computed")
                return
            self._order, self._ranks, self.ready = out.split(), None, True

    def ranks(self, index: PictureIndex) -> np.ndarray | None:
        """For each position its place in the queue, LAST for what nobody need look at; None while it is computed."""
        with self._lock:
            if not self.ready:
                return None
            if self._ranks is None or self._ranks[0] is not index.ids:
                ranks = np.full(len(index), LAST, np.int32)
                for rank, name in enumerate(self._order):
                    if name in index.place:
                        ranks[index.place[name]] = rank
                self._ranks = index.ids, ranks
            return self._ranks[1]

    def stop(self) -> None:
        """End the process."""
        with self._lock:
            self._stopped = True
            self._end()

    def _end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

"""A store behind the pages: its index, listings, pictures, thumbnails, and the one writer of corrections.

Reading and writing happen in threads of its own. What others add to the store is noticed and taken over; corrections
that come while one is being written are written together, each answered when it stands in the store. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from florence2 import pixels
from florence2.engine.curation.correcting import Correction, Outcome, correct
from florence2.pixels import BadImage
from florence2.serving.listing_files import ListingFiles
from florence2.serving.review_queue import ReviewQueue
from florence2.sources import file_types, files
from florence2.store import PictureIndex, PictureState, Store, Wanted

log = logging.getLogger(__name__)
LOOK_S = 0.5  # how long it may take until what others have added is noticed, where the store cannot say so at once
FOLLOW_S = 0.3  # that a reader waits for what another reader takes over
LISTINGS = 32  # kept, so that paging through one is not moved by corrections
THUMBNAIL_BYTES = 64 << 20
SIDES = (160, 320, 640)  # of thumbnails, the longer side in pixels
TOGETHER = 64  # corrections written into one snapshot
THREADS = 3
SHOWN = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}


@dataclass(frozen=True)
class PictureListing:
    """The positions of pictures that fit a filter, in an order, as of one index."""

    name: str
    positions: np.ndarray
    index: PictureIndex


@dataclass(frozen=True)
class PictureFileBytes:
    """A picture for a browser: its file as it lies, or made anew where browsers cannot show that."""

    data: bytes
    media_type: str


class NotReady(RuntimeError):
    """The store is still being read."""


class StoreBrowser:
    """What the routes ask; every method but `start` and `stop` may be called from any thread."""

    def __init__(self, path: str, max_pixels: int, shared: str = "") -> None:
        self.store, self.max_pixels = Store(path), max_pixels
        self._files = ListingFiles(shared)
        self.queue = ReviewQueue(self.store)
        self._index: PictureIndex | None = None
        self._pictures: PictureIndex | None = None  # of the pictures alone, until the whole is read
        self.fault = ""
        self.waiting = 0
        """Requests under way; counted by the event loop."""
        self._looked = 0.0
        self._mark: Hashable = None
        self._following = threading.Lock()
        self._listings: OrderedDict[str, PictureListing] = OrderedDict()
        self._listing = threading.Lock()
        self._thumbnails = ByteCache(THUMBNAIL_BYTES)
        self._people: dict[str, str] = {}
        self._asked: queue.SimpleQueue[tuple[Correction, Future[Outcome]] | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="florence2-corrections", daemon=True)
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="florence2-store")

    @property
    def name(self) -> str:
        """How people know the store: its folder's name, no path."""
        return self.store.root.resolve().name

    def start(self) -> None:
        """Begin to read the store."""
        self._writer.start()
        threading.Thread(target=self._open, name="florence2-index", daemon=True).start()

    def stop(self) -> None:
        """Write what has come, then end the threads."""
        self._asked.put(None)
        if self._writer.ident is not None:
            self._writer.join()
        self.queue.stop()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> None:
        try:
            self._pictures = self.store.picture_index(whole=False)
            self._index = self.store.picture_index(self._pictures.snapshot)
            self._pictures = None
            self.queue.follow(self._index.snapshot)
        except (ValueError, OSError) as error:
            self.fault = str(error)
            log.error("the store cannot be read: %s", error)

    # reading

    def index(self, whole: bool = True) -> PictureIndex:
        """The index of what the store holds now; NotReady while it is first read, ValueError where it cannot be.

        Without `whole` that of the pictures alone does where it is there first.
        """
        if self._index is None:
            if (pictures := self._pictures) is not None and not whole:
                return pictures
            if self.fault:
                raise ValueError(self.fault)
            raise NotReady
        now, mark = time.monotonic(), self.store.mark()
        new = mark != self._mark
        if (new or now - self._looked > LOOK_S) and self._following.acquire(timeout=FOLLOW_S if new else 0):
            try:
                self._looked, self._mark = now, mark
                if self.store.snapshots()[-1:] != [self._index.snapshot.number]:
                    self._take(self._index.follow(self.store.snapshot()))
            finally:
                self._following.release()
        return self._index

    def _take(self, index: PictureIndex) -> None:
        """Show a newer index."""
        if self._index is None or index.snapshot.number >= self._index.snapshot.number:
            self._index = index
            self.queue.follow(index.snapshot)

    def listing(self, wanted: Wanted, by_queue: bool, name: str = "") -> PictureListing:
        """The pictures that fit; one that was made before is found by its name, whatever was corrected since."""
        with self._listing:
            if name in self._listings:
                self._listings.move_to_end(name)
                return self._listings[name]
        index = self.index(whole=wanted.needs_annotations)
        if (ids := self._files.get(name)) is not None:
            places = [index.place[one] for one in ids if one in index.place]
            return self._keep(PictureListing(name, np.array(places, np.int64), index))
        positions = index.find(wanted)
        ranks = self.queue.ranks(index) if by_queue else None
        if ranks is not None:
            positions = positions[np.argsort(ranks[positions], kind="stable")]
        key = f"{index.snapshot.number} {wanted} {by_queue} {ranks is not None}"
        made = PictureListing(hashlib.blake2b(key.encode(), digest_size=8).hexdigest(), positions, index)
        self._files.put(made.name, [index.ids[place] for place in positions])
        return self._keep(made)

    def _keep(self, made: PictureListing) -> PictureListing:
        with self._listing:
            self._listings[made.name] = made
            while len(self._listings) > LISTINGS:
                self._listings.popitem(last=False)
        return made

    def state(self, image_id: str) -> PictureState | None:
        """All that the store holds of a picture now."""
        return self.index(whole=False).state(image_id)

    def person_of(self, run_id: str) -> str:
        """Who a run of corrections is by; "" where it is no person's."""
        if run_id not in self._people:
            person = (self.store.run(run_id) or {}).get("person", "")
            self._people[run_id] = person if isinstance(person, str) else ""
        return self._people[run_id]

    def picture(self, state: PictureState) -> PictureFileBytes:
        """A picture to be shown whole; BadImage where it is none, or not the one that was taken in."""
        return shown(self._bytes(state), self.max_pixels)

    def model_input(self, state: PictureState) -> bytes:
        """A picture's file, for the model."""
        return self._bytes(state)

    def thumbnail(self, state: PictureState, side: int) -> bytes:
        """A small JPEG of a picture; `side` is one of SIDES."""
        key = f"{state.row.image.sha256 or state.row.id} {side}"
        found = self._thumbnails.get(key)
        if found is None:
            small = pixels.thumbnail(self._bytes(state), side, self.max_pixels, "picture")
            found = pixels.encode(small, "JPEG", quality=82)
            self._thumbnails.put(key, found)
        return found

    def _bytes(self, state: PictureState) -> bytes:
        """The file's bytes, if they are those of the picture that was taken in.

        A record without a hash could name any picture of the machine, and is refused: a stranger may have written it.
        """
        ref = state.row.image
        data = files.read_bytes(ref)
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise BadImage("picture", "changed", "is not the one that was taken in; annotate the store again")
        return data

    # writing

    def correct(self, correction: Correction) -> Future[Outcome]:
        """Have a correction written; its outcome, when it stands in the store or is refused."""
        future: Future[Outcome] = Future()
        future.set_running_or_notify_cancel()  # written whether or not its client still waits
        self._asked.put((correction, future))
        return future

    def _write(self) -> None:
        """The writer: what has come meanwhile is written together."""
        while (first := self._asked.get()) is not None:
            batch, last = [first], False
            while len(batch) < TOGETHER and not self._asked.empty():
                more = self._asked.get()
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._write_batch(batch)
            if last:
                return

    def _write_batch(self, batch: Sequence[tuple[Correction, Future[Outcome]]]) -> None:
        try:
            outcomes, index = correct(self.store, [correction for correction, _ in batch], self._index)
            self._take(index)
        except Exception as error:  # a full disk, a damaged store: each who waits is told
            log.error("corrections could not be written: %s", error, exc_info=not isinstance(error, OSError))
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), outcome in zip(batch, outcomes):
            future.set_result(outcome)


def shown(data: bytes, max_pixels: int) -> PictureFileBytes:
    """A picture's file as a browser shows it upright: as it lies, or decoded and written anew."""
    format = file_types.format_of(data[:16])
    width, height = pixels.read_size(data, "picture")
    if width * height > max_pixels:
        raise BadImage("picture", "too_large", f"has {width} x {height} pixels, over the limit of {max_pixels:,}")
    plain = pixels.read_orientation(data, "picture") == 1 and not pixels.holds_more(data, "picture")
    if format in SHOWN and plain:
        return PictureFileBytes(data, SHOWN[format])
    array = pixels.load(data, max_pixels, name="picture")
    return PictureFileBytes(pixels.encode(array, "JPEG", quality=95), "image/jpeg")


class ByteCache:
    """Bytes by key, bounded in bytes; what was used least lately goes first."""

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What is held under a key."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: str, data: bytes) -> None:
        """Hold bytes, unless they alone are over the limit."""
        with self._lock:
            if key in self._held or len(data) > self.most:
                return
            self._held[key] = data
            self.bytes += len(data)
            while self.bytes > self.most:
                self.bytes -= len(self._held.popitem(last=False)[1])

"""The worker: what it answers equals unbatched calls, each picture is encoded once, what fails fails alone."""

import contextlib
import json
import multiprocessing
import threading
import time

import pytest

from florence2.pixels import encode
from florence2.predictor.batch import EncodedImage, OpenBatch
from florence2.predictor.batch import load as load_image
from florence2.records import Ask
from florence2.scenes import draw
from florence2.serving.messages import Alive, Answered, Cancel, Delta, Done, Options, Ready, Work
from florence2.serving.settings import Settings
from florence2.serving.worker import EncodedImageCache, Worker, _Item
from tests.serving.test_predict_route import assert_same

PLAIN = Options()
PICTURES = [encode(draw(2**31 + 40 + n)[0]) for n in range(5)]


class Running:
    """A worker in a thread, and the other end of its connection."""

    def __init__(self, model, **settings):
        self.connection, theirs = multiprocessing.Pipe()
        self.worker = Worker(model, theirs, Settings(model="nano", **settings), leave=lambda: None)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.messages, self.done = [], {}
        self.thread.start()
        assert isinstance(self.connection.recv(), Ready)

    def _run(self):
        with contextlib.suppress(OSError):
            self.worker.run()

    def send(self, number, picture, *asks, options=PLAIN, **more):
        key = str(hash(picture))
        self.connection.send(Work(number, picture, key, tuple(asks), options, **more))

    def until_done(self, *numbers):
        """What became of these works, in any order."""
        end = time.monotonic() + 60
        while set(numbers) - set(self.done):
            assert time.monotonic() < end and self.connection.poll(10)
            message = self.connection.recv()
            if isinstance(message, Done):
                self.done[message.number] = message
            elif not isinstance(message, Alive):
                self.messages.append(message)
        return [self.done[number] for number in numbers]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.connection.close()
        self.thread.join(10)
        assert not self.thread.is_alive()


def texts(done):
    return [json.loads(result.json) if isinstance(result, Answered) else result.reason for result in done.results]


def test_mixed_work_joins_and_leaves_one_batch_and_is_answered_as_alone(nano):
    asks = [
        (Ask("<OD>"),),
        (Ask("<CAPTION>"), Ask("<OD>", labels=("fish",))),
        (Ask("<OPEN_VOCABULARY_DETECTION>", text="fish"),),
        (Ask("<REGION_TO_CATEGORY>", region=(10, 10, 90, 90)),),
        (Ask(prompt="What does the image describe?"),),
    ]
    with Running(nano, batch_size=3) as running:
        for number in range(20):
            beams = 3 if number % 7 == 6 else None
            options = Options(num_beams=beams)
            running.send(number, PICTURES[number % 4], *asks[number % 5], options=options)
            time.sleep(0.01 * (number % 3))
        for number, done in enumerate(running.until_done(*range(20))):
            beams = 3 if number % 7 == 6 else None
            for found, ask in zip(texts(done), asks[number % 5], strict=True):
                assert_same(found, nano.predict(PICTURES[number % 4], ask, num_beams=beams))


def test_a_picture_is_encoded_once(nano, monkeypatch):
    seen = []
    encode_images = nano.encode_images
    monkeypatch.setattr(nano, "encode_images", lambda pictures: seen.append(len(pictures)) or encode_images(pictures))
    with Running(nano) as running:
        for number in range(4):
            running.send(number, PICTURES[0], Ask("<OD>"))
        first = running.until_done(0, 1, 2, 3)
        running.send(4, PICTURES[0], Ask("<CAPTION>"))
        (last,) = running.until_done(4)
    assert sum(seen) == 1
    assert [done.cached for done in first].count(False) >= 1 and last.cached


def test_work_joins_where_half_the_batch_is_free_or_all_that_waits_fits(nano):
    worker = Worker(nano, multiprocessing.Pipe()[0], Settings(model="nano", batch_size=4, cache_bytes=0))
    loaded = [load_image(nano.config, picture) for picture in PICTURES]
    numbers = iter(range(100))

    def wait(count):
        for _ in range(count):
            number = next(numbers)
            work = Work(number, b"", str(number), (Ask("<OD>"),), PLAIN)
            worker.waiting.append(_Item(work, loaded[number % len(loaded)]))
        worker._admit()
        return worker.batch.rows, len(worker.waiting)

    assert wait(2) == (2, 0) and wait(1) == (3, 0)  # all that waits fits
    assert wait(3) == (3, 3)  # one seat for three is left free
    worker.batch.drop([worker.running[0].numbers.popitem()[0]])
    assert wait(0) == (4, 1)  # half of the seats


def test_the_cache_is_bounded_in_bytes_and_gives_up_what_was_used_least(nano):
    encoded = [nano.encode_image(picture) for picture in PICTURES]
    one = encoded[0].features.numel() * 4
    cache = EncodedImageCache(3 * one + 10)
    for number, features in enumerate(encoded[:3]):
        cache.put(str(number), features)
    assert cache.get("0") is not None
    cache.put("3", encoded[3])
    assert [cache.get(str(n)) is not None for n in range(4)] == [True, False, True, True]
    assert cache.bytes == 3 * one
    cache.put("3", encoded[3])
    assert cache.bytes == 3 * one
    nothing = EncodedImageCache(one - 1)
    nothing.put("0", encoded[0])
    assert nothing.get("0") is None and nothing.bytes == 0


def test_a_picture_that_breaks_the_encoder_fails_alone(nano, monkeypatch):
    encode_images = nano.encode_images

    def poisoned(pictures):
        if any(getattr(picture, "size_wh", None) == (77, 33) for picture in pictures):
            raise RuntimeError("/some/path: not enough memory")
        return encode_images(pictures)

    monkeypatch.setattr(nano, "encode_images", poisoned)
    poison = encode(draw(2**31 + 60)[0][:33, :77])
    with Running(nano) as running:
        for number, picture in enumerate([PICTURES[0], poison, PICTURES[1], b"no picture", PICTURES[2]]):
            running.send(number, picture, Ask("<OD>"))
        found = [texts(done)[0] for done in running.until_done(0, 1, 2, 3, 4)]
    assert (found[1], found[3]) == ("error", "not_an_image")
    for number, place in ((0, 0), (1, 2), (2, 4)):
        assert_same(found[place], nano.predict(PICTURES[number], "<OD>"))


def test_an_ask_that_breaks_a_step_fails_alone(nano, monkeypatch):
    step = OpenBatch.step

    def poisoned(self):
        if any(row.ask.text == "poison" for _, _, row in self._rows.values()):
            raise RuntimeError("broken")
        return step(self)

    monkeypatch.setattr(OpenBatch, "step", poisoned)
    with Running(nano) as running:
        for number, ask in enumerate([Ask("<OD>"), Ask("<VQA>", text="poison"), Ask("<CAPTION>")]):
            running.send(number, PICTURES[number], ask)
        found = [texts(done)[0] for done in running.until_done(0, 1, 2)]
    assert found[1] == "error"
    assert_same(found[0], nano.predict(PICTURES[0], "<OD>"))
    assert_same(found[2], nano.predict(PICTURES[2], "<CAPTION>"))


def test_what_cannot_be_asked_is_refused_and_named(nano):
    with Running(nano) as running:
        running.send(0, PICTURES[0], Ask("<REGION_TO_CATEGORY>", region=(900, 900, 950, 950)), Ask("<OD>"))
        running.send(1, PICTURES[0], Ask("<OD>"), options=Options(max_new_tokens=100_000))
        outside, long = running.until_done(0, 1)
    assert outside.results[0].detail.startswith("region:") and isinstance(outside.results[1], Answered)
    assert long.results[0].detail.startswith("max_new_tokens:")


@pytest.mark.parametrize("running_already", [True, False])
def test_cancelled_work_is_dropped(nano, running_already):
    with Running(nano, batch_size=1) as running:
        running.send(0, PICTURES[0], Ask("<MORE_DETAILED_CAPTION>"))
        if not running_already:
            running.send(1, PICTURES[1], Ask("<MORE_DETAILED_CAPTION>"))
        number = 0 if running_already else 1
        running.connection.send(Cancel(number))
        running.connection.send(Cancel(99))  # never was
        running.send(2, PICTURES[2], Ask("<OD>"))
        dropped, other = running.until_done(number, 2)
        assert dropped.dropped and not dropped.results
        assert_same(texts(other)[0], nano.predict(PICTURES[2], "<OD>"))
        running.until_done(*(() if running_already else (0,)))
        assert not running.worker._open and not running.worker._cancelled


def test_texts_come_while_they_are_made(nano):
    whole = nano.predict(PICTURES[0], "<MORE_DETAILED_CAPTION>").texts[0].text
    with Running(nano) as running:
        running.send(0, PICTURES[0], Ask("<MORE_DETAILED_CAPTION>"), deltas=True)
        running.until_done(0)
        shown = [message.text for message in running.messages if isinstance(message, Delta)]
    assert len(shown) > 3 and all(whole.startswith(text) for text in shown)
    assert all(len(a) < len(b) for a, b in zip(shown, shown[1:]))


def test_work_that_ended_a_worker_is_answered_alone(nano):
    with Running(nano) as running:
        rows = []
        step = running.worker.batch.step
        running.worker.batch.step = lambda: rows.append(running.worker.batch.rows) or step()
        running.send(0, PICTURES[0], Ask("<CAPTION>"), alone=True)
        running.send(1, PICTURES[1], Ask("<CAPTION>"))
        running.until_done(0, 1)
    assert set(rows) == {1}


def test_a_score_leaves_out_items_as_a_call_does(nano, scene):
    ask = Ask("<OD>")
    scores = sorted(region.score for region in nano.predict(scene, ask).regions)
    with Running(nano) as running:
        running.send(0, scene, ask, options=Options(min_score=scores[1]))
        (done,) = running.until_done(0)
    alone = nano.predict(scene, ask, min_score=scores[1])
    assert_same(texts(done)[0], alone)
    assert len(alone.regions) == len(scores) - 1


def test_features_do_not_keep_their_whole_batch(nano):
    cache = EncodedImageCache(1 << 30)
    together = nano.encode_images(PICTURES)
    for number, encoded in enumerate(together):
        assert isinstance(encoded, EncodedImage)
        cache.put(str(number), encoded)
    kept = cache.get("0")
    assert kept.features.untyped_storage().nbytes() == kept.features.numel() * 4

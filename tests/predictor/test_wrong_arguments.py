"""What `load`, `predict`, `parse` and `render` are given wrongly is refused in one line that names the argument."""

import math

import numpy as np
import pytest

import florence2
from florence2 import Ask
from tests.test_arguments import NO_PATH, NO_WHOLE, refused

NO_TEXT = [True, 5, 2.5, b"x", [], [1], {}, np.int64(3), object()]
NO_SIZE = [None, 5, "x", (), (1,), (1, 2, 3), (0, 5), (5, -1), (math.nan, 5), (5, math.inf), ("a", "b"), np.int64(3)]
GIVEN = {
    "num_beams": [*NO_WHOLE, 0, 10**6, 10**30],
    "max_new_tokens": [*NO_WHOLE, 0, 10**6, 10**30],
    "text": NO_TEXT,
    "labels": [True, 5, b"x", "cat", [1], [""], np.int64(3), object()],
    "region": [True, 5, "x", (1, 2), (1, 2, 3, math.nan), [None] * 4, object()],
    "prompt": [True, 5, b"x", [], object()],
    "filters": [True, 5, "nms", b"nms", [5], [None], [["nms"]], [{}], ["NMS"], object()],
    "min_score": [True, "0.5", [0.5], math.nan, 1.01, 10**400, 1 + 0j, object()],
    "margin": [True, "2", [2.0], math.inf, -1, 10**400, object()],
    "tiles": [True, 4, "2x2", (2,), (2.0, 2), (True, True), (0, 1), (10**9, 10**9), {}, object()],
}


@pytest.mark.parametrize("name", GIVEN)
def test_predict(tiny, pictures, name):
    task = {} if name == "prompt" else {"task": "<OPEN_VOCABULARY_DETECTION>" if name in ("text", "labels") else "<OD>"}
    for value in GIVEN[name]:
        refused(lambda value=value: tiny.predict(pictures[0], **task, **{name: value}), name)


@pytest.mark.parametrize("name", ["task", "text", "labels", "region", "prompt"])
def test_an_ask(tiny, pictures, name):
    for value in (5, True, object(), np.int64(3)):
        ask = Ask(**{"task": "<OPEN_VOCABULARY_DETECTION>", name: value})
        refused(lambda ask=ask: tiny.predict(pictures[0], ask), name)


def test_batches_and_numbers_of_numpy(tiny, pictures):
    for value in (*NO_WHOLE, 0, None):
        refused(lambda value=value: tiny.predict_many(pictures, "<OD>", batch_size=value), "batch_size")
    whole = {"num_beams": np.int64(2), "max_new_tokens": np.uint8(5)}
    (answer,) = tiny.predict_many(pictures[:1], "<OD>", batch_size=np.int32(1), **whole)
    assert answer.token_ids == tiny.predict(pictures[0], "<OD>", num_beams=2, max_new_tokens=5).token_ids


def test_load(folder):
    for value in NO_PATH:
        refused(lambda value=value: florence2.load(value), "model: expected a path")
        refused(lambda value=value: florence2.load(folder, adapter=value), "expected a path")
    for value in (5, [], {}, "int3", np.zeros(2)):
        refused(lambda value=value: florence2.load(folder, dtype=value), "dtype")


def test_parse_and_render():
    for value in NO_TEXT:
        refused(lambda value=value: florence2.parse("<OD>", value, (30, 20)), "text: expected a text")
    for value in NO_SIZE:
        refused(lambda value=value: florence2.parse("<OD>", "cat<loc_1><loc_2><loc_3><loc_4>", value), "size_wh")
    for value in (5, object(), np.int64(3)):
        refused(lambda value=value: florence2.parse(value, "x", (30, 20)), "task")
    for value in (None, "x", 5, object()):
        refused(lambda value=value: florence2.render(value), "answer: expected an Answer")

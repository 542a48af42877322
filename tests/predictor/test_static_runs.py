"""Greedy search in runs of one shape takes, token for token, what the search a step at a time takes."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from florence2.decoding.generate import Rules, generate
from florence2.model import static_runs
from florence2.predictor import load
from florence2.records import Ask

OPTIONS = {
    "the grammar": {},
    "a budget that cuts": dict(max_new_tokens=11),
    "the official rules": dict(official=True, num_beams=1),
    "a margin": dict(margin=2.0),
    "a probability of more": dict(more_above=0.5),
    "beams, which know no runs": dict(num_beams=2),
}
ASKS = ["<OD>", "<CAPTION>", "<OCR_WITH_REGION>", Ask("<REGION_TO_CATEGORY>", region=(1, 2, 30, 20))]
CLOSED = [Ask("<OPEN_VOCABULARY_DETECTION>", labels=("red car", "dog", "sofa")), Ask("<OD>", labels=("car", "tree"))]


@pytest.fixture(scope="module")
def static(folder):
    return load(folder, static=True)


def same(got, wanted):
    assert (got.token_ids, got.text, got.truncated) == (wanted.token_ids, wanted.text, wanted.truncated)
    np.testing.assert_allclose(got.token_measures, wanted.token_measures, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", OPTIONS)
def test_equal_token_for_token(tiny, static, pictures, name):
    options = {"max_new_tokens": 90, **OPTIONS[name]}  # longer than the room that a row begins with
    asks = ASKS if "official" in options else ASKS + CLOSED
    wanted = list(tiny.predict_many(pictures[:3], asks, batch_size=3, **options))
    for got, other in zip(static.predict_many(pictures[:3], asks, batch_size=3, **options), wanted, strict=True):
        for one, two in zip(got, other, strict=True):
            same(one, two)
    lengths = [len(answer.token_ids) for answers in wanted for answer in answers]
    assert max(lengths) > static_runs.ROOM or options["max_new_tokens"] < 90


def test_an_answer_may_fill_all_positions(tiny, static, pictures):
    positions = tiny.config.text.max_positions
    options = dict(official=True, num_beams=1, max_new_tokens=positions)
    got, wanted = static.predict(pictures[0], "<OD>", **options), tiny.predict(pictures[0], "<OD>", **options)
    same(got, wanted)


def test_the_host_looks_once_a_run(static, pictures, monkeypatch):
    looks = []
    real = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: looks.append(self.numel()) or real(self))
    model = static.model
    with torch.inference_mode():
        features = static.encode_image(pictures[0]).features[None]
    ids = torch.tensor([[0, 5, 6, 2]])
    free = Rules(num_beams=1, no_repeat_ngram_size=0, forced_bos=None, forced_eos=None)
    (answer,) = generate(model, features, ids, torch.ones_like(ids), [64], None, free)
    assert len(looks) <= -(-len(answer.ids) // static_runs.STEPS) + 2 and len(answer.ids) > 8


def test_runs_are_kept_by_their_shape_and_not_shared_by_threads(static, tiny, pictures):
    static.model.run_pool.idle.clear()
    for _ in range(3):
        static.predict(pictures[0], "<OD>", max_new_tokens=12)
    assert len(static.model.run_pool.idle) == 1
    with ThreadPoolExecutor(3) as pool:
        ask = lambda n: static.predict(pictures[n % 3], "<OD>", max_new_tokens=24).token_ids  # noqa: E731
        assert list(pool.map(ask, range(9))) == [
            tiny.predict(pictures[n % 3], "<OD>", max_new_tokens=24).token_ids for n in range(9)
        ]
    assert 1 <= len(static.model.run_pool.idle) <= static_runs.KEPT
    assert copy.deepcopy(static.model).run_pool.idle == [] == pickle.loads(pickle.dumps(static.model.run_pool)).idle


def test_without_a_gpu_it_is_asked_for(tiny, static):
    assert static.model.in_runs and not tiny.model.in_runs and tiny.model.joins and not static.model.joins

"""`load` takes a tier and says which it took."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from florence2.model.tiers import GATE
from florence2.predictor import load
from florence2.predictor.doctor import examine


def test_int8_is_asked_for_and_told(folder_of_nano):
    exact, quick = load("nano"), load("nano", quantize="int8")
    assert exact.info()["tier"] == exact.info()["dtype"] == "float32" and exact.info()["why"]
    assert quick.info()["tier"] == "int8" and set(quick.info()["products"].values()) == {"int8"}
    assert quick.identity != exact.identity
    encoded = [model.encode_image(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()) for model in (exact, quick)]
    assert not torch.equal(encoded[0].features, encoded[1].features)
    torch.testing.assert_close(*[one.features for one in encoded], rtol=0, atol=0.5)


def test_fast_follows_the_gate(folder_of_nano):
    assert load(folder_of_nano, speed="fast").info()["tier"] == "float32"
    (folder_of_nano / GATE).write_text(json.dumps({"tiers": {"bfloat16": {"passed": True}, "int8": {"passed": False}}}))
    info = load(folder_of_nano, speed="fast").info()
    assert info["tier"] in ("bfloat16", "float32") and "passed bfloat16" in info["why"]
    assert load(folder_of_nano).info()["tier"] == "float32"


REFUSED = {
    "speed": (dict(speed="faster"), "speed: .*'faster'"),
    "both": (dict(speed="fast", quantize="int8"), "speed: 'fast' chooses"),
    "threads": (dict(threads=0), "threads: .* got 0"),
    "type": (dict(quantize="int8", dtype="bfloat16"), "int8 takes float32 weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, named = REFUSED[case]
    with pytest.raises(ValueError, match=named):
        load("nano", **arguments)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_threads_of_python_on_one_model_answer_as_in_turn(quantize):
    model = load("nano", quantize=quantize)
    pictures = [np.random.default_rng(n).integers(0, 256, (60, 80, 3), np.uint8) for n in range(6)]

    def ask(picture):
        answer = model.predict(picture, "<OD>", max_new_tokens=24)
        return answer.token_ids, answer.token_logprobs

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, pictures * 2))
    assert together == [ask(picture) for picture in pictures * 2]


def test_doctor_tells_the_tier(folder_of_nano):
    facts = examine(folder_of_nano).facts
    assert facts["computes"]["tier"] == "float32" and "no tiers.json" in facts["fast"]


def test_threads_are_set():
    before = torch.get_num_threads()
    try:
        assert load("nano", threads=1).info()["threads"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def folder_of_nano(tmp_path, monkeypatch):
    """Nano saved in a folder; no measurement of this machine is read or left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load("nano").save(tmp_path / "nano")
    return tmp_path / "nano"

"""`load` takes a tier and says which it took."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from florence2 import sources
from florence2.model.tiers import GATE
from florence2.predictor import checkpoints, load
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
    gate(folder_of_nano, bfloat16={"passed": True}, int8={"passed": False})
    info = load(folder_of_nano, speed="fast").info()
    assert info["tier"] in ("bfloat16", "float32") and "passed bfloat16, refused int8" in info["why"]
    assert load(folder_of_nano).info()["tier"] == "float32"


def test_int8_that_is_asked_for_keeps_what_the_gate_kept(folder_of_nano):
    gate(folder_of_nano, int8={"passed": True, "keep": ["decoder", "output"]})
    info = load(folder_of_nano, quantize="int8").info()
    assert {name for name, kind in info["products"].items() if kind == "float32"} == {"decoder", "output"}
    assert "tiers.json passed int8" in info["why"]
    gate(folder_of_nano, int8={"passed": False, "keep": ["decoder", "output"]})
    info = load(folder_of_nano, quantize="int8").info()
    assert set(info["products"].values()) == {"int8"} and "passed no tier, refused int8" in info["why"]


def test_a_gate_goes_with_its_weights(folder_of_nano, tmp_path):
    gate(folder_of_nano, int8={"passed": True})
    moved = folder_of_nano.rename(tmp_path / "elsewhere")
    assert "passed int8" in load(moved, speed="fast").info()["why"]
    model = load(moved)
    model.save(moved)  # the same weights
    assert (moved / GATE).is_file()
    spare = (moved / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.model.language.embedding.weight[7] += 1
    model.save(moved)
    assert not (moved / GATE).exists()
    gate(moved, int8={"passed": True})
    (moved / "model.safetensors").write_bytes(spare)
    for options in (dict(speed="fast"), dict(quantize="int8")):
        with pytest.raises(ValueError, match="tiers.json: is of other weights than those beside it; run florence2 q"):
            load(moved, **options)
    assert load(moved, calibration=None).info()["tier"] == "float32"
    problems = examine(moved).problems
    assert [any(name in problem for problem in problems) for name in (GATE, "calibration.json")] == [True, True]


def test_doctor_says_of_an_adapter_what_load_does(folder_of_nano, tmp_path):
    from peft import LoraConfig, get_peft_model

    gate(folder_of_nano, int8={"passed": True})
    adapted = get_peft_model(load(folder_of_nano).model, LoraConfig(r=2, target_modules=r".*\.mlp\.up"))
    adapted.peft_config["default"].base_model_name_or_path = str(folder_of_nano)
    adapted.save_pretrained(tmp_path / "lora")
    fast = load(tmp_path / "lora", speed="fast").info()
    assert fast["tier"] == "float32" and "the gate measures whole checkpoints" in fast["why"]
    assert "the gate measures whole checkpoints" in examine(tmp_path / "lora").facts["fast"]


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_runs_of_steps_say_the_same_in_each_tier(quantize):
    alone, runs = (load("nano", quantize=quantize, static=static) for static in (False, True))
    pictures = [sample.image for sample in sources.open("scenes:4")]
    for options in ({}, {"num_beams": 1, "official": True, "max_new_tokens": 24}, {"margin": 1.0}):
        for one, other in zip(
            alone.predict_many(pictures, "<OD>", **options), runs.predict_many(pictures, "<OD>", **options)
        ):
            assert one.token_ids == other.token_ids


def test_a_model_in_training_mode_is_not_asked():
    model = load("nano")
    picture = np.zeros((60, 80, 3), np.uint8)
    wanted = model.predict(picture, "<OD>", max_new_tokens=12)
    model.model.train()
    for ask in (model.predict, lambda *args, **more: list(model.predict_many([args[0]], args[1], **more))):
        with pytest.raises(ValueError, match=r"training mode, .* call model.model.eval\(\)"):
            ask(picture, "<OD>", max_new_tokens=12)
    with pytest.raises(ValueError, match="training mode"):
        model.encode_image(picture)
    model.model.eval()
    assert model.predict(picture, "<OD>", max_new_tokens=12).token_logprobs == wanted.token_logprobs


def test_a_converted_model_says_so():
    model = load("nano", quantize="int8")
    identity = model.identity
    model.model.bfloat16()
    info = model.info()
    assert info["tier"] == info["dtype"] == "bfloat16" and info["products"] == {} and "converted" in info["why"]
    assert model.identity not in (identity, "")
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    same = load("nano", dtype="bfloat16").predict(picture, "<OD>", max_new_tokens=24)
    assert model.predict(picture, "<OD>", max_new_tokens=24).token_ids == same.token_ids


def test_an_adapter_that_is_merged_after_an_answer_is_heard(monkeypatch):
    """peft merges through `.data`, which torch does not count; the packed weights are made anew."""
    from peft import LoraConfig, get_peft_model

    picture = next(iter(sources.open("scenes:1"))).image
    model = load("nano", quantize="int8")
    torch.manual_seed(0)
    adapted = get_peft_model(model.model, LoraConfig(r=2, target_modules=r".*\.mlp\.up", init_lora_weights=False))
    apart = model.predict(picture, "<CAPTION>", max_new_tokens=12)  # packs the plain weights
    model.model = adapted.merge_and_unload()
    merged = model.predict(picture, "<CAPTION>", max_new_tokens=12)
    model.accelerate("int8")  # all packed anew
    fresh = model.predict(picture, "<CAPTION>", max_new_tokens=12)
    assert merged.token_logprobs == fresh.token_logprobs
    assert (
        merged.token_logprobs
        != load("nano", quantize="int8").predict(picture, "<CAPTION>", max_new_tokens=12).token_logprobs
    )
    assert apart.token_ids


def gate(folder, **rows):
    """What florence2 quantize leaves beside the weights."""
    sha256 = checkpoints.weights_sha256(checkpoints.find(folder))
    (folder / GATE).write_text(json.dumps({"weights_sha256": sha256, "tiers": rows}))


REFUSED = {
    "speed": (dict(speed="faster"), "speed: .*'faster'"),
    "both": (dict(speed="fast", quantize="int8"), "speed: 'fast' chooses"),
    "threads": (dict(threads=0), "threads: .* got 0"),
    "more threads": (dict(threads=10**9), "threads: .* at most 1024"),
    "threads in words": (dict(threads="two"), "threads: .*'auto', got 'two'"),
    "type": (dict(quantize="int8", dtype="bfloat16"), "int8 takes float32 weights"),
    "no tier": (dict(quantize="int4"), "quantize: expected None or 'int8', got 'int4'"),
    "an empty tier": (dict(quantize=""), "quantize: expected None or 'int8', got ''"),
    "no floating type": (dict(dtype=torch.int8), "dtype: expected one of float32, float16, bfloat16, got torch.int8"),
    "a wider type": (dict(dtype=torch.float64), "dtype: expected one of float32, .* got torch.float64"),
    "static": (dict(static="no"), "static: expected True, False or None, got 'no'"),
    "fast with a type": (dict(speed="fast", dtype="float32"), "speed: 'fast' chooses"),
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

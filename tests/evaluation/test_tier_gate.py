"""A quicker tier is kept where the data show it good enough, and refused where they do not or are too few."""

import dataclasses
import json

import pytest
import torch

from florence2 import sources
from florence2.cli import main
from florence2.evaluation import tier_gate
from florence2.evaluation.tier_gate import _reason, quantize
from florence2.model import operators, tiers
from florence2.predictor import load


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """No measurement of this machine is read or left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def gate(out, **more):
    return quantize("nano", "scenes:3", out, **{**dict(tasks=["OD"], wanted=["int8"], resamples=20), **more})


def test_what_was_decided_lies_beside_the_weights_and_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(tier_gate, "WORST_LOSS", 5.0)  # three pictures have wide intervals
    lines = []
    verdict = gate(tmp_path / "q", report=lines.append)["int8"]
    assert verdict.passed and verdict.agreement >= 0.99 and verdict.tokens > 20
    assert 0 < len(verdict.keep) < len(tiers.GROUPS)  # nano needs some, and int8 is left something
    record = json.loads((tmp_path / "q" / tiers.GATE).read_text())
    assert record["tiers"]["int8"]["keep"] == verdict.keep and record["tasks"] == ["OD"] and record["samples"] == 3
    row = record["tiers"]["int8"]["tasks"]["OD"]
    assert row["metric"] == "AP" and row["asks"] == 3 and row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert any("rms of logits by group" in line for line in lines)
    assert load(tmp_path / "q").identity == load("nano").identity
    monkeypatch.setattr(tiers.Speeds, "ms", lambda self, kind, rows: 1.0 if kind == "int8" else 2.0)
    fast = load(tmp_path / "q", speed="fast")
    assert fast.identity not in ("", load("nano").identity)  # other products, other answers: not to be mixed up
    info = fast.info()
    assert info["tier"] == "int8" and {g for g, kind in info["products"].items() if kind == "float32"} == set(
        verdict.keep
    )
    with pytest.raises(ValueError, match="tiers.json: exists"):
        gate(tmp_path / "q")


def test_the_folder_is_new_or_what_an_interrupted_call_left(tmp_path, monkeypatch):
    load("nano").save(tmp_path / "ckpt")
    before = {path.name: path.read_bytes() for path in (tmp_path / "ckpt").iterdir()}
    for out in (tmp_path / "ckpt", tmp_path):
        with pytest.raises(ValueError, match="holds something else already; name a new folder"):
            gate(out)
    assert {path.name: path.read_bytes() for path in (tmp_path / "ckpt").iterdir()} == before
    with pytest.raises(ValueError, match="config.json: is a file; expected a folder for"):
        gate(tmp_path / "ckpt" / "config.json" / "q")
    monkeypatch.setattr(tier_gate, "WORST_LOSS", 5.0)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tier_gate.TierGate, "try_tier", interrupted)
        with pytest.raises(KeyboardInterrupt):
            gate(tmp_path / "ckpt" / "q")
    assert not (tmp_path / "ckpt" / "q" / tiers.GATE).exists()
    for other in (dict(tasks=["CAPTION"]), dict(limit=2)):
        with pytest.raises(ValueError, match="call.json: an interrupted run of another kind .*; name another folder"):
            gate(tmp_path / "ckpt" / "q", **other)
    assert gate(tmp_path / "ckpt" / "q")["int8"].passed
    assert load(tmp_path / "ckpt" / "q").identity == load(tmp_path / "ckpt").identity


def test_an_adapter_is_measured_as_it_is_written(tmp_path, monkeypatch):
    from peft import LoraConfig, get_peft_model

    monkeypatch.setattr(tier_gate, "WORST_LOSS", 5.0)
    base = load("nano")
    base.save(tmp_path / "base")
    torch.manual_seed(0)
    adapted = get_peft_model(base.model, LoraConfig(r=2, target_modules=r".*\.mlp\.up", init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    adapted.save_pretrained(tmp_path / "lora")
    asked = []
    real = tier_gate.load
    monkeypatch.setattr(tier_gate, "load", lambda source, **more: asked.append(source) or real(source, **more))
    quantize(tmp_path / "lora", "scenes:3", tmp_path / "q", tasks=["OD"], wanted=["bfloat16"], resamples=20)
    assert asked == [tmp_path / "lora", tmp_path / "q"]
    assert load(tmp_path / "q").identity == load(tmp_path / "lora").identity != load("nano").identity


def test_data_on_which_float32_is_never_right_is_no_reason_to_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(tier_gate, "LEAST_AGREEMENT", 0.5)
    real = sources.open

    def renamed(*args, **options):
        for sample in real(*args, **options):
            regions = tuple(dataclasses.replace(region, label="zeppelin") for region in sample.regions)
            yield dataclasses.replace(sample, regions=regions)

    monkeypatch.setattr(tier_gate.sources, "open", renamed)
    lines = []
    verdict = gate(tmp_path / "q", report=lines.append)["int8"]
    assert verdict.tasks["OD"]["float32"] == 0 and not verdict.passed
    assert "float32 itself is never right on this data" in verdict.why
    assert any(line.startswith("float32, OD: AP 0.0000") and "tells nothing" in line for line in lines)


def test_a_tier_that_ruins_the_answers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(operators, "LARGEST_INT8", 1)  # three values are left of 255
    verdict = gate(tmp_path / "q")["int8"]
    assert not verdict.passed and verdict.why == "every group of layers would have to stay in float32"
    assert set(verdict.keep) == set(tiers.GROUPS) - {"stage 4"}  # nano has three
    assert not json.loads((tmp_path / "q" / tiers.GATE).read_text())["tiers"]["int8"]["passed"]
    assert load(tmp_path / "q", speed="fast").info()["tier"] == "float32"


FIGURES = {  # the tier's value, the difference, its interval -> the reason's last words
    "worse": ((0.80, -0.10, [-0.15, -0.05]), "worse than -2% of it"),
    "too few": ((0.895, -0.005, [-0.045, 0.035]), "too little data to decide, 50 pictures; some 474 would do"),
    "nothing to pair": ((0.9, 0.0, [-9.0, 9.0]), "nothing can be paired; give more data"),
}


@pytest.mark.parametrize("case", FIGURES)
def test_a_reason_tells_bad_from_too_few(case):
    (value, gap, interval), words = FIGURES[case]
    figures = {"metric": "AP", "float32": 0.9, "tier": value, "difference": gap, "interval": interval, "pictures": 50}
    assert _reason("OD", figures).endswith(words)


def test_what_the_data_cannot_score_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="scenes:3: 3 samples hold no truth for <VQA>"):
        gate(tmp_path / "q", tasks=["VQA"])
    with pytest.raises(ValueError, match="tiers: expected some of bfloat16, int8, got 'int4'"):
        gate(tmp_path / "q", wanted=["int4"])
    assert main(["quantize", "nano", "--data", "scenes:1", "--task", "VQA", "--out", str(tmp_path / "q")]) == 1
    assert "hold no truth for <VQA>" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()

"""A quicker tier is kept where the data show it good enough, and refused where they do not or are too few."""

import json

import pytest

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

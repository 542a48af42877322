"""Kept features of a frozen tower: equal to those computed anew, computed once, never of another picture or tower."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from florence2 import pixels, scenes
from florence2.cli import main
from florence2.scenes.scene_files import write
from florence2.training import features, train
from florence2.training.config_files import from_mapping
from florence2.training.setup import prepare
from tests.training.tiny import tiny_run

LORA = {"rank": 2, "dropout": 0.0, "targets": ["q_proj", "fc2"], "vision": False}
PICTURES = 6


def run_of(tmp_path, name="out", **changes):
    truth = tmp_path / "toy" / "truth.jsonl"
    if not truth.exists():
        write(tmp_path / "toy", (scenes.draw(seed, signs=0) for seed in range(PICTURES)))
    data = [{"path": str(truth), "tasks": ["OD", "CAPTION"]}]
    return tiny_run(
        tmp_path, data=data, out=str(tmp_path / name), strategy="frozen_vision", dense=0, lr=1e-3,
        **{"steps": 6, "batch_size": 4, **changes},
    )  # fmt: skip


def losses(config):
    return [json.loads(line)["loss"] for line in (Path(config["out"]) / "metrics.jsonl").read_text().splitlines()]


def messages(config):
    said = []
    train(config, on_message=said.append)
    return " ".join(said)


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures went through a frozen tower."""
    count = []
    original = features.FrozenVision.encode

    def encode(self, pictures):
        count.append(len(pictures))
        return original(self, pictures)

    monkeypatch.setattr(features.FrozenVision, "encode", encode)
    return count


@pytest.mark.parametrize("strategy, kind", [("frozen_vision", "memory"), ("decoder", "memory"), ("lora", "disk")])
def test_a_run_with_kept_features_equals_one_without_to_the_bit(tmp_path, strategy, kind):
    more = {"lora": LORA} if strategy == "lora" else {}
    plain = train({**run_of(tmp_path), "strategy": strategy, **more})
    config = run_of(tmp_path, "kept", cache_features=kind, cache_dtype="fp32")
    kept = train({**config, "strategy": strategy, **more})
    assert losses(config) == losses(run_of(tmp_path)) and len(losses(config)) == 6
    assert kept.weights_sha256 == plain.weights_sha256 and kept.loss_before == plain.loss_before


def test_bf16_runs_lose_nothing_by_a_bf16_cache(tmp_path):
    train(run_of(tmp_path, precision="bf16"))
    config = run_of(tmp_path, "kept", precision="bf16", cache_features=True)
    train(config)
    assert losses(config) == losses(run_of(tmp_path))


def test_an_fp32_run_with_a_bf16_cache_stays_within_a_percent(tmp_path):
    """A feature is rounded by up to 2**-9 of itself; after six steps the losses differ by less than a per cent."""
    train(run_of(tmp_path))
    config = run_of(tmp_path, "kept", cache_features="memory")
    train(config)
    ours, plain = np.array(losses(config)), np.array(losses(run_of(tmp_path)))
    assert 0 < np.abs(ours / plain - 1).max() < 0.01


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_is_encoded_once_for_all_its_asks_and_epochs(tmp_path, encoded, workers):
    train(run_of(tmp_path, cache_features="memory", workers=workers))
    assert sum(encoded) == PICTURES


def test_what_the_memory_does_not_hold_comes_from_the_files_or_is_computed_again(tmp_path, encoded):
    plain = run_of(tmp_path, "plain")
    train(plain)
    encoded.clear()
    small = run_of(tmp_path, "small", cache_features="memory", cache_gb=0, cache_dtype="fp32")
    said = messages(small)
    assert "the rest is computed again each epoch" in said and sum(encoded) > 2 * PICTURES
    encoded.clear()
    disk = run_of(tmp_path, "disk", cache_features="disk", cache_gb=0, cache_dtype="fp32")
    train(disk)
    assert sum(encoded) == PICTURES
    assert losses(small) == losses(disk) == losses(plain)


def test_files_serve_later_runs_and_damaged_ones_are_computed_anew(tmp_path, encoded):
    where = {"cache_features": "disk", "cache_folder": str(tmp_path / "kept"), "cache_dtype": "fp32"}
    first = run_of(tmp_path, "first", **where)
    train(first)
    files = sorted((tmp_path / "kept").rglob("*.features"))
    assert len(files) == PICTURES and sum(encoded) == PICTURES
    encoded.clear()
    files[0].write_bytes(files[0].read_bytes()[:-5])  # torn
    damaged = bytearray(files[1].read_bytes())
    damaged[100] ^= 1
    files[1].write_bytes(bytes(damaged))
    second = run_of(tmp_path, "second", **where)
    assert "2 files of kept features were damaged and computed anew" in messages(second)
    assert sum(encoded) == 2 and losses(second) == losses(first)
    third = run_of(tmp_path, "third", **where)
    assert "damaged" not in messages(third) and sum(encoded) == 2


def test_another_picture_or_tower_is_never_served(tmp_path, encoded):
    where = {"cache_features": "disk", "cache_folder": str(tmp_path / "kept")}
    train(run_of(tmp_path, "first", **where))
    encoded.clear()
    picture = sorted((tmp_path / "toy" / "images").iterdir())[0]
    picture.write_bytes(pixels.encode(255 - pixels.load(picture)))  # under the old name
    train(run_of(tmp_path, "second", **where))
    assert sum(encoded) == 1
    encoded.clear()
    full = {**run_of(tmp_path, "other"), "strategy": "full", "steps": 1}
    train(full)
    train({**run_of(tmp_path, "third", **where), "model": full["out"]})
    assert sum(encoded) == PICTURES
    train(run_of(tmp_path, "fourth", **where, precision="bf16"))
    assert sum(encoded) == 2 * PICTURES


def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path):
    whole = run_of(tmp_path, cache_features="memory", schedule="constant", dropout=0.1)
    first = train(whole)
    parted = {**whole, "out": str(tmp_path / "parted")}
    train(parted, progress=lambda line: os.kill(os.getpid(), signal.SIGTERM) if line["step"] == 3 else None)
    assert train(parted).weights_sha256 == first.weights_sha256


def test_the_screen_states_what_is_kept_and_what_switches_it_off(tmp_path):
    config = run_of(tmp_path, cache_features="memory")
    assert "0.001 MB a picture (bf16), 0.00 GB for 6" in messages({**config, "steps": 1})
    job = prepare(from_mapping({**config, "augment": "default"}))
    assert job.features is None and "augment change pictures each epoch" in job.notes[0]
    drawn = {**config, "data": [{"path": "scenes:count=4,objects=1", "tasks": ["OD"]}]}
    assert "scenes are drawn anew each epoch" in prepare(from_mapping(drawn)).notes[0]


@pytest.mark.parametrize("change, said", [
    ({"strategy": "full"}, "the tower is trained by strategy full"),
    ({"strategy": "lora", "lora": {**LORA, "vision": True}}, "lora.vision: false"),
    ({"dense": 1.0}, "dense trains on the tower's map"),
    ({"cache_features": "off", "cache_folder": "x"}, "goes with cache_features: disk"),
    ({"cache_features": "ram"}, "expected one of off, memory, disk"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        train({**run_of(tmp_path, cache_features="memory"), **change})


def test_the_projector_is_part_of_what_is_kept_where_it_is_frozen_too(tmp_path):
    job = prepare(from_mapping(run_of(tmp_path, cache_features="memory")))
    assert job.features.shape == (4, 4, 32)  # the map: frozen_vision trains the projector
    job = prepare(from_mapping({**run_of(tmp_path, cache_features="memory"), "strategy": "decoder"}))
    assert job.features.shape == (17, 32) and job.features.bytes_each == 17 * 32 * 2
    assert job.features.dtype == torch.bfloat16


def test_the_small_sets_recipe_keeps_features_and_estimates_its_time(tmp_path, capsys):
    run = run_of(tmp_path)
    changes = [f"--model={run['model']}", f"--data.0.path={run['data'][0]['path']}", "--data.0.tasks=[OD]"]
    args = ["train", "--config", "small_set", *changes, f"--out={tmp_path / 'small'}", "--threads=1", "--dry-run"]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert "s a picture once" in said and "features of the frozen tower are computed once a picture" in said
    assert main([*args, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["seconds_a_picture"] > 0 and not (tmp_path / "small").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_which_no_picture_can_be_read_is_passed_over(tmp_path, workers):
    """Of two pictures in a row that are truncated neither the pair nor its spare is left."""
    config = run_of(tmp_path, cache_features="memory", batch_size=1, epochs=3, workers=workers)
    config["data"][0]["tasks"] = ["OD"]
    for picture in sorted((tmp_path / "toy" / "images").iterdir())[:3]:
        picture.write_bytes(picture.read_bytes()[:-300])
    assert train(config).steps == 3 * PICTURES
    rows = [json.loads(line) for line in (Path(config["out"]) / "metrics.jsonl").read_text().splitlines()]
    assert any(not row["pairs"] for row in rows) and sum(row["pictures"] for row in rows) >= 3 * 3


def test_a_folder_that_cannot_be_made_is_refused_before_the_run(tmp_path):
    (tmp_path / "file").write_text("mine")
    where = {"cache_features": "disk", "cache_folder": str(tmp_path / "file" / "kept")}
    config = run_of(tmp_path, **where)
    with pytest.raises(ValueError, match="cache_folder: .*kept: cannot be made .*name a folder") as refused:
        train(config)
    assert "\n" not in str(refused.value) and not (Path(config["out"]) / "config.yaml").exists()
    assert train({**config, "cache_folder": str(tmp_path / "kept")}).steps == 6


@pytest.mark.parametrize("where", ["write_atomic", "Path.mkdir"])
def test_a_full_disk_is_stated_once_and_the_run_goes_on(tmp_path, monkeypatch, encoded, where):
    before = Path.mkdir

    def full(path, *args, **kwargs):
        if where == "write_atomic" or "kept" in str(path):
            raise OSError(28, "No space left on device")
        return before(path, *args, **kwargs)

    monkeypatch.setattr(f"florence2.training.features.{where}", full)
    said = messages(run_of(tmp_path, cache_features="disk", cache_folder=str(tmp_path / "kept")))
    assert said.count("No space left on device); no more features are kept on disk") == 1
    assert said.index("and kept in memory and in") < said.index("no more features are kept on disk")
    assert sum(encoded) == PICTURES  # the memory serves all the same


def test_a_file_that_cannot_be_read_is_computed_anew(tmp_path):
    where = {"cache_features": "disk", "cache_folder": str(tmp_path / "kept")}
    first, second = run_of(tmp_path, "first", **where), run_of(tmp_path, "second", **where)
    train(first)
    file = sorted((tmp_path / "kept").rglob("*.features"))[0]
    file.unlink()
    file.mkdir()
    said = messages(second)
    assert "1 files of kept features were damaged" in said and "no more features are kept on disk" in said
    assert losses(second) == losses(first)

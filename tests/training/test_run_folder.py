"""Nothing is lost: a refused command touches nothing, one run a folder, whatever stops a run leaves the last save."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import florence2
from florence2.training import train
from florence2.training.run_folder import RunFolder, read_lines, remembered_of
from tests.training.tiny import tiny_run


def state_of(folder):
    """Every file of a folder with its bytes' hash and time."""
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(Path(folder).rglob("*"))
        if p.is_file()
    }


def steps(out):
    return [row["step"] for row in read_lines(Path(out) / "metrics.jsonl")]


def command(tmp_path, config, *more):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(config))
    return [sys.executable, "-m", "florence2", "train", "--config", str(file), *more]


@pytest.mark.parametrize("change, named", [
    ({"lr": 1e-4}, "lr is 0.003 there, 0.0001 here"),
    ({"strategy": "decoder", "dense": 0}, "strategy is 'full' there, 'decoder' here"),
    ({"data": [{"path": "scenes:count=64,objects=1-3", "tasks": ["OD"]}]}, "data.0.path"),
    ({"optimizer": {"betas": [0.8, 0.9]}}, "optimizer.betas"),
    ({"steps": 2}, "steps: 3 are done, 2 asked for"),
])  # fmt: skip
def test_another_config_is_refused_by_its_keys_and_touches_nothing(tmp_path, change, named):
    config = tiny_run(tmp_path, steps=3)
    train(config)
    before = state_of(config["out"])
    with pytest.raises(ValueError, match="holds another run") as refused:
        train({**config, **change})
    assert named in str(refused.value) and "--restart" in str(refused.value)
    assert state_of(config["out"]) == before


def test_a_command_that_fails_later_touches_nothing_either(tmp_path):
    config = tiny_run(tmp_path, steps=3)
    train(config)
    before = state_of(config["out"])
    with pytest.raises((ValueError, OSError)):
        train({**config, "device": "nowhere"})
    assert state_of(config["out"]) == before
    fresh = {**config, "out": str(tmp_path / "fresh"), "data": [{"path": str(tmp_path / "no-such-data")}]}
    with pytest.raises((ValueError, OSError)):
        train(fresh)
    assert not (tmp_path / "fresh").exists()


def test_keys_that_may_change_do(tmp_path):
    config = tiny_run(tmp_path, steps=3)
    train(config)
    changes = {"steps": 5, "threads": 1, "evaluate_every": 0, "save_every": 4, "keep": 2, "device": "cpu"}
    assert train({**config, **changes}).steps == 5
    assert steps(config["out"]) == [1, 2, 3, 4, 5]


def test_restart_moves_the_old_run_aside(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train(config)
    before = state_of(config["out"])
    said = []
    result = train({**config, "lr": 1e-4}, restart=True, on_message=said.append)
    assert result.steps == 2 and state_of(config["out"] + ".1") == before
    assert config["out"] + ".1" in said[0]


def test_weights_without_a_run_are_never_trained_over(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    before = state_of(config["model"])
    with pytest.raises(ValueError, match="holds model.safetensors and no config.yaml"):
        train({**config, "out": config["model"]})
    assert state_of(config["model"]) == before


def test_two_runs_of_one_folder(tmp_path):
    config = tiny_run(tmp_path, steps=3)
    folder = RunFolder(config["out"])
    with folder.locked():
        with pytest.raises(ValueError, match=f"process {os.getpid()} is training into it"):
            train(config)
        with pytest.raises(ValueError, match=f"process {os.getpid()} is training into it"):
            train(config, restart=True)
        with pytest.raises(ValueError, match=f"process {os.getpid()} is training into it"):
            folder.move_aside()
        assert not Path(config["out"] + ".1").exists()
    assert train(config).steps == 3


def test_a_second_launch_is_refused_before_the_data_are_read(tmp_path):
    config = tiny_run(tmp_path)
    with RunFolder(config["out"]).locked(), pytest.raises(ValueError, match="is training into it"):
        train({**config, "data": [{"path": str(tmp_path / "nothing")}]})


def test_a_state_that_the_disk_does_not_hold_stops_in_one_line(tmp_path):
    """The state is larger than the weights, and torch raises a BaseException where it cannot be written."""
    config = tiny_run(tmp_path, steps=2)
    train(config)
    out = Path(config["out"])
    weights = (out / "model.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (weights + 4096, hard))
    try:
        with pytest.raises(
            OSError, match=r"step 3: cannot be saved .*the checkpoint of step-00000002 is kept"
        ) as found:
            train({**config, "steps": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(found.value)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000002"]
    assert train({**config, "steps": 4}).steps == 4


def test_the_state_is_the_newest_one_and_old_checkpoints_go(tmp_path):
    config = tiny_run(tmp_path, steps=6, save_every=1, keep=3)
    train(config)
    found = sorted(p.name for p in (Path(config["out"]) / "checkpoints").iterdir())
    assert found == ["step-00000004", "step-00000005", "step-00000006"]
    for name in found:
        florence2.load(Path(config["out"]) / "checkpoints" / name)
    assert [n for n in found if (Path(config["out"]) / "checkpoints" / n / "state").exists()] == found[-1:]


def test_sigterm_saves_within_a_step(tmp_path):
    config = tiny_run(tmp_path, steps=100_000, save_every=100_000)
    process = subprocess.Popen(command(tmp_path, config, "--json"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    rest = process.stdout.read()
    assert process.wait(60) == 130
    done = steps(config["out"])
    assert json.loads(rest.splitlines()[-1])["steps"] == done[-1]
    assert RunFolder(config["out"]).newest().name == f"step-{done[-1]:08d}"
    florence2.load(config["out"])


def test_killed_in_mid_save(tmp_path):
    """Killed again while it saves after every step: what stands opens, and the run goes on."""
    config = tiny_run(tmp_path, steps=100_000, save_every=1)
    made = 0
    for turn in range(2):
        process = subprocess.Popen(command(tmp_path, config, "--json"), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(2):
            process.stdout.readline()
        time.sleep(0.03 * turn)
        process.kill()
        process.wait(60)
        process.stdout.close()
        florence2.load(config["out"])
        newest = RunFolder(config["out"]).newest()
        step = int(newest.name[5:])
        assert step > made
        made = step
    train({**config, "steps": made + 1})
    assert steps(config["out"]) == list(range(1, made + 2))
    assert not list(Path(config["out"]).rglob("*.new"))


@pytest.mark.parametrize("name", ["save_model", "dcp.save"])
def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch, name):
    config = tiny_run(tmp_path, steps=2)
    train(config)
    before = state_of(Path(config["out"]) / "checkpoints")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"florence2.training.trainer.{name}", full)
    with pytest.raises(OSError, match="step 3: cannot be saved .*No space left.*; the checkpoint of step-00000002"):
        train({**config, "steps": 3})
    monkeypatch.undo()
    assert state_of(Path(config["out"]) / "checkpoints") == before
    assert train({**config, "steps": 4}).steps == 4
    assert steps(config["out"]) == [1, 2, 3, 4]


def test_a_disk_that_is_full_is_one_line(tmp_path):
    """A process that may write files of 100 kB only: the weights do not fit."""
    config = tiny_run(tmp_path, steps=2)
    train({**config, "steps": 1})

    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = subprocess.run(command(tmp_path, config), capture_output=True, text=True, preexec_fn=small)
    assert process.returncode == 1, process.stderr
    assert len(process.stderr.strip().splitlines()) == 1 and "cannot be saved" in process.stderr
    assert "step-00000001 is kept" in process.stderr
    florence2.load(config["out"])
    assert train(config).steps == 2


def test_a_loss_that_is_no_number_keeps_the_batch(tmp_path):
    config = tiny_run(tmp_path, lr=1e12, clip=0, steps=20)
    with pytest.raises(ValueError, match="the loss is .* the batch is kept in"):
        train({**config, "save_every": 20})
    (kept,) = (Path(config["out"]) / "nonfinite").glob("*.pt")
    (batch,) = torch.load(kept, weights_only=True)
    rows = json.loads(kept.with_suffix(".json").read_text())
    assert batch["pictures"].shape[1:] == (32, 32, 3) and len(rows) == 8 and rows[0]["target_ids"]


def test_weights_that_no_one_could_open_are_not_saved(tmp_path):
    config = tiny_run(tmp_path, steps=2)
    train(config)
    file = Path(config["out"]) / "config.yaml"
    data = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**data, "lr": 1e12, "clip": 0}))
    with pytest.raises(ValueError, match="expected weights within 65504"):
        train({**config, "lr": 1e12, "clip": 0, "steps": 20, "save_every": 1})
    florence2.load(config["out"])
    assert RunFolder(config["out"]).newest().name == "step-00000002"


def test_a_second_interrupt_in_an_evaluation_or_save_loses_nothing(tmp_path, monkeypatch):
    config = tiny_run(tmp_path, steps=2)
    train(config)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("florence2.training.trainer.save_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train({**config, "steps": 3})
    monkeypatch.undo()
    florence2.load(config["out"])
    assert train({**config, "steps": 3}).steps == 3


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "progress"])
def test_a_damaged_state_is_refused_in_one_line(tmp_path, damage):
    config = tiny_run(tmp_path, steps=1)
    train(config)
    state = RunFolder(config["out"]).newest() / "state"
    file = state / "progress.json" if damage == "progress" else max(state.iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1 if damage == "flip" else 0
    file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    if damage == "gone":
        file.unlink()
    with pytest.raises(ValueError, match=f"{file.name}: damaged.*--restart") as refused:
        train({**config, "steps": 2})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", '{"metric": "loss"}', "[1]"])
def test_a_damaged_best_json_is_refused_by_its_name(tmp_path, text):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "best.json").write_text(text)
    with pytest.raises(ValueError, match=r"best/best\.json.*; check that the file is whole"):
        RunFolder(tmp_path).best_facts()


def test_damaged_lines_and_what_is_held_out_are_refused_by_their_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": \n{"st')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not JSON"):
        read_lines(tmp_path / "metrics.jsonl")
    (tmp_path / "held_out.json").write_text("[")
    with pytest.raises(ValueError, match=r"held_out\.json:1: not JSON"):
        remembered_of(tmp_path / "checkpoints" / "step-1")

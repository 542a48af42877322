"""Several ranks (gloo, on the CPU): the same losses at any number of them, resumed at another, none left hanging."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import florence2
from florence2 import scenes
from florence2.scenes.scene_files import write
from florence2.training import train
from florence2.training.run_folder import RunFolder, read_lines
from tests.training.tiny import tiny_run


def launch(tmp_path, config, ranks):
    file = tmp_path / f"ranks{ranks}.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "-m", "florence2", "train", "--config", str(file)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def run(tmp_path, config, ranks):
    process = launch(tmp_path, config, ranks)
    out, error = process.communicate(timeout=280)
    assert process.returncode == 0, error
    return out, error


def _rank(config, rank, ranks, port):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(config)


def forked(config, ranks, rank_of=_rank):
    """The ranks as children of this process, which has loaded all that they need, by torchrun's variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = multiprocessing.get_context("fork").Process
    children = [start(target=rank_of, args=(config, rank, ranks, port)) for rank in range(ranks)]
    for child in children:
        child.start()
    for child in children:
        child.join(280)
    codes = [child.exitcode for child in children]
    assert codes == [0] * ranks or rank_of is not _rank
    return codes


def losses(config):
    return [row["loss"] for row in read_lines(Path(config["out"]) / "metrics.jsonl")]


def config_of(tmp_path, name, **more):
    base = tiny_run(
        tmp_path, dense=0, steps=50, lr=1e-3, schedule="constant", save_every=25, accumulate=2, batch_size=4
    )
    return {**base, "out": str(tmp_path / name), **more}


def test_fifty_losses_agree_between_one_two_and_four_ranks_also_resumed(tmp_path):
    one = config_of(tmp_path, "one", precision="fp64")
    train(one)
    several = config_of(tmp_path, "several", precision="fp64")
    out, _ = run(tmp_path, {**several, "steps": 25}, 2)
    assert out.count("25 steps in") == 1, "one rank speaks"
    forked(several, 4)
    assert len(losses(one)) == len(losses(several)) == 50
    assert losses(several) == pytest.approx(losses(one), rel=1e-9)
    assert losses(one)[-1] < losses(one)[0]


def test_in_fp32_fifty_losses_agree_between_one_two_and_four_ranks(tmp_path):
    one, two, four = (config_of(tmp_path, name) for name in ("one", "two", "four"))
    train(one)
    forked(two, 2)
    forked(four, 4)
    assert len(losses(one)) == 50
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert losses(four) == pytest.approx(losses(one), rel=1e-4)


def test_in_fp32_they_agree_too_with_evaluations_and_dense_loss(tmp_path):
    more = {"steps": 12, "dense": 1.0, "ema": 0.9}
    source = {"path": "scenes:count=64,objects=1-2,signs=0", "tasks": ["OD"], "pairs": 1}
    one, two = (config_of(tmp_path, name, data=[source], **more) for name in ("one", "two"))
    train(one)
    forked(two, 2)
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    rows = [read_lines(Path(config["out"]) / "metrics.jsonl") for config in (one, two)]
    for ours, theirs in zip(*rows):
        assert theirs["dense_object"] == pytest.approx(ours["dense_object"], rel=1e-3)
        assert (ours["pairs"], ours["tokens"], ours["pictures"]) == (
            theirs["pairs"], theirs["tokens"], theirs["pictures"],
        )  # fmt: skip


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path, monkeypatch):
    from florence2.training.config_files import from_mapping
    from florence2.training.ranks import Ranks
    from florence2.training.setup import prepare

    with pytest.raises(ValueError, match="batch_size: expected a multiple of the 3 ranks, got 4"):
        prepare(from_mapping(config_of(tmp_path, "x")), Ranks(0, 3))


def test_a_rank_that_dies_ends_all_with_a_reason(tmp_path):
    config = config_of(tmp_path, "dies", steps=100_000, save_every=5)
    process = launch(tmp_path, config, 2)
    metrics = Path(config["out"]) / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and len(metrics.read_text().splitlines()) > 6):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if b"florence2" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode != 0 and "exitcode: -9" in error.replace("exitcode  : -9", "exitcode: -9")
    florence2.load(config["out"])


def test_a_rank_without_a_pair_goes_on_with_kept_features(tmp_path):
    """Seven pairs in batches of two: the last one is of one rank alone."""
    truth = write(tmp_path / "toy", (scenes.draw(seed, signs=0, size=48) for seed in range(7)))
    source = {"path": str(truth), "tasks": ["OD"]}
    more = {"strategy": "frozen_vision", "cache_features": "memory", "steps": 1, "epochs": 1, "batch_size": 2}
    one, two = (config_of(tmp_path, name, data=[source], **more, accumulate=1) for name in ("one", "two"))
    train(one)
    forked(two, 2)
    assert len(losses(one)) == 4 and losses(two) == pytest.approx(losses(one), rel=1e-4)


def _rank_that_fails(config, rank, ranks, port):
    from florence2.training.batches import BatchMaker

    make, made = BatchMaker.__getitem__, []

    def broken(self, planned):
        made.append(planned)
        if len(made) == 20:  # after those of the loss before the first step
            raise ValueError("a picture has gone")
        return make(self, planned)

    if rank == 1:
        BatchMaker.__getitem__ = broken
    _rank(config, rank, ranks, port)


def test_where_a_rank_cannot_make_its_batch_all_end_and_the_last_step_is_saved(tmp_path):
    config = config_of(tmp_path, "broken", save_every=1000)
    assert forked(config, 2, _rank_that_fails) == [1, 1]
    done = [row["step"] for row in read_lines(Path(config["out"]) / "metrics.jsonl")]
    assert done and RunFolder(config["out"]).newest().name == f"step-{done[-1]:08d}"
    forked({**config, "steps": done[-1] + 1}, 2)

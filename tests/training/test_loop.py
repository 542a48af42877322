"""The loop: it learns, it resumes bit for bit, it counts what it should, it changes what a strategy names."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from florence2.model.checkpoint import load_model
from florence2.model.tower_input import normalise
from florence2.training import train
from florence2.training.config_files import from_mapping
from florence2.training.setup import prepare
from florence2.training.trainer import Trainer
from tests.training.tiny import tiny_run


def lines(out):
    return [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    return load_model(out).state_dict()


def test_loss_falls_on_a_toy_set(tmp_path):
    again = tiny_run(tmp_path, out=str(tmp_path / "long"), steps=60)
    result = train(again)
    assert result.loss_after < 0.8 * result.loss_before
    first, last = lines(again["out"])[:10], lines(again["out"])[-10:]
    assert sum(row["loss"] for row in last) < 0.8 * sum(row["loss"] for row in first)
    assert sum(row["dense_object"] for row in last) < sum(row["dense_object"] for row in first)


def test_metrics_have_the_promised_form(tmp_path):
    config = tiny_run(tmp_path)
    seen = []
    result = train(config, progress=seen.append)
    rows = lines(config["out"])
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["tokens"] > 0 and row["loss"] > 0 and row["pairs"] <= 8 for row in rows)
    assert seen == rows
    assert result.steps == 6 and not result.interrupted and len(result.weights_sha256) == 64


@pytest.mark.parametrize("precision, ema", [("fp32", 0.0), ("bf16", 0.9)])
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, precision, ema):
    whole = tiny_run(tmp_path, precision=precision, ema=ema, dropout=0.1, drop_path=0.1, schedule="constant")
    first = train(whole)
    parted = {**whole, "out": str(tmp_path / "parted")}

    def stop(line):
        if line["step"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    broken = train(parted, progress=stop)
    assert broken.interrupted and broken.steps == 4
    second = train(parted)
    assert second.weights_sha256 == first.weights_sha256
    assert second.loss_before == first.loss_before
    ours, theirs = lines(whole["out"]), lines(parted["out"])
    assert [(r["step"], r["loss"], r["gradient_norm"]) for r in ours] == [
        (r["step"], r["loss"], r["gradient_norm"]) for r in theirs
    ]


def test_a_signal_to_the_whole_group_saves_and_the_run_goes_on(tmp_path):
    config = tiny_run(tmp_path, steps=4000, workers=1, save_every=4000)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "florence2", "train", "--config", str(file), "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    done = len(lines(config["out"]))
    assert 0 < done < 4000
    result = train({**config, "workers": 0, "steps": done + 2})
    assert [row["step"] for row in lines(config["out"])] == list(range(1, done + 3)) and result.steps == done + 2


def test_metrics_written_after_the_last_save_are_cut_back(tmp_path):
    config = tiny_run(tmp_path, steps=3)
    train(config)
    with open(Path(config["out"]) / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "loss": 0.0, "tokens": 1}\n{"step": 5, "lo')  # killed in mid-line
    train({**config, "steps": 5})
    assert [row["step"] for row in lines(config["out"])] == [1, 2, 3, 4, 5]


def test_a_learning_rate_of_zero_changes_nothing(tmp_path):
    config = tiny_run(tmp_path, lr=0, steps=2)
    result = train(config)
    assert result.loss_after == result.loss_before
    before, after = weights(config["model"]), weights(config["out"])
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("strategy", ["full", "frozen_vision", "decoder"])
def test_a_strategy_changes_exactly_its_parameters(tmp_path, strategy):
    config = tiny_run(tmp_path, strategy=strategy, dense=0, steps=3, weight_decay=0.1)
    train(config)
    before, after = weights(config["model"]), weights(config["out"])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    meant = {
        "full": set(before),
        "frozen_vision": {n for n in before if not n.startswith("vision_tower.")},
        "decoder": {n for n in before if n.startswith("language.decoder.layers.")},
    }[strategy] - {"projector.frames"}
    silent = {n for n in meant if n.endswith(".k.bias")}  # softmax does not see a constant added to every key
    assert changed - silent == meant - silent


def test_pads_do_not_count_in_the_loss(tmp_path):
    job = prepare(from_mapping(tiny_run(tmp_path, dense=0)))
    trainer = Trainer(job)
    (batch,) = job.first(1)
    loss, tokens, _ = trainer.module.eval()(batch)
    features = job.model.encode_image(normalise(batch.pictures, job.model.config))
    total, count = 0.0, 0
    for part in batch.parts:
        for row in range(len(part.labels)):  # each pair by itself, without any pad
            labels = part.labels[row][part.labels[row] >= 0]
            prompt = part.prompt_ids[row][part.prompt_mask[row]]
            decoder_ids = part.decoder_ids[row : row + 1, : len(labels)]
            logits = job.model(features[part.picture[row : row + 1]], prompt[None], None, decoder_ids)
            total += float(torch.nn.functional.cross_entropy(logits[0], labels, reduction="sum").detach())
            count += len(labels)
    assert count == batch.tokens == tokens
    assert float(loss.detach()) == pytest.approx(total, rel=1e-5)


def test_accumulated_batches_weigh_each_token_alike(tmp_path):
    config = from_mapping(tiny_run(tmp_path, dense=0, accumulate=2, steps=1))
    train(config)
    job = prepare(from_mapping(tiny_run(tmp_path, dense=0, out=str(tmp_path / "other"))))
    trainer = Trainer(job)
    sums = [trainer.module.eval()(batch)[:2] for batch in job.first(2)]
    (row,) = lines(config.out)
    assert row["tokens"] == sum(tokens for _, tokens in sums)
    assert row["loss"] == pytest.approx(sum(float(loss.detach()) for loss, _ in sums) / row["tokens"], rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(ValueError, match="the loss is"):
        train(tiny_run(tmp_path, lr=1e12, clip=0, steps=20, warmup_steps=0))


def test_another_runs_state_is_refused(tmp_path):
    config = tiny_run(tmp_path, steps=1)
    train(config)
    with pytest.raises(ValueError, match="another run"):
        train({**config, "strategy": "decoder", "steps": 2})


def test_a_warm_up_longer_than_the_run_is_stated(tmp_path):
    noted = prepare(from_mapping(tiny_run(tmp_path, warmup_steps=12))).notes
    assert any(
        "warmup_steps: 12 are more than the run's 6 steps: the rate rises to 50 % of lr" in note for note in noted
    )
    assert not prepare(from_mapping(tiny_run(tmp_path, warmup_steps=6))).notes


def test_a_vocabulary_size_that_changes_nothing_is_stated(tmp_path):
    """A recipe of a new model whose second stage names the first one's goes on with it."""
    config = tiny_run(tmp_path, vocab_size=900)
    (note,) = prepare(from_mapping(config)).notes
    assert note == f"vocab_size: 900 changes nothing: the vocabulary is that of {config['model']}"
    again = from_mapping({**config, "model": "new:nano", "dense": 0})
    assert not prepare(again).notes

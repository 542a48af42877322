"""The shipped recipes open; the loss in chunks is the plain one; a checkpoint is pushed."""

import pytest
import torch
import torch.nn.functional as F

from florence2.cli import main
from florence2.training import read_config, step, train
from florence2.training.config_files import RECIPES, from_mapping, to_mapping
from florence2.training.dry_run import dry_run
from florence2.training.loss import TokenLoss
from florence2.training.setup import prepare
from florence2.training.step import TrainingStep
from tests.training.tiny import tiny_model, tiny_run


@pytest.mark.parametrize("name", sorted(file.stem for file in RECIPES.glob("*.yaml")))
def test_every_recipe_opens(name):
    config = read_config(name)
    assert from_mapping(to_mapping(config)) == config


def test_the_docvqa_recipe_is_the_blogs():
    config, lora = read_config("docvqa"), read_config("docvqa_lora")
    (source,) = config.data
    assert (source.tasks, source.answers, source.split) == ({"DocVQA": 1.0}, "first", "train")
    assert (config.strategy, config.lr, config.batch_size, config.epochs) == ("frozen_vision", 1e-6, 6, 7)
    assert (config.schedule, config.warmup_steps, config.optimizer.betas) == ("linear", 0, (0.9, 0.999))
    assert lora.strategy == "lora" and lora.lora.rank == 8 and lora.data == config.data


@pytest.mark.parametrize("name", ["pretrain_base", "pretrain_large"])
def test_pretraining_is_planned(name, tmp_path):
    """The recipe as it is, but for a model, a set and a batch that a test can hold."""
    changes = [f"--model={tiny_model(tmp_path)}", f"--out={tmp_path / 'out'}", "--batch_size=4", "--data.0.pairs=2"]
    changes += ["--image_size=64"]
    config = read_config(name, [*changes, "--data.0.path=scenes:count=8,objects=1-2,signs=0", "--precision=fp32"])
    plan = dry_run(config)
    assert plan.steps == {"pretrain_base": 1464844, "pretrain_large": 976563}[name] and len(plan.first_batch) == 4
    assert config.warmup_steps == 5000 and config.schedule == "cosine"


@pytest.mark.parametrize("smoothing, sigma", [(0.0, 0.0), (0.1, 0.0), (0.1, 4.0)])
def test_the_loss_in_chunks_is_the_plain_one(tmp_path, monkeypatch, smoothing, sigma):
    job = prepare(from_mapping(tiny_run(tmp_path)))
    (batch,) = job.first(1)
    module = TrainingStep(job.model.double(), loss=TokenLoss(smoothing, sigma, job.tokenizer.loc0)).train()
    found = []
    for logits in (1 << 25, 5 * job.model.config.text.vocab_size):
        monkeypatch.setattr(step, "LOGITS", logits)
        job.model.zero_grad()
        loss, _, parts = module(batch)
        loss.backward()
        found.append((loss.item(), parts["sequence"].item(), [p.grad.clone() for p in job.model.parameters()]))
    (loss, nll, gradients), (other, other_nll, others) = found
    assert other == pytest.approx(loss, rel=1e-12) and other_nll == pytest.approx(nll, rel=1e-12)
    for one, two in zip(gradients, others):
        torch.testing.assert_close(two, one, rtol=1e-9, atol=1e-12)
    features = job.model.encode_image(step.normalise(batch.pictures, job.model.config).double())
    plain = 0.0
    for part in batch.parts:
        out = job.model(features[part.picture], part.prompt_ids, part.prompt_mask, part.decoder_ids)
        plain += F.cross_entropy(out.flatten(0, 1), part.labels.flatten(), ignore_index=-100, reduction="sum").item()
    assert nll == pytest.approx(plain, rel=1e-6)
    assert (abs(loss - nll) > 0.01) is bool(smoothing or sigma), "the soft loss is trained, the plain one reported"


def test_push_lists_and_sends_the_checkpoint_alone(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    tiny_model(folder)
    for name in ("metrics.jsonl", "config.yaml", "held_out.json"):
        (folder / name).write_text("{}")
    assert main(["push", str(folder), "someone/nano", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "model.safetensors" in text and "nothing was sent" in text
    assert not any(name in text for name in ("metrics", "held_out", "config.yaml"))
    sent = []

    class Api:
        def create_repo(self, name, **options):
            sent.append((name, options["exist_ok"]))

        def upload_folder(self, **options):
            sent.append(options)
            return "https://hub/someone/nano"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert main(["push", str(folder), "someone/nano"]) == 0
    assert sent[0] == ("someone/nano", True) and "model.safetensors" in sent[1]["allow_patterns"]
    assert "held_out.json" not in sent[1]["allow_patterns"]
    assert main(["push", str(folder), "nano", "--dry-run"]) == 1 and "expected OWNER/NAME" in capsys.readouterr().err
    assert main(["push", str(tmp_path / "no"), "a/b", "--dry-run"]) == 1


def test_push_tells_of_a_base_that_no_one_else_has(tmp_path, capsys):
    config = tiny_run(tmp_path, strategy="lora", dense=0, steps=1)
    train(config)
    assert main(["push", config["out"], "a/b", "--dry-run"]) == 0
    found = capsys.readouterr()
    assert (
        "adapter_model.safetensors" in found.out and f"base is {config['model']}, a folder of this machine" in found.err
    )
    assert main(["push", config["model"], "a/b", "--dry-run"]) == 0 and "base" not in capsys.readouterr().err

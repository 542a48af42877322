"""A pull towards the start: what it adds to the loss, at unscored tokens too, and that the start stays as it was."""

import copy
import json

import pytest
import torch

from florence2.training import step, train
from florence2.training.batches import UNSCORED
from florence2.training.config import TrainConfig
from florence2.training.config_files import from_mapping
from florence2.training.pull import Pull
from florence2.training.setup import prepare
from florence2.training.step import TrainingStep
from tests.training.tiny import tiny_run


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    job = prepare(from_mapping(tiny_run(tmp_path_factory.mktemp("pull"))))
    job.model.double()
    return job


def batch_of(job):
    (batch,) = job.first(1)
    for part in batch.parts:  # one token of each pair is left unscored
        part.labels[:, 1] = UNSCORED
    return batch


def other(job, scale):
    """A start that thinks otherwise than the model."""
    start = copy.deepcopy(job.model).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.mul_(scale)
    return start


def logits_of(model, batch, part):
    features = model.encode_image(step.normalise(batch.pictures, model.config).double())
    return model(features[part.picture], part.prompt_ids, part.prompt_mask, part.decoder_ids)


@pytest.mark.parametrize("scored, unscored", [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7), (1.0, 0.0)])
@pytest.mark.parametrize("logits", [1 << 25, 900])
def test_the_loss_is_that_of_mixed_targets(job, monkeypatch, scored, unscored, logits):
    monkeypatch.setattr(step, "LOGITS", logits)
    start, batch = other(job, 1.1), batch_of(job)
    job.model.eval()
    found, tokens, parts = TrainingStep(job.model, pull=Pull(start, scored, unscored)).eval()(batch)
    expected = plain = 0.0
    with torch.no_grad():
        for part in batch.parts:
            mine, theirs = (logits_of(model, batch, part) for model in (job.model, start))
            for logs, wanted, labels in zip(mine.log_softmax(-1), theirs.softmax(-1), part.labels):
                for log, soft, label in zip(logs, wanted, labels.tolist()):
                    towards = float(-(soft * log).sum())
                    if label >= 0:
                        plain -= float(log[label])
                        expected += (scored - 1) * float(log[label]) + scored * towards
                    elif label == UNSCORED:
                        expected += unscored * towards
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert float(parts["sequence"]) == pytest.approx(plain, rel=1e-9), "what is reported is the labels' own loss"
    assert tokens == sum(int((part.labels >= 0).sum()) for part in batch.parts)


def test_no_gradient_reaches_the_start_and_a_model_equal_to_it_is_not_moved(job):
    start, batch = other(job, 1.0), batch_of(job)
    job.model.zero_grad()
    TrainingStep(job.model, pull=Pull(start, 1.0, 1.0)).eval()(batch)[0].backward()
    assert max(float(p.grad.abs().max()) for p in job.model.parameters() if p.grad is not None) < 1e-9
    assert all(p.grad is None for p in start.parameters())


def test_a_run_pulls_and_a_resumed_one_pulls_to_the_same_start(tmp_path):
    def run(out, **keys):
        train(
            {
                **tiny_run(tmp_path),
                "out": str(tmp_path / out),
                "pull": 0.5,
                "pull_unscored": 0.5,
                "save_every": 1,
                "schedule": "constant",
                **keys,
            }
        )
        lines = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    whole = run("whole", steps=4)
    run("parts", steps=2)
    assert run("parts", steps=4) == whole


@pytest.mark.parametrize("keys", [{"model": "new:nano"}, {"strategy": "frozen_vision", "cache_features": "memory"}])
def test_what_has_no_start_to_ask_is_refused(tmp_path, keys):
    with pytest.raises(ValueError, match="pull: goes with a model that is there"):
        TrainConfig(str(tmp_path), [{}], pull=0.1, **keys)

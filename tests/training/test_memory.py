"""Predicted memory beside the peak of a process that trains, and how it moves with the config."""

import dataclasses
import json
import subprocess
import sys

import pytest

from florence2.model import davit
from florence2.model.attention import attention_by_products
from florence2.model.model_config import SIZES
from florence2.training.config_files import from_mapping
from florence2.training.memory import Shapes, of_larger, predicted
from florence2.training.setup import prepare

CHILD = """
import json, resource, sys
import torch
from florence2.training.config_files import from_mapping
from florence2.training.memory import Shapes
from florence2.training.setup import prepare
from florence2.training.trainer import Trainer
torch.set_num_threads(1)
job = prepare(from_mapping(json.loads(sys.argv[1])))
trainer, shapes = Trainer(job), []
for number, batch in enumerate(job.first(2)):
    trainer.step(number + 1, [batch])
    shapes.append(Shapes.of(batch))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(json.dumps([int(peak) * 1024, [[s.pictures, s.parts] for s in shapes]]))
"""


def run_of(**changes):
    data = [{"path": "scenes:count=500,objects=2-4,signs=0", "tasks": ["OD", "CAPTION"], "pairs": 1}]
    return {"out": "unused", "data": data, "model": "nano", "batch_size": 64, "dropout": 0.1, **changes}


def gigabytes(config, size="base", shapes=None, **kind):
    shape = dataclasses.replace(SIZES[size], **kind)
    found = predicted(from_mapping({"out": "x", "data": [{"path": "x"}], **config}), shape, shapes or Shapes.even(2))
    return {name: value / 1e9 for name, value in found.items()}


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is read from /proc")
@pytest.mark.parametrize("more", [{}, {"dense": 1.0}])
def test_the_prediction_is_within_a_tenth_of_a_process_that_trains(more):
    config = run_of(**more)
    command = [sys.executable, "-c", CHILD, json.dumps(config)]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    measured, shapes = min(json.loads(out.splitlines()[-1]) for out in runs)  # what the allocator keeps varies
    head = prepare(from_mapping(config)).head
    found = max(
        sum(predicted(from_mapping(config), SIZES["nano"], Shapes(n, tuple(map(tuple, parts))), None, head).values())
        for n, parts in shapes
    )
    assert found == pytest.approx(measured, rel=0.1)


def test_known_parts_are_exact():
    found = gigabytes({})
    parameters = 0.231416  # of base, in thousand millions; the tied matrix once
    assert found["weights"] == pytest.approx(4 * parameters, rel=0.001)
    assert found["moments"] == pytest.approx(8 * parameters, rel=0.001)
    lower = gigabytes({"precision": "bf16", "ema": 0.9})
    assert lower["weights"] == pytest.approx((4 + 2 + 4) * parameters, rel=0.001)
    frozen = gigabytes({"strategy": "frozen_vision", "cache_features": True, "cache_gb": 2})
    assert frozen["features"] == 2 and frozen["moments"] == pytest.approx(8 * (parameters - 0.0904), rel=0.01)
    adapter = gigabytes({"strategy": "lora"})
    assert adapter["moments"] < 0.05 and adapter["weights"] == pytest.approx(4 * parameters, rel=0.03)


def test_options_that_save_memory_do(monkeypatch):
    small = {"image_size_wh": (384, 384)}
    full = gigabytes({}, **small)["step"]
    assert gigabytes({"gradient_checkpointing": True}, **small)["step"] < 0.7 * full
    assert gigabytes({"strategy": "frozen_vision"}, **small)["step"] < 0.6 * full
    assert gigabytes({}, shapes=Shapes.even(4), **small)["step"] > 1.6 * full
    assert (
        gigabytes({}, shapes=Shapes.even(4, asks=4), **small)["step"]
        < gigabytes({}, shapes=Shapes.even(4), **small)["step"]
    )
    lower = gigabytes({"precision": "bf16"}, **small)["step"]
    monkeypatch.setattr(davit, "attention", attention_by_products)  # as it is in bf16
    assert lower < 0.6 * gigabytes({}, **small)["step"]


def test_shapes_are_those_of_so_many_batches():
    shapes = Shapes(6, ((4, 10, 20), (2, 12, 30)))
    assert shapes.times(2) == Shapes(12, ((4, 10, 20), (2, 12, 30), (4, 10, 20), (2, 12, 30)))
    assert shapes.times(1.5) == Shapes(9, ((4, 10, 20), (2, 12, 30), (2, 10, 20), (1, 12, 30)))


def test_a_much_larger_batch_is_in_proportion():
    config = from_mapping({"out": "x", "data": [{"path": "x"}], "model": "nano"})
    shapes = Shapes(4, ((4, 10, 20),))
    whole = predicted(config, SIZES["nano"], shapes.times(5))["step"]
    assert of_larger(config, SIZES["nano"], shapes, 5.0, 10)["step"] == pytest.approx(whole, rel=0.01)


def test_rows_of_new_tokens_hold_the_whole_matrix():
    small = {"image_size_wh": (384, 384)}
    adapter, grown = (gigabytes({"strategy": "lora", **more}, **small) for more in ({}, {"new_tokens": ["<a>"]}))
    matrix = 4 * SIZES["base"].text.vocab_size * SIZES["base"].text.d_model / 1e9
    assert grown["moments"] - adapter["moments"] == pytest.approx(2 * matrix, rel=0.01)

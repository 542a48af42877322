"""The device that a name means, and what is refused in one line."""

import os
import subprocess
import sys

import pytest
import torch

import florence2
from florence2.cli import main
from florence2.model.device import to_device

NO_GPU = not torch.cuda.is_available()


def test_auto_is_a_gpu_where_there_is_one():
    assert to_device("auto") == to_device() == to_device(None) == torch.device("cpu" if NO_GPU else "cuda")
    assert to_device("cpu") == to_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:97", "tpu", "cpu:4", "", 3, *(["cuda", "mps"] if NO_GPU else [])])
def test_what_is_not_there_is_refused(name):
    with pytest.raises(ValueError, match="auto") as caught:
        to_device(name)
    assert "\n" not in str(caught.value) and str(name) in str(caught.value)
    with pytest.raises(ValueError, match="device"):
        florence2.load("nano", device=name)


@pytest.mark.parametrize("device", ["banana", *(["cuda", "mps"] if NO_GPU else ["cuda:97"])])
@pytest.mark.parametrize(
    "command",
    [
        ["predict", "x.png", "--task", "OD"],
        ["evaluate", "--model", "nano", "--data", "scenes:2", "--task", "OD", "--out", "run", "--no-grey"],
        ["evaluate", "--model", "student:nano", "--data", "scenes:2", "--task", "OD", "--out", "run", "--no-grey"],
        ["annotate", "photos", "--out", "store", "--with", "student:nano"],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_every_command_refuses_it(command, device, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for path in ("x.png", "photos/x.png"):
        (tmp_path / path).write_bytes(florence2.pixels.encode(florence2.scenes.draw(2**31)[0]))
    assert main([*command, "--device", device]) == 1
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0 and device in error and "cpu" in error


def test_a_forked_child_loads_and_answers():
    program = """
import os, sys, torch, florence2
florence2.load
square = torch.randn(800, 800); square @ square
for _ in range(2):
    child = os.fork()
    if child == 0:
        image, _ = florence2.scenes.draw(2**31 + 8, objects=(3, 3), signs=0.6, size=384)
        os._exit(0 if len(florence2.load("nano").predict(image, "<OD>")) == 3 else 9)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "OMP_NUM_THREADS": "2"}, timeout=100)
    assert done.returncode == 0

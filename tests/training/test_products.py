"""The switch of fp32 products: on only where asked for or known to help, never left behind, never bf16 unasked."""

import pytest
import torch

from florence2.training import products, train
from florence2.training.products import float32_products
from tests.training.tiny import tiny_run

CPU = torch.device("cpu")


@pytest.mark.parametrize("choice, precision, processor, error, switched", [
    ("auto", "fp32", "AMD EPYC", 1e-7, True),
    ("auto", "fp32", "AMD EPYC", 1e-3, False),  # it would compute in bfloat16
    ("auto", "fp32", "GenuineIntel", 1e-7, False),  # not known to help
    ("auto", "bf16", "AMD EPYC", 1e-7, False),
    ("on", "fp32", "GenuineIntel", 1e-3, True),
    ("off", "fp32", "AMD EPYC", 1e-7, False),
])  # fmt: skip
def test_when_it_is_switched(monkeypatch, choice, precision, processor, error, switched):
    monkeypatch.setattr(products, "_processor", lambda: processor)
    monkeypatch.setattr(products, "error", lambda device: error)
    with float32_products(choice, CPU, precision) as stated:
        assert (torch.get_float32_matmul_precision() == "medium") is switched
        assert ("lower type" in stated) is (switched and error > 1e-5) and bool(stated) is switched
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_error_tells_float32_from_bfloat16(monkeypatch):
    assert products.error(CPU) < 1e-2  # whatever this machine does with the switch
    product = torch.Tensor.__matmul__

    def lower(a, b):
        return product(a.bfloat16(), b.bfloat16()).float() if a.dtype == torch.float32 else product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", lower)
    assert products.error(CPU) > products.SAME


def test_a_run_states_it_and_leaves_the_switch_as_it_was(tmp_path):
    said = []
    train(tiny_run(tmp_path, fast_fp32=True, steps=1), on_message=said.append)
    assert any("fp32 products by torch's switch 'medium'" in line for line in said)
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="fast_fp32: expected one of auto, on, off"):
        train(tiny_run(tmp_path, fast_fp32="yes"))


def test_losses_stay_those_of_plain_float32(tmp_path):
    if products.error(CPU) >= products.SAME:
        expected = 1e-2
    else:
        expected = 1e-4
    losses = [
        train(tiny_run(tmp_path, fast_fp32=choice, steps=4, dense=0, out=str(tmp_path / choice))).loss_after
        for choice in ("on", "off")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=expected)

"""The loss of target tokens against plain formulas."""

import pytest
import torch

from florence2.training import train
from florence2.training.loss import TokenLoss
from tests.training.tiny import tiny_run

VOCABULARY, LOC0 = 1100, 40


def plain(logits, labels, smoothing, sigma):
    """Written out: the whole target distribution of every token, then its cross-entropy."""
    total = 0.0
    for row, label in zip(logits.log_softmax(-1).tolist(), labels.tolist()):
        target = [0.0] * VOCABULARY
        if sigma and LOC0 <= label < LOC0 + 1000:
            near = [i for i in range(LOC0, LOC0 + 1000) if abs(i - label) <= 3 * sigma]
            weights = [torch.exp(torch.tensor(-0.5 * ((i - label) / sigma) ** 2)).item() for i in near]
            for i, weight in zip(near, weights):
                target[i] = weight / sum(weights)
        else:
            target[label] = 1.0
        target = [(1 - smoothing) * share + smoothing / VOCABULARY for share in target]
        total -= sum(share * log for share, log in zip(target, row))
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("sigma", [0.0, 0.4, 3.0, 6.0])
def test_the_loss_is_its_formula(smoothing, sigma):
    generator = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(9, VOCABULARY, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 39, 40, 41, 500, 1030, 1039, 1040, 1099])  # before, at the edges of, within, after
    loss, nll = TokenLoss(smoothing, sigma, LOC0)(logits, labels)
    assert float(loss) == pytest.approx(plain(logits, labels, smoothing, sigma), rel=1e-6)
    assert float(nll) == pytest.approx(plain(logits, labels, 0.0, 0.0), rel=1e-9)


def test_soft_locations_prefer_a_near_bin():
    def loss(bin_):
        logits = torch.zeros(1, VOCABULARY)
        logits[0, LOC0 + bin_] = 5.0
        return float(TokenLoss(sigma=4.0, loc0=LOC0)(logits, torch.tensor([LOC0 + 500]))[0])

    assert loss(500) < loss(504) < loss(509) < loss(600)


def test_a_negative_width_is_refused(tmp_path):
    with pytest.raises(ValueError, match="soft_locations: expected at least 0, got -1"):
        train(tiny_run(tmp_path, soft_locations=-1))

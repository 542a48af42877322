"""A tiny model with random weights and a tokenizer trained on a few lines, saved in our own layout."""

import numpy as np
import pytest
import torch

from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import save_model
from florence2.model.florence import Florence
from florence2.model.model_config import ModelConfig, TextConfig, VisionConfig
from florence2.predictor import load

LINES = [
    "a red car beside a green tree",
    "two dogs on a blue sofa",
    "What does the image describe?",
    "Locate the objects",
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A checkpoint folder: what it says depends on picture and prompt, but means nothing."""
    path = tmp_path_factory.mktemp("tiny")
    tokenizer = Tokenizer.train(LINES * 4, 320)
    config = ModelConfig(
        VisionConfig(dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), heads=(1, 2, 3, 4), groups=(1, 2, 3, 4), window=4),
        TextConfig(
            tokenizer.vocab_size, d_model=48, encoder_layers=2, decoder_layers=2, encoder_heads=4, decoder_heads=4,
            encoder_ffn=96, decoder_ffn=96, max_positions=256,
        ),
        image_size_wh=(64, 64),
    )  # fmt: skip
    torch.manual_seed(0)
    model = Florence(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_().mul_(1.5 / weight[0].numel() ** 0.5)
        model.language.embedding.weight[2] *= 1.5  # answers end
    save_model(model, path)
    tokenizer.save(path)
    return path


@pytest.fixture(scope="session")
def tiny(folder):
    return load(folder)


@pytest.fixture(scope="session")
def pictures():
    """Pictures of different sizes and colours."""
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 255, (4, 5, 3)), np.ones((10 + n, 12, 1))).astype(np.uint8) for n in range(6)]

"""A model of a few thousand weights on 32-pixel pictures, and a toy set for it."""

from pathlib import Path

from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import save_model
from florence2.model.florence import Florence
from florence2.model.model_config import ModelConfig, TextConfig, VisionConfig
from florence2.training.init import initialise

WORDS = ["Locate the objects with category name in the image.", "What does the image describe?", "star circle house"]


def tiny_config(vocab_size: int) -> ModelConfig:
    vision = VisionConfig(
        dims=(16, 32), depths=(1, 1), heads=(2, 2), groups=(2, 2), window=4, patch_sizes=(7, 3), patch_strides=(4, 2),
        patch_paddings=(3, 1), patch_prenorm=(False, True), max_side=8, max_frames=1,
    )  # fmt: skip
    text = TextConfig(
        vocab_size=vocab_size, d_model=32, encoder_layers=1, decoder_layers=1, encoder_heads=2, decoder_heads=2,
        encoder_ffn=64, decoder_ffn=64, max_positions=256,
    )  # fmt: skip
    return ModelConfig(vision, text, image_size_wh=(32, 32))


def tiny_model(folder: Path) -> str:
    """A checkpoint folder of an untrained tiny model."""
    import torch

    tokenizer = Tokenizer.train(WORDS * 10, 320)
    torch.manual_seed(0)
    model = Florence(tiny_config(tokenizer.vocab_size))
    initialise(model, tokenizer.loc0)
    save_model(model, folder)
    tokenizer.save(folder)
    return str(folder)


def tiny_run(folder: Path, **changes) -> dict:
    """A short run on drawn scenes."""
    model = folder / "start"
    if not model.exists():
        tiny_model(model)
    return {
        "model": str(model),
        "out": str(folder / "out"),
        "data": [{"path": "scenes:count=64,objects=1-2,signs=0", "tasks": ["OD", "CAPTION"], "pairs": 2}],
        "steps": 6,
        "fast_fp32": "off",  # whose message would differ between machines
        "batch_size": 8,
        "lr": 3e-3,
        "dense": 1.0,
        "save_every": 3,
        "dropout": 0.0,
        "threads": 1,
        **changes,
    }

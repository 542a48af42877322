"""Pixels to the tower's input, equal to the last bit to the reference (Pillow's bicubic, then ImageNet statistics)."""

from __future__ import annotations

import numpy as np

from florence2.model.model_config import ModelConfig
from florence2.pixels import resize


def preprocess(array: np.ndarray, config: ModelConfig) -> np.ndarray:
    """An HWC uint8 RGB picture as the tower's input: (3, H, W) float32, squashed to the model's picture size."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"image: expected an HWC uint8 RGB array, got {array.dtype} of shape {array.shape}")
    if (array.shape[1], array.shape[0]) != config.image_size_wh:
        array = resize(array, config.image_size_wh)
    levels = levels_of(config)
    return np.stack([levels[c][array[:, :, c]] for c in range(3)])


def levels_of(config: ModelConfig) -> np.ndarray:
    """(3, 256) float32: what each grey level of each channel becomes; rounded where the reference rounds."""
    unit = (np.arange(256, dtype=np.float64) * (1 / 255)).astype(np.float32)
    mean = np.asarray(config.image_mean, np.float32)[:, None]
    std = np.asarray(config.image_std, np.float32)[:, None]
    return (unit - mean) / std

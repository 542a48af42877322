"""Small changes of a picture that leave every place and every word about it true: light and contrast.

What moves places is in moves.py.
"""

from __future__ import annotations

import random

import numpy as np


def augmented(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """The HWC uint8 picture a little brighter or darker, with a little more or less contrast and colour balance."""
    gain = rng.uniform(0.85, 1.15)
    balance = np.array([rng.uniform(0.96, 1.04) for _ in range(3)], np.float32)
    shift = rng.uniform(-12, 12)
    changed = (pixels.astype(np.float32) - 128) * gain * balance + 128 + shift
    return np.clip(changed, 0, 255).astype(np.uint8)

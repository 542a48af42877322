"""Pictures of the model's size on a device, to the tower's input there."""

from __future__ import annotations

import torch
from torch import Tensor

from florence2.model.image import levels_of
from florence2.model.model_config import ModelConfig


def normalise(pictures: Tensor, config: ModelConfig) -> Tensor:
    """(B, H, W, 3) uint8 pictures of the model's size as the tower's input (B, 3, H, W), to the bit as `preprocess`."""
    levels = torch.from_numpy(levels_of(config)).to(pictures.device)
    channels = pictures.permute(0, 3, 1, 2).int()
    return torch.stack([levels[c][channels[:, c]] for c in range(3)], 1)

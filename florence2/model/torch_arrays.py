"""Torch's arrays for a search (`florence2.arrays`), on the device of a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from florence2.arrays import MASKED
from florence2.model.device import put


class TorchArrays:
    """Tensors on one device."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def inference(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    def put(self, values: object) -> Tensor:
        if isinstance(values, np.ndarray) and self.device.type == "cpu":
            return torch.from_numpy(values)
        return put(values, self.device)

    def constant(self, values: tuple[int, ...]) -> Tensor:
        return _constant(values, self.device)

    def floats(self, x: Tensor) -> Tensor:
        return x.float()

    def copy(self, x: Tensor) -> Tensor:
        return x.clone()

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.device)

    def flags(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.bool, device=self.device)

    def arange(self, count: int) -> Tensor:
        return torch.arange(count, device=self.device)

    def stack(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(parts))

    def concat(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        return torch.cat(list(parts), axis)

    def gather(self, x: Tensor, columns: Tensor) -> Tensor:
        return x.gather(1, columns)

    def topk(self, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        found = x.topk(count)
        return found.values, found.indices

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.masked_fill(mask, MASKED)

    def mask(self, x: Tensor, mask: Tensor) -> None:
        x.masked_fill_(mask, MASKED)

    def mask_flat(self, x: Tensor, places: Tensor) -> None:
        x.view(-1).index_fill_(0, places, MASKED)

    def logsumexp(self, x: Tensor) -> Tensor:
        return x.logsumexp(-1, keepdim=True)

    def log_softmax(self, x: Tensor) -> Tensor:
        return x.log_softmax(-1)

    def into_exp(self, x: Tensor) -> Tensor:
        return x.exp_()

    def nansum(self, x: Tensor) -> Tensor:
        return x.nansum(-1, keepdim=True)

    def host(self, x: Tensor) -> np.ndarray:
        found: np.ndarray = x.numpy(force=True)
        return found

    def waits(self) -> bool:
        return self.device.type != "cpu"


@lru_cache(maxsize=64)
def _constant(values: tuple[int, ...], device: torch.device) -> Tensor:
    return put(values, device)

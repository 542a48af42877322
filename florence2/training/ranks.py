"""Several processes that train one model, as `torchrun` starts them. Knows sums and processes, not what is summed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from florence2.model.device import to_device

TIMEOUT = timedelta(hours=2)  # one rank evaluates while the others wait; a rank that dies is noticed at once


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this rank writes files and prints messages."""
        return self.rank == 0

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values by name, the same names on every rank, summed over all ranks."""
        if self.count == 1:
            return dict(values)
        numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(numbers)
        return dict(zip(values, numbers.tolist()))

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on any rank."""
        return bool(self.sum({"flag": float(flag)})["flag"])

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.count > 1:
            dist.barrier()

    def wrap(self, step: nn.Module) -> nn.Module:
        """The step with gradients averaged over the ranks."""
        if self.count == 1:
            return step
        devices = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(step, device_ids=devices, find_unused_parameters=True)

    def leave(self) -> None:
        """Leave the process group."""
        if self.count > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(device: str) -> Ranks:
    """The ranks that torchrun's variables name; alone without them."""
    count, rank, local = (int(os.environ.get(key, default)) for key, default in _VARIABLES)
    place = device_of(device, local)
    if count == 1:
        return Ranks(device=place)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=TIMEOUT)
    return Ranks(rank, count, place)


_VARIABLES = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def device_of(name: str, local: int = 0) -> torch.device:
    """The device of a config's name; of several GPUs this rank's own, where none is named by number."""
    device = to_device(name)
    return torch.device("cuda", local) if device.type == "cuda" and device.index is None else device

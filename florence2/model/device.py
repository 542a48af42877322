"""Where a model runs: the device that a name means, refused at once where this machine does not have it."""

from __future__ import annotations

import torch

AUTO = "auto"


def to_device(name: str | torch.device | None = AUTO) -> torch.device:
    """A device as torch names it (cpu, cuda, cuda:1, mps); "auto" or None: the first CUDA GPU, else the processor."""
    if name is None or name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ValueError(f"device: expected {_there()}, got {name!r:.60}") from None
    if str(device.type) not in _kinds() or (device.index or 0) >= max(1, _count(device.type)):
        raise ValueError(f"device: {str(name)!r:.60} is not there; expected {_there()}")
    return device


def put(values: object, device: torch.device | str | None) -> torch.Tensor:
    """Numbers of the host as a tensor on a device, without waiting for what a GPU computes at the time.

    A plain copy to a GPU waits for all that was queued before it; one from pinned memory is queued behind it instead.
    """
    if device is None or torch.device(device).type != "cuda":
        return torch.tensor(values, device=device)
    return torch.tensor(values, pin_memory=True).to(device, non_blocking=True)


def _kinds() -> list[str]:
    there = ["cuda"] if torch.cuda.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *there, "meta"]


def _count(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1


def _there() -> str:
    gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
    names = ["cpu", *gpus, *(kind for kind in _kinds() if kind == "mps")]
    return "auto or cpu (no GPU was found)" if names == ["cpu"] else ", ".join(("auto", *names))

"""The accelerators that a device's name means on this machine."""

from __future__ import annotations

import os

AUTO = "auto"
DRIVERS = ("/dev/nvidiactl", "/dev/dxg")  # of GPUs that torch could use: Linux, Windows' Linux


def accelerators(device: str) -> tuple[str, ...]:
    """`auto`: all GPUs there are, or none; `cuda`: all of them; any other name: that one; none for the processor.

    ValueError where the one that is named is not there. Torch is imported only where there may be a GPU.
    """
    if device == "cpu" or (device == AUTO and not any(map(os.path.exists, DRIVERS))):
        return ()
    from florence2.model.device import to_device

    place = to_device(device)
    if place.type == "cuda" and place.index is None:
        import torch

        return tuple(f"cuda:{n}" for n in range(torch.cuda.device_count()))
    return () if place.type == "cpu" else (str(place),)

"""Float32 matrix products by the quicker library of the machine, where they stay float32.

torch's own float32 products run far below an AMD processor's peak. `torch.set_float32_matmul_precision("medium")` lets
oneDNN do them, which doubles them there (measured: 92 to 234 GFLOP/s on one thread, docs/log.md). The same switch
allows bfloat16 inside where a processor has tiles for it, and on a GPU, so the result is compared before it is used.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

SAME = 1e-5  # relative to the largest number: a float32 product's error is below 1e-6, a bfloat16 one's about 1e-3
SWITCH = "medium"


@contextlib.contextmanager
def float32_products(choice: str, device: torch.device, precision: str) -> Iterator[str]:
    """Switch for as long as the context lasts; what there is to state, "" where nothing is switched."""
    before = torch.get_float32_matmul_precision()
    wanted = precision == "fp32" and (choice == "on" or (choice == "auto" and helps(device)))
    try:
        if wanted:
            torch.set_float32_matmul_precision(SWITCH)
        yield _stated(device) if wanted else ""
    finally:
        torch.set_float32_matmul_precision(before)


def helps(device: torch.device) -> bool:
    """Whether the switch is known to be quicker on this processor and computes in float32: the same at every start."""
    return device.type == "cpu" and "AMD" in _processor() and error(device) < SAME


def error(device: torch.device) -> float:
    """How far a product is off with the switch, relative to its largest number."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 512, generator=generator) for _ in range(2))
    exact = a.double() @ b.double().t()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(SWITCH)
    try:
        found = (a.to(device) @ b.to(device).t()).cpu().double()
    finally:
        torch.set_float32_matmul_precision(before)
    return float((found - exact).abs().max() / exact.abs().max())


def _stated(device: torch.device) -> str:
    off = error(device)
    kind = "they stay float32" if off < SAME else "they compute in a lower type here"
    return f"fp32 products by torch's switch {SWITCH!r} ({kind}: error {off:.0e}; fast_fp32: off undoes it)"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    names = [line for line in text.splitlines() if line.startswith(("model name", "vendor_id"))]
    return " ".join([*names[:2], platform.processor()])

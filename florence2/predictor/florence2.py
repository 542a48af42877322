"""A Florence-2 model in torch, and `load`. What it is asked and how: `PromptedModel`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from florence2.codec.tasks import Task
from florence2.codec.tokenizer import Tokenizer
from florence2.model import tiers
from florence2.model.device import to_device
from florence2.model.florence import Florence
from florence2.model.tensor_files import checksum
from florence2.predictor import batch, checkpoints
from florence2.predictor.calibration import Calibration
from florence2.predictor.images import ImageSource
from florence2.predictor.prompted_model import PromptedModel

NO_GATE = "the gate measures whole checkpoints on a CPU: the weights' own tier"


class Florence2(PromptedModel[Florence]):
    """A Florence-2 model with its tokenizer and its tasks: encode a picture once, ask many times."""

    def __init__(
        self,
        model: Florence,
        tokenizer: Tokenizer,
        tasks: Mapping[str, Task] | None = None,
        calibration: Calibration | None = None,
    ):
        super().__init__(model.eval(), tokenizer, tasks, calibration)
        self._products: dict[str, Any] = {"tier": str(model.dtype).removeprefix("torch.")}

    def accelerate(self, quantize: str | None = None, keep: Sequence[str] = ()) -> None:
        """Choose how the layers multiply, as `load` does: in int8 but for the groups in `keep`, or as is quickest."""
        self._products = tiers.accelerate(self.model, quantize, keep)

    def info(self) -> dict[str, Any]:
        """How the model computes: device, dtype, threads; the tier, which products each part uses, and why."""
        return {
            "device": str(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            **self._products,
        }

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def identity(self) -> str:
        """Changes with any weight, where int8 computes, and with the calibration of scores."""
        weights = sorted(self.model.state_dict().items())
        sums = [f"{name} {checksum(tensor.detach().cpu().contiguous())}" for name, tensor in weights]
        if self._products["tier"] == "int8":
            sums.append(str(self._products["products"]))
        sums += self._calibrated()
        return hashlib.blake2b("\n".join(sums).encode(), digest_size=8).hexdigest()

    def vision_features(self, image: ImageSource) -> list[Tensor]:
        """The map after each stage of the tower, (1, C, H, W): for the published sizes at strides 4, 8, 16, 32.

        Gradients flow; `model.model.vision_tower.freeze(n)` keeps the first n stages as they are.
        """
        pixels = torch.from_numpy(batch.load(self.config, image).pixels)[None]
        return self.model.vision_tower.maps(pixels.to(self.device, self.model.dtype))

    def save(self, folder: str | os.PathLike[str], layout: str = "florence2") -> None:
        """Write a checkpoint in our layout, "microsoft" or "transformers": weights, configs, tokenizer, own tasks, the
        calibration."""
        checkpoints.save(self.model, self.tokenizer, self.tasks, folder, layout, calibration=self.calibration)


def load(
    source: str | os.PathLike[str],
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    calibration: Calibration | str | os.PathLike[str] | bool | None = "auto",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    *,
    speed: str = "exact",
    threads: int | str | None = None,
    static: bool | None = None,
) -> Florence2:
    """The model of a folder, of a hub id, or "nano", the small one that comes with the package ("nano_256": at 256 px).

    A folder may be any layout's, or a peft adapter's, which names its base; `adapter` is one to merge into `source`.
    `dtype`: "float32", "float16" or "bfloat16"; without it float32 on a CPU, elsewhere as the file has it.
    `quantize="int8"`: products in int8, on a CPU. `speed="fast"` takes the quickest tier that `florence2 quantize`
    found good enough for this checkpoint, float32 where there is none; `info()` says which. `threads`: how many torch
    uses in this process, or "auto", measured. `device`: as torch names it; without it, or "auto", a CUDA GPU if there
    is one. `static`: greedy tokens in runs of one shape, recorded as CUDA graphs; without it on a CUDA GPU alone, where
    that is quickest; the tokens are the same. `calibration`: "auto", the calibration.json beside the weights if there
    is one; a file of one; None or False: scores as they are measured.
    """
    place = to_device(device)
    found = checkpoints.find(source, revision, adapter)
    chosen = tiers.Tier(quantize=quantize, dtype=dtype)
    if speed not in ("exact", "fast"):
        raise ValueError(f"speed: expected 'exact' or 'fast', got {speed!r:.40}")
    if speed == "fast":
        if quantize is not None or dtype is not None:
            raise ValueError("speed: 'fast' chooses dtype and quantize itself; leave them out, or leave speed out")
        chosen = tiers.passed(found.base) if found.adapter is None and place.type == "cpu" else tiers.Tier(why=NO_GATE)
    if threads is not None:
        torch.set_num_threads(tiers.thread_count(threads))
    model = Florence2(*checkpoints.open_parts(found, chosen.dtype, place))
    model.model.in_runs = place.type == "cuda" if static is None else bool(static)
    model.drawings_only = found.base.parent == checkpoints.SHIPPED and found.adapter is None
    model.calibration = checkpoints.calibration_of(found, calibration, model.tasks)
    model.accelerate(chosen.quantize, chosen.keep)
    if speed == "fast":
        model._products["why"] = f"{chosen.why}; {model._products['why']}"
    return model

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
from florence2.model.checkpoint import to_dtype
from florence2.model.device import to_device
from florence2.model.florence import Florence
from florence2.model.tensor_files import checksum
from florence2.predictor import batch, checkpoints
from florence2.predictor.answer import Answer
from florence2.predictor.batch import EncodedImage, Picture, Request
from florence2.predictor.calibration import Calibration
from florence2.predictor.images import ImageSource
from florence2.predictor.prompted_model import PromptedModel
from florence2.records import Failure

NO_GATE = "the gate measures whole checkpoints on a CPU: the weights' own tier"
CONVERTED = "the weights were converted or moved after loading: plain products"


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
        self._as_chosen = model.dtype, model.device

    def accelerate(self, quantize: str | None = None, keep: Sequence[str] = ()) -> None:
        """Choose how the layers multiply, as `load` does: in int8 but for the groups in `keep`, or as is quickest."""
        self._products = tiers.accelerate(self.model, quantize, keep)
        self._as_chosen = self.model.dtype, self.device

    def _computes(self) -> dict[str, Any]:
        """The tier, products and why, as they are now."""
        if self._as_chosen == (self.model.dtype, self.device):
            return self._products
        return {"tier": str(self.model.dtype).removeprefix("torch."), "products": {}, "why": CONVERTED}

    def info(self) -> dict[str, Any]:
        """How the model computes: device, dtype, threads; the tier, which products each part uses, and why."""
        return {
            "device": str(self.device),
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            **self._computes(),
        }

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def identity(self) -> str:
        """Changes with any weight, where int8 computes, and with the calibration of scores."""
        weights = sorted(self.model.state_dict().items())
        sums = [f"{name} {checksum(tensor.detach().cpu().contiguous())}" for name, tensor in weights]
        computes = self._computes()
        if computes["tier"] == "int8":
            sums.append(str(computes["products"]))
        sums += self._calibrated()
        return hashlib.blake2b("\n".join(sums).encode(), digest_size=8).hexdigest()

    def answer(self, requests: Sequence[Request]) -> list[list[Answer | Failure]]:
        self._check_mode()
        return super().answer(requests)

    def encode_images(self, images: Sequence[Picture | Failure]) -> list[EncodedImage | Failure]:
        self._check_mode()
        return super().encode_images(images)

    def _check_mode(self) -> None:
        """Refuse answers that dropout would make random."""
        if self.model.training:
            raise ValueError("model: is in training mode, where answers are drawn at random; call model.model.eval()")

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
    `quantize="int8"`: products in int8, on a CPU, but for the layers that `florence2 quantize` kept in float32 where it
    has passed int8 for this checkpoint. `speed="fast"` takes the quickest tier that `florence2 quantize`
    found good enough for this checkpoint, float32 where there is none; `info()` says which. `threads`: how many torch
    uses in this process, or "auto", measured. `device`: as torch names it; without it, or "auto", a CUDA GPU if there
    is one. `static`: greedy tokens in runs of one shape, recorded as CUDA graphs; without it on a CUDA GPU alone, where
    that is quickest; the tokens are the same. `calibration`: "auto", the calibration.json beside the weights if there
    is one; a file of one; None or False: scores as they are measured.
    """
    place = to_device(device)
    if static is not None and not isinstance(static, bool):
        raise ValueError(f"static: expected True, False or None, got {static!r:.40}")
    found = checkpoints.find(source, revision, adapter)
    chosen = _tier(found, place, dtype, quantize, speed, threads)
    model = Florence2(*checkpoints.open_parts(found, chosen.dtype, place))
    model.model.in_runs = place.type == "cuda" if static is None else static
    model.drawings_only = found.base.parent == checkpoints.SHIPPED and found.adapter is None
    model.calibration = checkpoints.calibration_of(found, calibration, model.tasks)
    model.accelerate(chosen.quantize, chosen.keep)
    if chosen.why:
        model._products["why"] = f"{chosen.why}; {model._products['why']}"
    return model


def gate_of(found: checkpoints.FoundCheckpoint, place: torch.device | None = None) -> tiers.Gated:
    """What the gate decided of a checkpoint; it measures whole ones on a CPU."""
    if found.adapter is not None or (place is not None and place.type != "cpu"):
        return tiers.Gated(without=NO_GATE)
    return tiers.gated(found.base, lambda: checkpoints.weights_sha256(found))


def _tier(
    found: checkpoints.FoundCheckpoint,
    place: torch.device,
    dtype: str | torch.dtype | None,
    quantize: str | None,
    speed: str,
    threads: int | str | None,
) -> tiers.Tier:
    """What is asked for, refused where it contradicts itself; torch's threads are set on the way."""
    if not isinstance(speed, str) or speed not in ("exact", "fast"):
        raise ValueError(f"speed: expected 'exact' or 'fast', got {speed!r:.40}")
    if speed == "fast" and (quantize is not None or dtype is not None):
        raise ValueError("speed: 'fast' chooses dtype and quantize itself; leave them out, or leave speed out")
    kind = "float32" if dtype is None else str(to_dtype(dtype)).removeprefix("torch.")
    tiers.check(quantize, kind, place)
    gate = gate_of(found, place) if speed == "fast" or quantize else tiers.Gated()
    if threads is not None:
        names = ("float32", *gate.good) if speed == "fast" else (quantize or kind,)
        torch.set_num_threads(tiers.thread_count(threads, names))
    if speed == "fast":
        return tiers.quickest(gate) if gate.good else tiers.Tier(why=gate.why)
    return tiers.Tier(quantize, dtype, gate.keep, gate.why if gate.good or gate.refused else "")

"""Peak memory of a training run, predicted from its config alone: the step is traced on tensors without memory.

What is traced is the model's own code, so nothing has to be kept in step with it, as it runs on a CPU; on a GPU
attention is fused in every type, and less is held. Saving a checkpoint is not in it.

Legend: B pictures, P pairs, L prompt tokens, T target tokens, C d_model, V vocabulary.
"""

from __future__ import annotations

import copy
import functools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from florence2.model.florence import Florence, blank
from florence2.model.model_config import ModelConfig
from florence2.training import lora, optim, vocabulary
from florence2.training.batches import Batch
from florence2.training.config import TrainConfig
from florence2.training.dense import DenseHead
from florence2.training.features import FrozenVision
from florence2.training.loss import TokenLoss
from florence2.training.step import TrainingStep, recompute_layers

PROCESS = 0.45e9  # python, torch and this package, once a step was made
ALLOCATOR = 1.06  # the C library's, of what a step holds: 1.00 to 1.11 measured, kept in holes between tensors
Loss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
PARTS = ("weights", "moments", "step", "features", "process")


@dataclass(frozen=True)
class Shapes:
    """A forward: its pictures, and (pairs, prompt tokens, target tokens) of each part that is padded together."""

    pictures: int
    parts: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, batch: Batch) -> Shapes:
        """Those of a batch."""
        return cls(batch.picture_count, tuple((*p.prompt_ids.shape, p.labels.shape[1]) for p in batch.parts))

    def times(self, factor: float) -> Shapes:
        """Those of a batch so many times as large: as many parts more."""
        whole, rest = divmod(factor, 1.0)
        more = [(max(1, round(pairs * rest)), *lengths) for pairs, *lengths in self.parts if round(pairs * rest)]
        return Shapes(math.ceil(self.pictures * factor), (*self.parts * int(whole), *more))  # type: ignore[arg-type]

    @classmethod
    def even(cls, pairs: int, prompt: int = 20, target: int = 60, asks: int = 1) -> Shapes:
        """So many pairs of one length, `asks` about each picture."""
        return cls(math.ceil(pairs / asks), ((pairs, prompt, target),))


def predicted(
    config: TrainConfig,
    shape: ModelConfig,
    shapes: Shapes,
    pictures: int | None = None,
    head: DenseHead | None = None,
) -> dict[str, int]:
    """Bytes by kind at a run's peak, `shapes` being one rank's share of a forward, `head` that of the dense loss.

    `weights`: the model, its lower copy, its average. `moments`: the optimiser's. `step`: what the forward holds and
    the backward adds, gradients among it. `features`: what is kept of a frozen tower, of so many pictures, or at the
    most. `process`: python and its libraries.
    """
    model = blank(shape)
    if config.lora is not None:
        lora.put_in(model, config.lora, "florence2")
        model.to("meta")
    optim.choose_trainable(model, config.strategy, config.freeze_stages)
    if config.new_tokens and config.strategy in vocabulary.OWN_ROWS:  # the whole matrix has gradient and moments
        for name in vocabulary.own_rows(model, len(config.new_tokens), shape.text.vocab_size):
            model.get_parameter(name).requires_grad_(True)
    lower = optim.LOWER.get(config.precision)
    kind = torch.float64 if config.precision == "fp64" else torch.float32
    model.to(kind)
    trained = sum(p.nbytes for p in optim.trainable(model).values())
    weights = sum(p.nbytes for p in model.parameters()) + (trained if config.ema else 0)
    computing = model
    if lower is not None:
        computing = copy.deepcopy(model).to(lower)
        weights += sum(p.nbytes for p in computing.parameters())
    if head is not None:
        head = copy.deepcopy(head).to("meta", kind)
        trained += sum(p.nbytes for p in head.parameters())
        weights += sum(p.nbytes for p in head.parameters())
    if config.gradient_checkpointing:
        recompute_layers(computing)
    cached, pulled = config.cache_features != "off", bool(config.pull or config.pull_unscored)
    loss: Loss = TokenLoss(config.label_smoothing, config.soft_locations)
    if pulled:
        weights += sum(p.nbytes for p in computing.parameters())
        loss = functools.partial(_pulled, loss)
    peak, left = _traced(computing, shapes, cached, loss, head, pulled)
    each = math.prod(FrozenVision(model).shape) * (2 if config.cache_dtype == "bf16" else 4)
    kept = min(config.cache_gb * 1e9, math.inf if pictures is None else pictures * each)
    gradients = trained if lower is None else 3 * trained // 2  # two bytes each, then four
    return {
        "weights": weights,
        "moments": 2 * trained,
        "step": round(ALLOCATOR * max(peak, left, gradients)),
        "features": round(kept) if cached else 0,
        "process": round(PROCESS),
    }


def of_larger(
    config: TrainConfig,
    shape: ModelConfig,
    shapes: Shapes,
    factor: float,
    pictures: int | None = None,
    head: DenseHead | None = None,
) -> dict[str, int]:
    """`predicted` of a batch so many times as large as `shapes`; over twice in proportion: every part adds the same."""
    if factor <= 2:
        return predicted(config, shape, shapes.times(factor), pictures, head)
    found = predicted(config, shape, shapes, pictures, head)
    twice = predicted(config, shape, shapes.times(2), pictures, head)
    return {**found, "step": round(found["step"] + (factor - 1) * (twice["step"] - found["step"]))}


def _pulled(loss: Loss, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss beside the start's probabilities: as much memory as they take."""
    total, plain = loss(logits, labels)
    with torch.no_grad():
        wanted = (logits * 1).softmax(-1)
    return total - (wanted * logits.log_softmax(-1)).sum(), plain


def _traced(
    model: Florence, shapes: Shapes, cached: bool, loss: Loss, head: DenseHead | None, pulled: bool
) -> tuple[int, int]:
    """Bytes of a forward and backward at their peak, and those that are left of it (the gradients)."""
    model.train()
    meter = _Meter(model)
    with meter:
        thoughts = _thoughts(model, shapes) if pulled else []
        _step(model, shapes, cached, loss, head)
        thoughts.clear()
    return meter.peak, meter.now


@torch.no_grad()
def _thoughts(model: Florence, shapes: Shapes) -> list[Tensor]:
    """What the start of a run that is pulled to it thinks of a batch: computed first and held to the step's end."""
    pixels = torch.empty(shapes.pictures, 3, *model.config.image_size_wh[::-1], dtype=model.dtype, device="meta")
    features = model.projector(model.vision_tower(pixels))
    return [_states(model, features, part) for part in shapes.parts]


def _states(model: Florence, features: Tensor, part: tuple[int, int, int]) -> Tensor:
    """The last states of a part, (pairs, target tokens, C)."""
    pairs, prompt, target = part
    ids = torch.empty(pairs, prompt, dtype=torch.long, device="meta")
    memory, _ = model.read(features[torch.empty(pairs, dtype=torch.long, device="meta")], ids, None)
    targets = torch.empty(pairs, target, dtype=torch.long, device="meta")
    return model.language.target_states(memory, None, targets)


def _step(model: Florence, shapes: Shapes, cached: bool, loss: Loss, head: DenseHead | None) -> None:
    dtype, config, step = model.dtype, model.config, TrainingStep(model, head, loss)
    frozen = step.frozen
    if frozen.tower and cached:
        seen = torch.empty(shapes.pictures, *frozen.shape, dtype=dtype, device="meta")
    elif frozen.tower:
        with torch.no_grad():  # on a CPU one picture at a time
            one = model.vision_tower(torch.empty(1, 3, *config.image_size_wh[::-1], dtype=dtype, device="meta"))
            one = model.projector(one) if frozen.projector else one
        seen = one.expand(shapes.pictures, *one.shape[1:]).clone()
    else:
        pixels = torch.empty(shapes.pictures, 3, *config.image_size_wh[::-1], dtype=dtype, device="meta")
        seen = model.vision_tower(pixels)
    features = seen if frozen.projector else model.projector(seen)
    total = torch.zeros((), device="meta")
    for part in shapes.parts:
        states = _states(model, features, part).flatten(0, 1)
        labels = torch.empty(len(states), dtype=torch.long, device="meta")
        total = total + step.token_losses(states, labels)[0]
    if head is not None:  # of every cell; what is taken of objects' middles alone is little
        cells = head(seen.to(torch.promote_types(dtype, torch.float32)))
        for each in (cells["place"][..., 0], cells["letter"]):
            total = total + binary_cross_entropy_with_logits(each, torch.zeros_like(each), reduction="sum")
        total = total + cells["label"].sum() + cells["word"].sum()
    if total.requires_grad:
        total.backward()


class _Meter(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and their most; those of a model's weights are not counted."""

    def __init__(self, model: Florence) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive = {p.untyped_storage()._cdata: 0 for p in model.state_dict(keep_vars=True).values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._alive.pop(key, 0)

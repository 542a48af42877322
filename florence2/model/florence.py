"""The whole model: tower, projector, encoder-decoder. It knows pixels, vectors and ids; no task, no text, no search.

Legend: B pictures or samples, P prompts, N picture vectors, L prompt tokens, T target tokens, C d_model, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from florence2.model.bart import EncoderDecoder
from florence2.model.cache import Cache
from florence2.model.davit import DaViT
from florence2.model.linear import Linear
from florence2.model.model_config import ModelConfig, VisionConfig
from florence2.model.operators import Packed
from florence2.model.static_runs import Measured, RunPool, StaticRuns
from florence2.model.torch_arrays import TorchArrays


class Florence(nn.Module):
    """Florence-2 (Xiao et al., arXiv 2311.06242). Encode once with `encode_image`, then run any number of prompts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.in_runs = False
        """Whether greedy steps are taken in runs of one shape, as a GPU is quickest (`model.static_runs`)."""
        self.run_pool = RunPool()
        self.packed: list[tuple[Packed, Linear | EncoderDecoder]] = []
        """Weights that are packed for their products (`model.tiers`), and whose they are."""
        self.stored: torch.dtype | None = None
        """The type of the file that the weights came from."""
        self.vision_tower = DaViT(config.vision)
        self.projector = Projector(config.vision, config.text.d_model)
        self.language = EncoderDecoder(config.text, config.pad_id)
        if self.device.type != "meta":
            self.apply(_initialise)

    @property
    def device(self) -> torch.device:
        return self.language.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.language.embedding.weight.dtype

    @property
    def joins(self) -> bool:
        """Whether requests can join others that are being answered."""
        return not self.in_runs

    def begin_runs(self, cache: Cache, key: object, measured: Measured) -> StaticRuns:
        """Runs over the rows of a cache at its beginning, for `run_pool` to take back; `key`: what is measured."""
        return self.run_pool.take(self.language, cache, key, measured)

    @property
    def arrays(self) -> TorchArrays:
        """What a search computes with beside the model."""
        return TorchArrays(self.device)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) pixels to (B, N, C): the mean of the map first, then its cells row by row."""
        self._notice_changes()
        out: Tensor = self.projector(self.vision_tower(pixels.to(self.device, self.dtype)))
        return out

    def prefill(
        self,
        image_features: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor | None = None,
        room: tuple[int, int] | None = None,
    ) -> Cache:
        """Read pictures' features (P, N, C) and prompts (P, L); a cache of one row each, ready for the start token.

        `room` is the most rows and tokens the cache will ever hold, in memory taken now; without it the cache grows.
        """
        memory, mask = self.read(image_features, prompt_ids, prompt_mask)
        return self.language.start(memory, mask, room)

    def step(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits (R, V) float32 of the token after `ids` (R,), one for each row of the cache."""
        return self.logits(self.states(ids, cache))

    def states(self, ids: Tensor, cache: Cache) -> Tensor:
        """The decoder's states (R, C) after `ids` (R,), one more token for each row of the cache."""
        return self.language.states(ids.to(self.device), cache)

    def logits(self, states: Tensor, span: tuple[int, int] | None = None) -> Tensor:
        """Logits (R, V) float32 of states (R, C); with a span, (R, last - first) of just the ids first <= id < last."""
        return self.language.logits(states, span).float()

    def forward(
        self, image_features: Tensor, prompt_ids: Tensor, prompt_mask: Tensor | None, decoder_ids: Tensor
    ) -> Tensor:
        """Logits (P, T, V) for training: decoder_ids (P, T) are the targets shifted right behind the start token."""
        memory, mask = self.read(image_features, prompt_ids, prompt_mask)
        out: Tensor = self.language(memory, mask, decoder_ids.to(self.device))
        return out

    def read(
        self, image_features: Tensor, prompt_ids: Tensor, prompt_mask: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The encoder's output (P, N + L, C) for pictures and prompts, and where it is no padding, (P, N + L) bool."""
        self._notice_changes()
        prompt = self.language.embedding(prompt_ids.to(self.device))  # (P, L, C)
        x = torch.cat([image_features.to(prompt), prompt], 1)  # (P, N + L, C)
        mask = None
        if prompt_mask is not None:
            image_mask = torch.ones(image_features.shape[:2], dtype=torch.bool, device=self.device)
            mask = torch.cat([image_mask, prompt_mask.to(self.device, torch.bool)], 1)
        return self.language.encode(x, mask), mask

    def _notice_changes(self) -> None:
        """Let packed weights be made anew where the plain ones were changed behind torch's back."""
        if not torch.is_grad_enabled():
            for packed, owner in self.packed:
                packed.notice(owner.output_weight if isinstance(owner, EncoderDecoder) else owner.weight)


class Projector(nn.Module):
    """A map (B, H, W, c) to vectors (B, 1 + H*W, C): position and time added, the mean put first, projected, normed."""

    def __init__(self, config: VisionConfig, d_model: int) -> None:
        super().__init__()
        dim = config.dims[-1]
        self.columns = nn.Embedding(config.max_side, dim - dim // 2)
        self.rows = nn.Embedding(config.max_side, dim // 2)
        self.register_buffer("frames", torch.empty(config.max_frames, dim))
        self.projection = Linear(dim, d_model, bias=False)
        self.norm = nn.LayerNorm(d_model)

    frames: Tensor

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        limit = self.rows.num_embeddings
        if max(H, W) > limit:
            raise ValueError(
                f"image: the model holds maps of at most {limit}x{limit} cells, got {H}x{W}; use smaller pictures"
            )
        columns = self.columns.weight[:W].expand(H, W, -1)
        rows = self.rows.weight[:H, None].expand(H, W, -1)
        x = x + torch.cat([columns, rows], 2)
        x = x.reshape(B, H * W, C) + self.frames[0]  # A picture is frame 0, whose vector is 0, 1, 0, 1, ...
        x = torch.cat([x.mean(1, keepdim=True), x], 1)  # (B, 1 + H*W, C)
        out: Tensor = self.norm(self.projection(x))
        return out


def blank(config: ModelConfig) -> Florence:
    """The model without memory: names and shapes only, until weights are assigned."""
    with _Blank():
        return Florence(config)


class _Blank(TorchFunctionMode):
    """Puts what layers make on "meta", and skips their own initialisation: there it costs time and changes nothing."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs["device"] = "meta"
        elif function.__name__ in ("kaiming_uniform_", "uniform_", "normal_", "fill_", "zero_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def frame_table(frames: int, dim: int) -> Tensor:
    """(frames, dim): sines at even places, cosines at odd ones (Vaswani et al., arXiv 1706.03762)."""
    rates = torch.exp(torch.arange(dim // 2).float() * -(math.log(10000) / (dim // 2)))
    angles = torch.arange(frames).float()[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], 2).flatten(1)


def _initialise(module: nn.Module) -> None:
    """As the reference starts from nothing: std 0.02, biases zero, the padding row zero."""
    if isinstance(module, Projector):
        module.frames.copy_(frame_table(*module.frames.shape))
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        with torch.no_grad():
            module.weight[module.padding_idx].zero_()

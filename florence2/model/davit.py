"""The vision tower: four stages, each a strided patch embedding and blocks of window and channel attention.

Legend: B pictures, H W sides of a map, N = H*W cells, C channels, G heads (channel groups), D = C/G, S window side.
Maps are (B, H, W, C) from the first norm to the last block; a convolution sees the same memory as channels-last NCHW,
so nothing is ever copied to change the order. From Ding et al., "DaViT" (arXiv 2204.03645), as Florence-2 uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from florence2.model.attention import attention
from florence2.model.linear import FP16_LIMIT, MLP, Linear, is_plain
from florence2.model.model_config import VisionConfig


class DaViT(nn.Module):
    """(B, 3, H, W) pixels to the last map (B, h, w, C); there is no norm after the last stage."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        rates = torch.linspace(0, config.drop_path, 2 * sum(config.depths), device="cpu").tolist()
        starts = [2 * sum(config.depths[:s]) for s in range(len(config.depths))]
        self.stages = nn.ModuleList(
            Stage(config, s, rates[start : start + 2 * config.depths[s]]) for s, start in enumerate(starts)
        )
        self.frozen = 0

    def forward(self, pixels: Tensor) -> Tensor:
        return self.maps(pixels)[-1].permute(0, 2, 3, 1)

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The map after each stage, (B, C, H, W) each: for the published sizes strides 4, 8, 16, 32."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def freeze(self, stages: int) -> None:
        """Keep the first `stages` stages as they are: no gradients, and no drop path in them even in training."""
        self.frozen = stages
        for s, stage in enumerate(self.stages):
            stage.requires_grad_(s >= stages)
        self.train(self.training)

    def train(self, mode: bool = True) -> DaViT:
        super().train(mode)
        for stage in self.stages[: self.frozen]:
            stage.train(False)
        return self


class Stage(nn.Module):
    """Embed patches, then blocks in pairs: within windows, then across channels."""

    def __init__(self, config: VisionConfig, s: int, rates: list[float]) -> None:
        super().__init__()
        dim, hidden, heads, groups = config.dims[s], config.hidden_dims[s], config.heads[s], config.groups[s]
        self.embed = PatchEmbed(config, s)
        self.blocks: Sequence[nn.ModuleDict] = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleDict(
                {
                    "spatial": Block(dim, hidden, WindowAttention(dim, heads, config.window), spatial),
                    "channel": Block(dim, hidden, ChannelAttention(dim, groups), channel),
                }
            )
            for spatial, channel in zip(rates[0::2], rates[1::2])
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)  # (B, H, W, C)
        for block in self.blocks:
            x = block["channel"](block["spatial"](x))
        return x.permute(0, 3, 1, 2)  # (B, C, H, W), channels-last in memory


class PatchEmbed(nn.Module):
    """A strided convolution; the norm comes before it, in the first stage after it."""

    def __init__(self, config: VisionConfig, s: int) -> None:
        super().__init__()
        before = 3 if s == 0 else config.dims[s - 1]
        self.prenorm = config.patch_prenorm[s]
        self.norm = nn.LayerNorm(before if self.prenorm else config.dims[s])
        self.conv = nn.Conv2d(
            before, config.dims[s], config.patch_sizes[s], config.patch_strides[s], config.patch_paddings[s]
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.prenorm:
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = self.conv(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        return x if self.prenorm else self.norm(x)


class Block(nn.Module):
    """x + position, x + attention, x + position, x + mlp; the positions are depth-wise convolutions without a norm."""

    def __init__(self, dim: int, hidden: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.position1 = DepthwiseConv(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attention = attention
        self.position2 = DepthwiseConv(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, hidden)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position1(x)
        x = x + self.dropped(self.attention(self.norm1(x)))
        x = x + self.position2(x)
        return x + self.dropped(self.mlp(self.norm2(x)))

    def dropped(self, x: Tensor) -> Tensor:
        """In training a whole branch is left out for some samples, the others scaled up (Huang et al., 1603.09382)."""
        if not self.training or self.drop_path == 0:
            return x
        keep = 1 - self.drop_path
        return x * (torch.rand(len(x), 1, 1, 1, device=x.device) < keep).to(x.dtype).div_(keep)


class DepthwiseConv(nn.Conv2d):
    """A 3x3 convolution of each channel by itself on a map (B, H, W, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class WindowAttention(nn.Module):
    """Attention among the S*S cells of each window; no shift, no position bias, no mask."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        S, G = self.window, self.heads
        right, bottom = -W % S, -H % S
        x = F.pad(x, (0, 0, 0, right, 0, bottom))  # Padding takes part in the attention, as in the reference
        rows, columns = (H + bottom) // S, (W + right) // S
        x = x.view(B, rows, S, columns, S, C).transpose(2, 3).reshape(-1, S * S, C)  # (windows, S*S, C)
        q, k, v = self.qkv(x).view(-1, S * S, 3, G, C // G).permute(2, 0, 3, 1, 4)  # (windows, G, S*S, D) each
        x = attention(q, k, v).transpose(1, 2).reshape(-1, S * S, C)
        x = self.out(x).view(B, rows, columns, S, S, C).transpose(2, 3).reshape(B, H + bottom, W + right, C)
        return x[:, :H, :W]


class ChannelAttention(nn.Module):
    """Attention among the D channels of each group, over all cells: tokens and channels change places."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.qkv = Linear(dim, 3 * dim)
        self.out = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        N, G = H * W, self.groups
        if N > 2 * C and x.dtype == torch.float32 and is_plain(self.qkv, self.out):
            return self._folded(x.reshape(B, N, C)).view(B, H, W, C)
        q, k, v = self.qkv(x).view(B, N, 3, G, C // G).permute(2, 0, 3, 1, 4)  # (B, G, N, D) each
        scores = (q * N**-0.5).transpose(-2, -1) @ k  # (B, G, D, D); scaled by cells, not by width
        if scores.dtype == torch.float16:
            scores = scores.clamp(-FP16_LIMIT, FP16_LIMIT)  # a sum over 36,864 cells; two infinities would be no number
        weights = scores.softmax(-1)
        x = (v @ weights.transpose(-2, -1)).transpose(1, 2)  # (B, N, G, D)
        out: Tensor = self.out(x.reshape(B, H, W, C))
        return out

    def _folded(self, x: Tensor) -> Tensor:
        """The same with half the work where cells outnumber channels: q, k and v, each linear in x, are never made.

        q^T k = Wq (x^T x) Wk^T, and out(v A^T) = x (Wo A Wv)^T, A being the groups' weights on the diagonal. A bias is
        one more channel of x that is always one.
        """
        B, N, C = x.shape
        G, D = self.groups, C // self.groups
        gram = x.transpose(1, 2) @ x  # (B, C, C)
        sums = x.sum(1)[..., None]  # (B, C, 1)
        gram = torch.cat([torch.cat([gram, sums], 2), F.pad(sums.transpose(1, 2), (0, 1), value=float(N))], 1)
        wq, wk, wv = torch.cat([self.qkv.weight, self.qkv.bias[:, None]], 1).view(3, G, D, C + 1)
        weights = (wq @ gram[:, None] @ wk.transpose(-2, -1) * N**-0.5).softmax(-1)  # (B, G, D, D)
        folded = self.out.weight @ (weights @ wv).view(B, C, C + 1)  # (B, C, C + 1)
        bias = folded[..., -1] + self.out.bias
        return torch.baddbmm(bias[:, None], x, folded[..., :-1].transpose(1, 2))

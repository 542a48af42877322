"""The base size, random weights with activations of order one: ours in each tier, transformers' own. A module.

`</s>` is made unlikely, so that both write as many tokens as they are asked for.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from florence2.decoding.generate import Rules, generate
from florence2.model import tiers
from florence2.model.florence import Florence
from tests.parity.twins import base, lively, theirs_of

TIERS = ("float32", "bfloat16", "int8")
PROMPTS = 8
LENGTH = 8  # tokens of a prompt


class Twins:
    """Our model in each tier, theirs in each type, a picture and eight prompts."""

    def __init__(self, quick: bool, types: Sequence[str] = TIERS, theirs: Sequence[str] = ("float32",)) -> None:
        side = 256 if quick else 768
        config = dataclasses.replace(base(), image_size_wh=(side, side))
        self.plain = plain = calm(lively(config, eos=-3.0))
        self.theirs: dict[str, Any] = {name: _typed(theirs_of(plain), name) for name in theirs}
        self.ours: dict[str, Florence] = {}
        self.told: dict[str, Any] = {}
        for name in types:
            model = _typed(copy.deepcopy(plain) if name == "bfloat16" else _sharing(plain), name)
            self.told[name] = tiers.accelerate(model, "int8" if name == "int8" else None)
            self.ours[name] = model
        generator = torch.Generator().manual_seed(1)
        self.pixels = torch.randn(1, 3, side, side, generator=generator)
        self.ids = torch.randint(4, 50000, (PROMPTS, LENGTH), generator=generator)
        self.image_tokens = config.image_tokens
        self.image_id = config.image_id

    def answer(self, tier: str, prompts: int, tokens: int, beams: int = 1, features: Tensor | None = None) -> list:
        """Ours: the picture encoded once, all prompts in one batch; token ids."""
        model, rules = self.ours[tier], Rules(num_beams=beams)
        with torch.inference_mode():
            features = model.encode_image(self.pixels) if features is None else features
            ids = self.ids[:prompts]
            features = features.expand(prompts, -1, -1)
        found = generate(model, features, ids, torch.ones_like(ids), [tokens] * prompts, None, rules)
        return [list(one.ids) for one in found]

    def their_answer(self, name: str, prompts: slice, tokens: int, beams: int = 1) -> list:
        """Theirs: `generate` from pixels for these prompts as one batch."""
        model = self.theirs[name]
        ids = self.ids[prompts]
        images = torch.full((len(ids), self.image_tokens), self.image_id)
        with torch.inference_mode():
            out = model.generate(
                input_ids=torch.cat([images, ids], 1),
                attention_mask=torch.ones(len(ids), self.image_tokens + LENGTH, dtype=torch.long),
                pixel_values=self.pixels.to(model.dtype).expand(len(ids), -1, -1, -1),
                max_new_tokens=tokens, num_beams=beams, do_sample=False, no_repeat_ngram_size=3, early_stopping=True,
                forced_bos_token_id=0, forced_eos_token_id=2, bos_token_id=0, pad_token_id=1, eos_token_id=2,
                decoder_start_token_id=2,
            )  # fmt: skip
        return out.tolist()

    def work(self, prompts: int, beams: int = 1) -> tuple[float, float, float]:
        """GFLOP of the tower and projector, of reading the prompts, and of one step."""
        model = self.plain
        with torch.inference_mode():
            with FlopCounterMode(display=False) as tower:
                features = model.encode_image(self.pixels).expand(prompts, -1, -1)
            with FlopCounterMode(display=False) as read:
                cache = model.prefill(features, self.ids[:prompts])
            cache.select([row for row in range(prompts) for _ in range(beams)])
            with FlopCounterMode(display=False) as step:
                model.step(torch.full((prompts * beams,), 2), cache)
        return tuple(count.get_total_flops() / 1e9 for count in (tower, read, step))  # type: ignore[return-value]


def calm(model: Florence) -> Florence:
    """The tower's branches scaled down, or its residual stream would grow to 1e10 over the stages' blocks."""
    with torch.no_grad():
        for name, weight in model.vision_tower.named_parameters():
            if name.endswith(("position1.weight", "position2.weight", "out.weight", "down.weight")):
                weight.mul_(0.2)
    return model


def _typed(model: Any, name: str) -> Any:
    return model.bfloat16() if name == "bfloat16" else model


def _sharing(model: Florence) -> Florence:
    """Another model with the same weights in memory."""
    memo = {id(p): p for p in model.parameters()}
    return copy.deepcopy(model, memo)

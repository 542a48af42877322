"""What a model is, in plain dataclasses: the sizes of its parts and the rules by which it decodes. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from florence2.structuring import structure

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RULES = ("grammar", "official")
LARGEST_SIZE = 2**24


@dataclass(frozen=True)
class VisionConfig:
    """The DaViT tower and the projector behind it. A tuple has one entry a stage."""

    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    groups: tuple[int, ...]
    window: int = 12
    patch_sizes: tuple[int, ...] = (7, 3, 3, 3)
    patch_strides: tuple[int, ...] = (4, 2, 2, 2)
    patch_paddings: tuple[int, ...] = (3, 1, 1, 1)
    patch_prenorm: tuple[bool, ...] = (False, True, True, True)
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    max_side: int = 50
    """Rows and columns that the projector's position tables hold."""
    max_frames: int = 100

    def __post_init__(self) -> None:
        sizes = (
            "dims",
            "depths",
            "heads",
            "groups",
            "window",
            "patch_sizes",
            "patch_strides",
            "max_side",
            "max_frames",
        )
        _positive(self, "vision.", sizes)
        if not self.dims or not 0 < self.mlp_ratio <= 64:
            raise ValueError(f"vision.mlp_ratio, dims: expected a ratio up to 64 and a stage, got {self.mlp_ratio}")
        _fraction(self, "vision.", ("drop_path",))
        stages = len(self.dims)
        for name in ("depths", "heads", "groups", "patch_sizes", "patch_strides", "patch_paddings", "patch_prenorm"):
            if len(getattr(self, name)) != stages:
                raise ValueError(
                    f"vision.{name}: expected {stages} entries, one a stage as in dims, got {getattr(self, name)}"
                )
        for name in ("heads", "groups"):
            if any(n < 1 or dim % n for dim, n in zip(self.dims, getattr(self, name))):
                raise ValueError(f"vision.{name}: expected divisors of dims {self.dims}, got {getattr(self, name)}")
        if self.dims[-1] % 2:
            raise ValueError(f"vision.dims: expected an even last entry, got {self.dims[-1]}")

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Width inside each stage's MLP."""
        return tuple(int(dim * self.mlp_ratio) for dim in self.dims)


@dataclass(frozen=True)
class TextConfig:
    """The encoder-decoder. `tied_head` False means that the head is a matrix apart from the embedding."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    decoder_layers: int
    encoder_heads: int
    decoder_heads: int
    encoder_ffn: int
    decoder_ffn: int
    max_positions: int = 1024
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    tied_head: bool = True

    def __post_init__(self) -> None:
        heads = ("encoder_heads", "decoder_heads")
        _positive(self, "text.", ("vocab_size", "d_model", *heads, "encoder_ffn", "decoder_ffn", "max_positions"))
        _fraction(self, "text.", ("dropout", "attention_dropout", "activation_dropout"))
        for name in heads:
            if self.d_model % getattr(self, name):
                raise ValueError(
                    f"text.{name}: expected a divisor of d_model {self.d_model}, got {getattr(self, name)}"
                )


@dataclass(frozen=True)
class ModelConfig:
    """A whole model: parts, picture size, special ids and the rules by which it decodes unless asked otherwise."""

    vision: VisionConfig
    text: TextConfig
    image_size_wh: tuple[int, int] = (768, 768)
    image_mean: tuple[float, ...] = IMAGENET_MEAN
    image_std: tuple[float, ...] = IMAGENET_STD
    bos_id: int = 0
    pad_id: int = 1
    eos_id: int = 2
    image_id: int | None = None
    """The placeholder `<image>` where the tokenizer has one; only transformers' layout uses it."""
    start_id: int = 2
    """The token that the decoder is started with; it is no part of the answer."""
    rules: str = "grammar"
    """What `predict` decodes by: the task's grammar, or the official generation rules in the fields below."""
    num_beams: int = 3
    no_repeat_ngram_size: int = 3
    early_stopping: bool | str = True
    """Whether a search stops at `num_beams` finished answers; "never": only when no better one can come."""
    length_penalty: float = 1.0
    forced_bos_id: int | None = 0
    forced_eos_id: int | None = 2

    def __post_init__(self) -> None:
        if self.rules not in RULES:
            raise ValueError(f"rules: expected one of {', '.join(RULES)}, got {self.rules!r}")
        _positive(self, "", ("image_size_wh", "num_beams"))
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if len(value) != 3 or not all(abs(x) < 1e6 and (x or name == "image_mean") for x in value):
                raise ValueError(f"{name}: expected three numbers, one a channel, got {value!r:.80}")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ValueError(f"early_stopping: expected true, false or 'never', got {self.early_stopping!r:.40}")
        for name in ("bos_id", "pad_id", "eos_id", "image_id", "start_id", "forced_bos_id", "forced_eos_id"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < self.text.vocab_size:
                raise ValueError(f"{name}: expected an id below vocab_size {self.text.vocab_size}, got {value}")

    @property
    def map_size_wh(self) -> tuple[int, int]:
        """Width and height of the tower's last map for pictures of `image_size_wh`."""
        width, height = self.image_size_wh
        for size, stride, padding in zip(
            self.vision.patch_sizes, self.vision.patch_strides, self.vision.patch_paddings
        ):
            width = (width + 2 * padding - size) // stride + 1
            height = (height + 2 * padding - size) // stride + 1
        return width, height

    @property
    def image_tokens(self) -> int:
        """Vectors that one picture puts before the prompt: the map's cells and their mean."""
        width, height = self.map_size_wh
        return width * height + 1


def _positive(config: object, where: str, names: tuple[str, ...]) -> None:
    """Refuse sizes that no model has."""
    for name in names:
        value = getattr(config, name)
        if not all(1 <= size <= LARGEST_SIZE for size in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{where}{name}: expected sizes from 1 to {LARGEST_SIZE}, got {value!r:.80}")


def _fraction(config: object, where: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{where}{name}: expected a share from 0 to below 1, got {getattr(config, name)!r:.40}")


# name -> the whole model. `base` and `large` are the published ones (spec: 231.4 and 770.2 million parameters);
# `nano` is ours, for 128 px pictures and a last map of 8x8; `small` too, for 256 px and a map of 16x16, its widths
# multiples of 32 (8.9 million parameters). Replace a tokenizer's size with `with_vocab`.
SIZES: dict[str, ModelConfig] = {
    "nano": ModelConfig(
        vision=VisionConfig(
            dims=(48, 96, 192),
            depths=(1, 1, 2),
            heads=(3, 3, 6),
            groups=(3, 3, 6),
            window=8,
            patch_sizes=(7, 3, 3),
            patch_strides=(4, 2, 2),
            patch_paddings=(3, 1, 1),
            patch_prenorm=(False, True, True),
            max_side=16,
            max_frames=1,
        ),
        text=TextConfig(
            vocab_size=1924,
            d_model=160,
            encoder_layers=2,
            decoder_layers=3,
            encoder_heads=5,
            decoder_heads=5,
            encoder_ffn=320,
            decoder_ffn=320,
            max_positions=512,
        ),
        image_size_wh=(128, 128),
    ),
    "small": ModelConfig(
        vision=VisionConfig(
            dims=(64, 128, 256),
            depths=(1, 1, 3),
            heads=(2, 4, 8),
            groups=(2, 4, 8),
            window=8,
            patch_sizes=(7, 3, 3),
            patch_strides=(4, 2, 2),
            patch_paddings=(3, 1, 1),
            patch_prenorm=(False, True, True),
            max_side=32,
            max_frames=1,
        ),
        text=TextConfig(
            vocab_size=1924,
            d_model=192,
            encoder_layers=2,
            decoder_layers=4,
            encoder_heads=6,
            decoder_heads=6,
            encoder_ffn=384,
            decoder_ffn=384,
            max_positions=1024,
        ),
        image_size_wh=(256, 256),
    ),
    "base": ModelConfig(
        vision=VisionConfig(
            dims=(128, 256, 512, 1024), depths=(1, 1, 9, 1), heads=(4, 8, 16, 32), groups=(4, 8, 16, 32)
        ),
        text=TextConfig(
            vocab_size=51289,
            d_model=768,
            encoder_layers=6,
            decoder_layers=6,
            encoder_heads=12,
            decoder_heads=12,
            encoder_ffn=3072,
            decoder_ffn=3072,
        ),
    ),
    "large": ModelConfig(
        vision=VisionConfig(
            dims=(256, 512, 1024, 2048), depths=(1, 1, 9, 1), heads=(8, 16, 32, 64), groups=(8, 16, 32, 64)
        ),
        text=TextConfig(
            vocab_size=51289,
            d_model=1024,
            encoder_layers=12,
            decoder_layers=12,
            encoder_heads=16,
            decoder_heads=16,
            encoder_ffn=4096,
            decoder_ffn=4096,
        ),
    ),
}


def with_vocab(config: ModelConfig, vocab_size: int) -> ModelConfig:
    """The same model for a tokenizer of `vocab_size` ids."""
    return dataclasses.replace(config, text=dataclasses.replace(config.text, vocab_size=vocab_size))


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config as plain JSON types, every field written out."""
    return dataclasses.asdict(config)


def from_json(data: Mapping[str, Any]) -> ModelConfig:
    """The config that `to_json` wrote; ValueError names an unknown, missing or ill-typed key."""
    return structure(ModelConfig, data, "")

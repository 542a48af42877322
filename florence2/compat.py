"""The calls of the published model card over this model: a processor, a model, and the dictionaries that come out.

    from florence2.compat import AutoModelForCausalLM, AutoProcessor      # in place of transformers

Decodes by the official rules and answers with the official dictionaries, faults included; `florence2.load(...).predict`
gives scores, pixels and label sets besides. What these calls do not know is refused by name.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
from collections.abc import Iterable, Sequence
from typing import Any, Union

import numpy as np
import torch
from torch import Tensor

from florence2 import arguments
from florence2.codec import official
from florence2.codec.tasks import Task, ask_of, prompt_text
from florence2.codec.tokenizer import Tokenizer
from florence2.decoding.generate import generate
from florence2.model.image import preprocess
from florence2.model.model_config import ModelConfig
from florence2.predictor import Florence2, checkpoints, images, load
from florence2.predictor.asks import decoding_of

MOST_PENALTY = 10  # exponent of an answer's length; far beyond it all floats end
IGNORED = ("trust_remote_code", "attn_implementation", "low_cpu_mem_usage", "use_fast", "use_safetensors")


def post_process_generation(
    text: str, task: str, image_size: tuple[int, int], style: str = "microsoft"
) -> dict[str, Any]:
    """{task: answer} of a text as generated; `image_size` is (width, height).

    `style`: "microsoft" as the remote code (floats), "transformers" as the native processor (ints).
    """
    return official.official(text, task, image_size, style)


class Inputs(dict[str, Tensor]):
    """What the processor made: `input_ids` (B, L), `attention_mask` (B, L), `pixel_values` (B, 3, H, W)."""

    def __getattr__(self, name: str) -> Tensor:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, *where: Any) -> Inputs:
        """The tensors on a device, in a type, or both; ids keep their type."""
        devices = [one for one in where if not isinstance(one, torch.dtype)]
        return Inputs(
            {name: value.to(*(where if value.is_floating_point() else devices)) for name, value in self.items()}
        )


class AutoProcessor:
    """Prompts and pictures as tensors, ids as text, text as the official dictionaries."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig, tasks: dict[str, Task], style: str = "microsoft"):
        self.tokenizer = tokenizer
        self.config = config
        self.tasks = tasks
        self.style = style

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], revision: str | None = None, **ignored: Any
    ) -> AutoProcessor:
        """Of what `florence2.load` opens; the dictionaries are those of the checkpoint's own library."""
        _refuse("from_pretrained", ignored, IGNORED)
        found = checkpoints.find(source, revision)
        checkpoint = found.checkpoint()
        style = "transformers" if checkpoint.layout == "transformers" else "microsoft"
        return cls(found.tokenizer(), checkpoint.config, found.tasks(), style)

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        **other: Any,
    ) -> Inputs:
        """Prompts (a task's token, its input behind it) about pictures, one each, padded on the right."""
        _refuse("processor", other)
        if return_tensors != "pt":
            raise ValueError(f"return_tensors: expected 'pt', got {return_tensors!r:.40}")
        texts = (
            [text]
            if isinstance(text, str)
            else arguments.items("text", text, "a prompt or a list of prompts", _is_text)
        )
        pictures = list(images) if isinstance(images, (list, tuple)) else [images]
        if len(texts) != len(pictures) or not texts:
            raise ValueError(f"images: expected one a text, {len(texts)} in all, got {len(pictures)}")
        prompts = [prompt_text(ask_of(one, self.tasks), (1, 1), self.tasks) for one in texts]
        rows = [self.tokenizer.prompt_ids(prompt) for prompt in prompts]
        length = max(map(len, rows))
        return Inputs(
            input_ids=torch.tensor([row + [self.config.pad_id] * (length - len(row)) for row in rows]),
            attention_mask=torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
            pixel_values=torch.from_numpy(np.stack([preprocess(_pixels(one), self.config) for one in pictures])),
        )

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False, **other: Any) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(row, skip_special_tokens, **other) for row in sequences]

    def decode(self, ids: Any, skip_special_tokens: bool = False, **other: Any) -> str:
        """The text of ids, special tokens in unless they are to be skipped."""
        _refuse("decode", other, ("clean_up_tokenization_spaces",))
        given = ids.tolist() if isinstance(ids, (Tensor, np.ndarray)) else ids
        plain = arguments.items("ids", given, "a list of whole numbers", _is_whole)
        special = self.tokenizer.special_ids if skip_special_tokens else frozenset()
        return self.tokenizer.decode([index for index in plain if index not in special])

    def post_process_generation(
        self, text: str | None = None, task: str = "", image_size: tuple[int, int] = (0, 0), **other: Any
    ) -> dict[str, Any]:
        """{task: answer} of a generated text, places in pixels of `image_size` (width, height)."""
        _refuse("post_process_generation", other)
        if text is None:
            raise ValueError("text: expected a generated text, got none")
        return post_process_generation(text, task, image_size, self.style)


class AutoModelForCausalLM:
    """A loaded model with `generate`; `florence2` is the one that `florence2.load` gives."""

    def __init__(self, florence2: Florence2, source: str | os.PathLike[str], revision: str | None = None):
        self.florence2 = florence2
        self._source, self._revision = source, revision

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        revision: str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        **ignored: Any,
    ) -> AutoModelForCausalLM:
        """Of what `florence2.load` opens; nothing in a checkpoint is executed, whatever `trust_remote_code` says."""
        _refuse("from_pretrained", ignored, IGNORED)
        kind = dtype if dtype is not None else torch_dtype
        if device_map is not None and not isinstance(device_map, (str, torch.device)):
            raise ValueError(f"device_map: expected one device, got {device_map!r:.80}")
        place = "cpu" if device_map is None else device_map
        return cls(load(source, revision, device=place, dtype=None if kind == "auto" else kind), source, revision)

    @property
    def device(self) -> torch.device:
        return self.florence2.device

    @property
    def dtype(self) -> torch.dtype:
        return self.florence2.model.dtype

    @property
    def config(self) -> ModelConfig:
        return self.florence2.config

    def to(self, *where: Any) -> AutoModelForCausalLM:
        """On another device, or in another type: opened there again."""
        kinds = [one for one in where if isinstance(one, torch.dtype)]
        places = [torch.device(one) for one in where if not isinstance(one, torch.dtype)]
        place, kind = (places or [self.device])[0], (kinds or [self.dtype])[0]
        if (place.type, kind) != (self.device.type, self.dtype) or place.index not in (None, self.device.index):
            self.florence2 = load(self._source, self._revision, device=place, dtype=kind)
        return self

    def eval(self) -> AutoModelForCausalLM:
        """The same: it is loaded for inference."""
        return self

    def generate(
        self,
        input_ids: Tensor,
        pixel_values: Tensor,
        attention_mask: Tensor | None = None,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        do_sample: bool = False,
        early_stopping: Union[bool, str, None] = None,
        length_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
        **other: Any,
    ) -> Tensor:
        """Ids (B, T) as `transformers` generates them, the start token first, padded; at most the model's positions.

        What the checkpoint does not say otherwise is as published: three beams, no three tokens twice.
        """
        _refuse("generate", other, ("use_cache",))
        if do_sample:
            raise ValueError("do_sample: only deterministic decoding is built; leave it out, or False")
        config, model = self.config, self.florence2.model
        limit = config.text.max_positions
        budget = limit if max_new_tokens is None else min(arguments.whole("max_new_tokens", max_new_tokens), limit)
        decoding = decoding_of(config, {}, [], num_beams=num_beams, max_new_tokens=budget, official=True)
        given: dict[str, Any] = {
            "early_stopping": early_stopping,
            "length_penalty": length_penalty,
            "no_repeat_ngram_size": no_repeat_ngram_size,
        }
        _check_search(**given)
        rules = dataclasses.replace(decoding.rules, **{name: v for name, v in given.items() if v is not None})
        ids = input_ids.to(self.device)
        mask = ids != config.pad_id if attention_mask is None else attention_mask.to(self.device).bool()
        with torch.inference_mode():
            features = model.encode_image(pixel_values)
        found = [one.ids for one in generate(model, features, ids, mask, [budget] * len(ids), None, rules)]
        length = max(map(len, found))
        return torch.tensor([[*row, *[config.pad_id] * (length - len(row))] for row in found], device=self.device)


Florence2ForConditionalGeneration = AutoModelForCausalLM
Florence2Processor = AutoProcessor


def _pixels(picture: Any) -> np.ndarray:
    """HWC uint8. A PIL image is taken as it lies, for its own width and height go into the post-processing."""
    return images.load(np.asarray(picture.convert("RGB")) if hasattr(picture, "convert") else picture)


def _check_search(early_stopping: Any, length_penalty: Any, no_repeat_ngram_size: Any) -> None:
    """What a search takes; None is as the checkpoint says."""
    if early_stopping is not None and not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f"early_stopping: expected True, False or 'never', got {early_stopping!r:.80}")
    real = isinstance(length_penalty, numbers.Real) and not isinstance(length_penalty, bool)
    if length_penalty is not None and not (real and abs(length_penalty) <= MOST_PENALTY):
        raise ValueError(
            f"length_penalty: expected a number from -{MOST_PENALTY} to {MOST_PENALTY}, got {length_penalty!r:.80}"
        )
    if no_repeat_ngram_size is not None:
        arguments.whole("no_repeat_ngram_size", no_repeat_ngram_size, least=0)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _refuse(call: str, given: dict[str, Any], ignored: Sequence[str] = ()) -> None:
    unknown = [name for name in given if name not in ignored]
    if unknown:
        raise ValueError(f"{unknown[0]}: {call} does not know it here; leave it out, or use florence2.load().predict")

"""The public heart: a picture and an ask in, an Answer out. Joins pixels, codec, model and decoding.

predict = load the picture -> encode_image -> prompts -> generate (grammar or official rules) -> parse -> score
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor

from florence2 import pixels
from florence2.codec import answers
from florence2.codec.grammar import automaton
from florence2.codec.tasks import TASKS, Task, load_tasks, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.decoding.generate import generate
from florence2.decoding.search import Generated
from florence2.model.checkpoint import load_model
from florence2.model.config import ModelConfig
from florence2.model.florence import Florence
from florence2.model.image import preprocess
from florence2.model.tensor_files import checksum
from florence2.predictor.answer import Answer, answer_of, is_path
from florence2.predictor.asks import AskLike, Decoding, asks_of, decoding_of, prompt_of, refuse_planned
from florence2.predictor.confidence import scored
from florence2.predictor.convert import tokenizer_folder, with_adapter, write
from florence2.predictor.loading import Bad, Loaded, batches, load_ahead
from florence2.records import Ask


@dataclass(frozen=True)
class EncodedImage:
    """A picture as the model sees it, (N, C) features, with the size that answers about it are given in."""

    features: Tensor
    size_wh: tuple[int, int]
    image: Any = None


class Florence2:
    """A Florence-2 model with its tokenizer and its tasks: look once, ask many times."""

    def __init__(self, model: Florence, tokenizer: Tokenizer, tasks: Mapping[str, Task] = TASKS):
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.tasks = dict(tasks)

    @property
    def config(self) -> ModelConfig:
        """What the model is, and the rules by which it decodes unless told otherwise."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def identity(self) -> str:
        """Changes with any weight."""
        weights = sorted(self.model.state_dict().items())
        sums = [f"{name} {checksum(tensor.detach().cpu().contiguous())}" for name, tensor in weights]
        return hashlib.blake2b("\n".join(sums).encode(), digest_size=8).hexdigest()

    def predict(
        self,
        image: Any,
        task: AskLike | Sequence[AskLike] | None = None,
        *,
        prompt: str | None = None,
        text: str | None = None,
        labels: Sequence[str] | None = None,
        region: Sequence[float] | None = None,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        official: bool | None = None,
        grammar: bool | None = None,
        tiles: Any = None,
        continue_from: Any = None,
    ) -> Any:
        """Answer one ask, or a list of asks (in one batch: a list of answers), about one picture.

        `image`: a path, bytes, PIL image, HWC uint8 array, or what `encode_image` returned. `region` is in pixels of
        the upright picture. `prompt` is sent as written. Without `official` or `grammar` the checkpoint's rules hold.
        """
        refuse_planned(tiles=tiles, continue_from=continue_from)
        asks, many = asks_of(self.tasks, task, prompt, text, labels, region)
        decode = decoding_of(self.config, asks, num_beams, max_new_tokens, official, grammar)
        encoded = image if isinstance(image, EncodedImage) else self.encode_image(image)
        found = self._answer([(encoded, ask) for ask in asks], decode)
        return found if many else found[0]

    def predict_many(
        self,
        images: Iterable[Any],
        asks: AskLike | Sequence[AskLike] | None = None,
        *,
        batch_size: int = 8,
        on_error: str = "yield",
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        official: bool | None = None,
        grammar: bool | None = None,
    ) -> Iterator[Any]:
        """Answer the same ask, or list of asks, about each picture, in order, a batch of pictures at a time.

        Without `asks` each item of `images` is a picture with its own ask or list of asks: (image, asks).
        A picture that cannot be loaded gives a Failure in its place, or with `on_error="raise"` its error. Pictures
        are loaded ahead in threads, at most two batches of them; nothing else is kept.
        """
        if is_path(images) or isinstance(images, bytes):
            raise ValueError(f"images: expected several pictures, got one ({images!r:.80}); use predict, or a list")
        if on_error not in ("yield", "raise"):
            raise ValueError(f"on_error: expected 'yield' or 'raise', got {on_error!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")

        def request(asks: AskLike | Sequence[AskLike]) -> _Request:
            asked, many = asks_of(self.tasks, asks)
            return _Request(asked, many, decoding_of(self.config, asked, num_beams, max_new_tokens, official, grammar))

        if asks is None:
            decoding_of(self.config, [], num_beams, max_new_tokens, official, grammar)  # refused now, not later
            return self._predict_many(iter(images), request, batch_size, on_error == "raise")
        shared = request(asks)
        items = ((image, asks) for image in images)
        return self._predict_many(items, lambda _: shared, batch_size, on_error == "raise")

    def encode_image(self, image: Any) -> EncodedImage:
        """Look at a picture once; the result takes the place of the picture in any number of `predict` calls."""
        return self._encode([self._load(image)])[0]

    def vision_features(self, image: Any) -> list[Tensor]:
        """The map after each stage of the tower, (1, C, H, W): for the published sizes at strides 4, 8, 16, 32.

        Gradients flow; `model.model.vision_tower.freeze(n)` keeps the first n stages as they are.
        """
        return self.model.vision_tower.maps(self._load(image).pixels[None].to(self.device, self.model.dtype))

    def save(self, folder: str | os.PathLike[str], layout: str = "florence2") -> None:
        """Write a checkpoint in our layout, "microsoft" or "transformers": weights, configs, tokenizer, own tasks."""
        write(self.model, self.tokenizer, self.tasks, folder, layout)

    # ---- one batch ----

    def _load(self, image: Any) -> Loaded:
        array = pixels.load(image)
        return Loaded(preprocess(array, self.config), (array.shape[1], array.shape[0]), image)

    @torch.inference_mode()
    def _encode(self, loaded: Sequence[Loaded]) -> list[EncodedImage]:
        features = self.model.encode_image(torch.stack([one.pixels for one in loaded]))
        return [EncodedImage(row, one.size_wh, one.image) for row, one in zip(features, loaded)]

    @torch.inference_mode()
    def _answer(self, pairs: Sequence[tuple[EncodedImage, Ask]], decode: Decoding) -> list[Answer]:
        """Each ask about its picture, decoded as one batch."""
        prompts = [prompt_of(ask, image.size_wh, self.tasks) for image, ask in pairs]
        ids, mask = self._pad([self.tokenizer.prompt_ids(prompt) for prompt in prompts])
        features = torch.stack([image.features for image, _ in pairs])
        automata = None
        if decode.by_grammar:
            automata = [automaton(task_of(ask.task, self.tasks), self.tokenizer, ask) for _, ask in pairs]
        found = generate(self.model, features, ids, mask, [decode.budget] * len(pairs), automata, decode.rules)
        return [self._read(*row) for row in zip(found, pairs, prompts)]

    def _pad(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Prompt ids (B, L), padded on the right, and their mask."""
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.config.pad_id] * (length - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows], device=self.device)
        return ids, mask

    def _read(self, found: Generated, pair: tuple[EncodedImage, Ask], prompt: str) -> Answer:
        image, ask = pair
        row = task_of(ask.task, self.tasks)
        parsed, spans = answers.parse_ids(found.ids, self.tokenizer, row, image.size_wh, ask)
        parsed = dataclasses.replace(scored(parsed, spans, found.logprobs), truncated=found.truncated)
        return answer_of(
            parsed,
            task=row.token,
            prompt=prompt,
            size_wh=image.size_wh,
            text=self.tokenizer.decode(found.ids),
            token_ids=found.ids,
            token_logprobs=found.logprobs,
            ask=ask,
            row=row,
            image=image.image,
        )

    def _predict_many(
        self, items: Iterator[Any], own: Callable[[Any], _Request], batch_size: int, strict: bool
    ) -> Iterator[Any]:
        def prepare(item: Any) -> tuple[Loaded, _Request]:
            if not isinstance(item, tuple) or len(item) != 2:
                raise ValueError(f"images: without asks, expected pairs of (image, asks), got {item!r:.60}")
            image, request = item[0], own(item[1])
            loaded = self._load(image)
            for ask in request.asks:
                prompt_of(ask, loaded.size_wh, self.tasks)  # a region may lie outside this picture
            return dataclasses.replace(loaded, image=image if is_path(image) else None), request

        for batch in batches(load_ahead(items, prepare, 2 * batch_size), batch_size):
            good = [one for one in batch if not isinstance(one, Bad)]
            encoded = self._encode([loaded for loaded, _ in good]) if good else []
            pairs = [(image, ask, row.decode) for image, (_, row) in zip(encoded, good) for ask in row.asks]
            runs = groupby(pairs, key=lambda pair: pair[2])
            answers = iter([a for decode, run in runs for a in self._answer([pair[:2] for pair in run], decode)])
            for one in batch:
                if isinstance(one, Bad):
                    if strict:
                        raise one.error
                    yield one.failure
                else:
                    found = list(islice(answers, len(one[1].asks)))
                    yield found if one[1].many else found[0]


@dataclass(frozen=True)
class _Request:
    """What is asked about a picture, whether as a list, and how it is decoded."""

    asks: list[Ask]
    many: bool
    decode: Decoding


def load(
    source: str | os.PathLike[str],
    revision: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    calibration: Any = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> Florence2:
    """The model of a folder, of a hub id, or "nano", the small one that comes with the package.

    A folder may be any layout's, or a peft adapter's, which names its base; `adapter` is one to merge into `source`.
    `dtype`: "float32", "float16" or "bfloat16"; without it float32 on a CPU, elsewhere as the file has it.
    """
    refuse_planned(calibration=calibration, quantize=quantize)
    base, merged = with_adapter(source, revision, adapter)
    model = load_model(base, dtype, device, merged)
    home = tokenizer_folder(base, merged)
    tokenizer = Tokenizer.load(home)
    rows, named = model.config.text.vocab_size, min(tokenizer.vocab_size, tokenizer.image_id)
    if named > rows:
        raise ValueError(
            f"{home}: the tokenizer names {named} ids, the weights hold {rows} rows; they do not belong together"
        )
    return Florence2(model, tokenizer, load_tasks(home))

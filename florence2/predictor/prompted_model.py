"""A model asked by prompts, in whatever runtime its weights are: predict, predict_many, encode_image. Knows no torch.

predict = load the picture -> encode_image -> prompts -> generate (grammar or official rules) -> parse -> score
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, overload

from florence2 import arguments
from florence2.codec.tasks import Task, known_tasks
from florence2.codec.tokenizer import Tokenizer
from florence2.model.model_config import ModelConfig
from florence2.predictor import batch, continuation, tiling
from florence2.predictor.answer import Answer
from florence2.predictor.asks import (
    AskLike,
    Decoding,
    DecodingOptions,
    Labels,
    asks_of,
    decoding_of,
)
from florence2.predictor.batch import EncodedImage, LoadedImage, Network, Picture, Request
from florence2.predictor.calibration import Calibration
from florence2.predictor.images import Bad, ImageSource, batches, is_path, load_ahead, pictures_in
from florence2.records import Ask, Failure

if TYPE_CHECKING:
    from typing_extensions import Unpack

ImageInput = Union[ImageSource, EncodedImage]
Images = Union[
    Iterable[ImageSource], Iterable[tuple[ImageSource, Union[AskLike, Sequence[AskLike]]]], str, os.PathLike[str]
]
AskList = Union[list[str], list[Ask], list[AskLike], tuple[AskLike, ...]]
AnswerOrFailure = Union[Answer, Failure]
AnswersOfOne = Union[AnswerOrFailure, list[AnswerOrFailure]]
W = TypeVar("W", bound=Network)


class PromptedModel(Generic[W]):
    """Weights with their tokenizer and their tasks: encode a picture once, ask many times."""

    def __init__(
        self,
        model: W,
        tokenizer: Tokenizer,
        tasks: Mapping[str, Task] | None = None,
        calibration: Calibration | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.tasks = known_tasks() if tasks is None else dict(tasks)
        self.drawings_only = False
        self.calibration = calibration

    @property
    def config(self) -> ModelConfig:
        """What the model is, and the rules by which it decodes unless a call names others."""
        return self.model.config

    @overload
    def predict(
        self,
        image: ImageInput,
        task: AskLike | None = None,
        *,
        prompt: str | None = None,
        text: str | None = None,
        labels: Labels | None = None,
        region: Iterable[float] | None = None,
        continue_from: Answer | None = None,
        **options: Unpack[DecodingOptions],
    ) -> Answer: ...
    @overload
    def predict(self, image: ImageInput, task: AskList, **options: Unpack[DecodingOptions]) -> list[Answer]: ...
    def predict(
        self,
        image: ImageInput,
        task: AskLike | Sequence[AskLike] | None = None,
        *,
        prompt: str | None = None,
        text: str | None = None,
        labels: Labels | None = None,
        region: Iterable[float] | None = None,
        continue_from: Answer | None = None,
        **options: Unpack[DecodingOptions],
    ) -> Answer | list[Answer]:
        """Answer one ask, or a list of asks (in one batch: a list of answers), about one picture.

        `image`: a path, bytes, PIL image, HWC uint8 array, a Sample's ImageRef, or what `encode_image` returned.
        `labels` closes the answer to a set of names: a list, or a file of them (one a line, or a COCO .json); class ids
        are places in it. `region` is in pixels of the upright picture. `prompt` is sent as written. `continue_from` is
        an answer about this picture that the token limit cut: the whole answer comes back, that one's items first; the
        ask need not be given again. Options, all off or the checkpoint's where left out:

            num_beams, max_new_tokens   the search, and the most tokens of an answer, `<s>` and `</s>` included
            official, grammar           decode by the official rules, or by the task's grammar
            tiles                       "auto" or (columns, rows): overlapping tiles are asked beside the whole picture
            filters                     names of FILTERS that judge the regions (post_filters.py)
            min_score                   0 to 1: items scored below it are left out
            margin                      nats: the answer ends only where its end is so much likelier than what could
                                        follow; more is found, less surely
            each_class                  False: of several classes in one open-vocabulary question those that the answer
                                        does not name are not asked about alone (answers.md)
            more_above                  0 to 1: an answer goes on exactly where anything but its end is more probable
                                        than this; for models whose training labels lacked objects (refinement.md)
        """
        if continue_from is not None and task is None and prompt is None:
            task = continuation.ask_of(continue_from)
        asks, many = asks_of(self.tasks, task, prompt, text, labels, region)
        if continue_from is not None:
            continuation.check(continue_from, asks, many, options)
            options["grammar"] = True
        decoding = decoding_of(self.config, self.tasks, asks, **options)
        given = image if isinstance(image, EncodedImage) else batch.load(self.config, image, keep=bool(decoding.tiles))
        answers: list[Answer] = []
        for found in self.answer([Request(given, asks, decoding, continue_from)])[0]:
            if isinstance(found, Failure):
                raise ValueError(found.detail)
            answers.append(found)
        return answers if many else answers[0]

    @overload
    def predict_many(
        self,
        images: Images,
        asks: AskList,
        *,
        batch_size: int = 8,
        on_error: str = "yield",
        **options: Unpack[DecodingOptions],
    ) -> Iterator[Failure | list[AnswerOrFailure]]: ...
    @overload
    def predict_many(
        self,
        images: Images,
        asks: AskLike,
        *,
        batch_size: int = 8,
        on_error: str = "yield",
        **options: Unpack[DecodingOptions],
    ) -> Iterator[AnswerOrFailure]: ...
    @overload
    def predict_many(
        self,
        images: Images,
        asks: None = None,
        *,
        batch_size: int = 8,
        on_error: str = "yield",
        **options: Unpack[DecodingOptions],
    ) -> Iterator[AnswersOfOne]: ...
    def predict_many(
        self,
        images: Images,
        asks: AskLike | Sequence[AskLike] | None = None,
        *,
        batch_size: int = 8,
        on_error: str = "yield",
        **options: Unpack[DecodingOptions],
    ) -> Iterator[Any]:
        """Answer the same ask, or list of asks, about each picture, in order, a batch of pictures at a time.

        A folder is all pictures below it, by path. Without `asks` each item of `images` is a picture with its own ask
        or list of asks: (image, asks). A picture that cannot be loaded gives a Failure in its place, an ask that
        cannot be put about it a Failure in its answer's place; with `on_error="raise"` their error is raised. Pictures
        are loaded ahead in threads, at most two batches of them; nothing else is kept. Options as in `predict`.
        """
        if on_error not in ("yield", "raise"):
            raise ValueError(f"on_error: expected 'yield' or 'raise', got {on_error!r}")
        batch_size = arguments.whole("batch_size", batch_size, least=1)

        def asked(asks: AskLike | Sequence[AskLike]) -> _Asked:
            given, many = asks_of(self.tasks, asks)
            return _Asked(given, many, decoding_of(self.config, self.tasks, given, **options))

        pictures: Iterable[object] = _listed(images)
        if asks is None:
            decoding_of(self.config, self.tasks, [], **options)  # refused now, not later
            return self._predict_many(iter(pictures), asked, batch_size, on_error == "raise")
        shared = asked(asks)
        items = ((image, asks) for image in pictures)
        return self._predict_many(items, lambda _: shared, batch_size, on_error == "raise")

    def encode_image(self, image: ImageInput) -> EncodedImage:
        """Encode a picture once; the result takes the place of the picture in any number of `predict` calls."""
        if isinstance(image, EncodedImage):
            return image
        encoded = self.encode_images([batch.load(self.config, image)])[0]
        assert isinstance(encoded, EncodedImage)
        return encoded

    def encode_images(self, images: Sequence[Picture | Failure]) -> list[EncodedImage | Failure]:
        """Encode many pictures together; a Failure in the place of one that cannot be loaded."""
        return batch.encode(self, images)

    def request(self, image: Picture | Failure, asks: Sequence[AskLike], **options: Unpack[DecodingOptions]) -> Request:
        """Asks about a picture for `answer`, checked; ValueError where no picture could mend them."""
        given, _ = asks_of(self.tasks, list(asks))
        return Request(image, given, decoding_of(self.config, self.tasks, given, **options))

    def answer(self, requests: Sequence[Request]) -> list[list[Answer | Failure]]:
        """Answer many requests in one batch: for each a list with an Answer or a Failure for each of its asks."""
        return tiling.answer(self, requests)

    def _calibrated(self) -> list[str]:
        """What the calibration adds to the model's identity."""
        if self.calibration is None:
            return []
        maps = self.calibration.maps.items()
        return [str(sorted((name, m.method, m.numbers, m.least_there, m.there_weights) for name, m in maps))]

    def _predict_many(
        self, items: Iterator[object], asked: Callable[[Any], _Asked], batch_size: int, strict: bool
    ) -> Iterator[AnswersOfOne]:
        def prepare(item: object) -> tuple[LoadedImage, _Asked]:
            if not isinstance(item, tuple) or len(item) != 2:
                raise ValueError(f"images: without asks, expected pairs of (image, asks), got {item!r:.60}")
            image, own = item[0], asked(item[1])
            loaded = batch.load(self.config, image, keep=own.decoding.tiles is not None)
            return dataclasses.replace(loaded, image=image if is_path(image) else None), own

        numbered = enumerate(load_ahead(items, prepare, 2 * batch_size, _picture))
        for rows in batches(numbered, batch_size):
            good = [(number, *row) for number, row in rows if not isinstance(row, Bad)]
            answers = self.answer([Request(image, own.asks, own.decoding) for _, image, own in good])
            found = {number: (answer, own.many) for (number, _, own), answer in zip(good, answers)}
            for number, row in rows:
                if isinstance(row, Bad):
                    if strict:
                        raise row.error
                    yield row.failure
                    continue
                own_answers, many = found[number]
                placed = [dataclasses.replace(a, index=number) if isinstance(a, Failure) else a for a in own_answers]
                failed = [a for a in placed if isinstance(a, Failure)]
                if strict and failed:
                    raise ValueError(failed[0].detail)
                yield placed if many else placed[0]


@dataclass(frozen=True)
class _Asked:
    """What is asked about a picture, whether as a list, and how it is decoded."""

    asks: list[Ask]
    many: bool
    decoding: Decoding


def _picture(item: object) -> object:
    """What an item of `predict_many` gives as its picture."""
    return item[0] if isinstance(item, tuple) and item else item


def _listed(images: Images) -> Iterable[object]:
    """The pictures, those of a folder by path; a single picture is refused."""
    if is_path(images) and os.path.isdir(images):
        return pictures_in(images)
    if is_path(images) or isinstance(images, bytes) or not isinstance(images, Iterable):
        raise ValueError(
            f"images: expected several pictures or a folder, got one ({images!r:.80}); use predict, or a list"
        )
    return images

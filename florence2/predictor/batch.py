"""One batch of predictions: a list of pictures encoded, a list of requests answered, each item failing alone.

    ImageSource --load--> LoadedImage --encode--> EncodedImage --answer--> Answer, one for each ask

Every step takes what the steps before it make as well, and a Failure, which stays in its place. Asks of any tasks
share a batch; requests with different search rules are grouped wherever they are. Opens no file of its own, starts
no thread, keeps nothing between calls: who holds EncodedImages (by content, say) asks about them without encoding
again. `answer` is one closed batch; an `OpenBatch` is stepped, and takes further requests in between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, Union

import numpy as np

from florence2.codec import answers
from florence2.codec.grammar import automaton
from florence2.codec.locations import BINS
from florence2.codec.tasks import Task, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.decoding.constraints import TokenAutomaton
from florence2.decoding.generate import Generator, constraint_of, search_of
from florence2.decoding.generated import Generated
from florence2.decoding.search import Search
from florence2.model.image import preprocess
from florence2.model.model_config import ModelConfig
from florence2.pixels import BadImage
from florence2.predictor import images as loading
from florence2.predictor import post_filters
from florence2.predictor.answer import Answer, answer_of
from florence2.predictor.asks import Decoding, prompt_of
from florence2.predictor.calibration import Calibration, ScoreMap
from florence2.predictor.confidence import scored, without
from florence2.predictor.continuation import Continuation, continuation
from florence2.predictor.drawings import warn_of_photographs
from florence2.predictor.every_class import ClassQuestions, unnamed
from florence2.predictor.images import ImageSource, failure_of
from florence2.records import Ask, Decision, Failure


@dataclass(frozen=True)
class LoadedImage:
    """A picture ready for the tower, (3, H, W) float32; its own size; and what the user gave as the picture."""

    pixels: np.ndarray
    size_wh: tuple[int, int]
    image: object = None
    array: np.ndarray | None = None
    """The upright picture itself, where it is to be cut into tiles."""
    is_part: bool = False
    """A tile, which says little of what kind of picture it was cut from."""


@dataclass(frozen=True)
class EncodedImage:
    """A picture as the model sees it, (N, C) features, with the size that answers about it are given in."""

    features: Any
    """An array of the model's own kind: torch's, or numpy's of an exported model."""
    size_wh: tuple[int, int]
    image: object = None


Picture = Union[ImageSource, LoadedImage, EncodedImage]


@dataclass(frozen=True)
class Request:
    """Asks about one picture, and how their answers are decoded."""

    image: Picture | Failure
    asks: Sequence[Ask]
    decoding: Decoding
    before: Answer | None = None
    """The answer to the only ask that was cut and is to go on."""


class Network(Generator, Protocol):
    """A model in whatever runtime: pictures (B, 3, H, W) to features (B, N, C), then what a search needs.

    `joins`: whether requests can join others that are being answered.
    """

    @property
    def joins(self) -> bool: ...

    @property
    def config(self) -> ModelConfig: ...
    def encode_image(self, pixels: Any) -> Any: ...


class ModelParts(Protocol):
    """What a batch needs: the weights, the tokenizer, the table of tasks, what scores are mapped by; whether the
    weights know drawings alone."""

    @property
    def model(self) -> Network: ...

    tokenizer: Tokenizer
    tasks: dict[str, Task]
    drawings_only: bool
    calibration: Calibration | None


def load(config: ModelConfig, image: ImageSource, keep: bool = False) -> LoadedImage:
    """A picture at the size that the model takes, and as it is with `keep`; BadImage where it cannot be loaded."""
    array = loading.load(image)
    return LoadedImage(preprocess(array, config), (array.shape[1], array.shape[0]), image, array if keep else None)


def encode(predictor: ModelParts, pictures: Sequence[Picture | Failure]) -> list[EncodedImage | Failure]:
    """Encode the pictures together; those already encoded stay as they are."""
    model = predictor.model
    loaded = [_loaded(model.config, picture) for picture in pictures]
    new = [one for one in loaded if isinstance(one, LoadedImage)]
    if predictor.drawings_only:
        warn_of_photographs((one.pixels for one in new if not one.is_part), model.config)
    with model.arrays.inference():
        features = iter(model.encode_image(model.arrays.put(np.stack([one.pixels for one in new]))) if new else ())
    return [
        EncodedImage(next(features), one.size_wh, one.image) if isinstance(one, LoadedImage) else one for one in loaded
    ]


def answer(predictor: ModelParts, requests: Sequence[Request]) -> list[list[Answer | Failure]]:
    """For each request the answer to each of its asks, or why there is none."""
    running = OpenBatch(predictor)
    numbers = running.admit(requests)
    found: dict[int, Answer] = {}
    while running.rows:
        found.update(running.step())
    return [[found[n] if isinstance(n, int) else n for n in own] for own in numbers]


class OpenBatch:
    """Asks being answered a step at a time, which others may join at any step: what a server holds.

    Every ask gets a number. An error raised by `step` leaves no ask answered; whoever goes on begins a new batch.
    """

    def __init__(self, predictor: ModelParts) -> None:
        self._predictor = predictor
        self._searches: dict[object, Search] = {}
        self._rows: dict[int, tuple[object, int, _AskRow]] = {}  # number -> group, number in its search
        self._classes: dict[int, tuple[int, _AskRow, ClassQuestions]] = {}  # number -> whose classes it asks about
        self._admitted = 0

    @property
    def rows(self) -> int:
        """How many asks are being answered, those about single classes of an ask included."""
        return len(self._rows)

    def admit(self, requests: Sequence[Request]) -> list[list[int | Failure]]:
        """Take in requests, their pictures encoded together: for each ask its number, or why it has no answer."""
        pictures = encode(self._predictor, [request.image for request in requests])
        pairs = [(picture, ask, one) for picture, one in zip(pictures, requests) for ask in one.asks]
        groups: dict[object, dict[int, _AskRow]] = {}
        numbers: list[int | Failure] = []
        for pair in pairs:
            row = _row_or_failure(self._predictor, *pair)
            if isinstance(row, Failure):
                numbers.append(row)
                continue
            numbers.append(self._admitted)
            groups.setdefault(row.group, {})[self._admitted] = row
            self._admitted += 1
        with self._predictor.model.arrays.inference():
            for group, rows in groups.items():
                self._join(group, rows)
        in_order = iter(numbers)
        return [list(islice(in_order, len(request.asks))) for request in requests]

    def step(self) -> list[tuple[int, Answer]]:
        """One more token for every ask; those that ended, with their answers."""
        ended: list[tuple[int, _AskRow, Generated]] = []
        for group, search in list(self._searches.items()):
            own = {place: number for number, (of, place, _) in self._rows.items() if of == group}
            ended += [(own[place], self._rows.pop(own[place])[2], generated) for place, generated in search.step()]
            if search.finished:
                del self._searches[group]
        answers: list[tuple[int, Answer]] = []
        more: dict[object, dict[int, _AskRow]] = {}
        for number, row, generated in ended:
            answers += self._ended(number, row, generated, more)
        with self._predictor.model.arrays.inference():
            for group, rows in more.items():
                self._join(group, rows)
        return answers

    def drop(self, numbers: Collection[int]) -> None:
        """Answer these asks no longer; those that have ended are passed over."""
        numbers = {*numbers, *(child for child, (number, _, _) in self._classes.items() if number in numbers)}
        for group, search in list(self._searches.items()):
            search.drop({place for n in numbers if n in self._rows for of, place, _ in [self._rows[n]] if of == group})
            if search.finished:
                del self._searches[group]
        for number in numbers:
            self._rows.pop(number, None)
            self._classes.pop(number, None)

    def so_far(self, number: int) -> Answer | None:
        """What an ask's answer begins with, as far as it can no longer change; None where nothing is certain yet."""
        if number not in self._rows:  # its classes are being asked about
            return None
        group, place, row = self._rows[number]
        ids = self._searches[group].so_far().get(place)
        if ids is None or row.decoding.min_score:  # what is scored too low to be kept is known at the end
            return None
        return _read(self._predictor.tokenizer, row, _whole(row, Generated(tuple(ids), (0.0,) * len(ids))))

    def _ended(
        self, number: int, row: _AskRow, generated: Generated, more: dict[object, dict[int, _AskRow]]
    ) -> list[tuple[int, Answer]]:
        """The answer of an ask that ended, unless classes of it are still to be asked about: into `more`."""
        owner, whole, questions = self._classes.pop(number, (number, row, None))
        if questions is None:
            generated = _whole(row, generated)
            questions = ClassQuestions(generated, unnamed(self._predictor.tokenizer, row, generated))
        else:
            questions.add(row.ask.labels[0], generated)
        for label in questions.next():
            child = _row(self._predictor, row.picture, Ask(row.task.token, labels=(label,)), row.decoding)
            self._classes[self._admitted] = owner, whole, questions
            more.setdefault(child.group, {})[self._admitted] = child
            self._admitted += 1
        return [] if questions.open else [(owner, _read(self._predictor.tokenizer, whole, questions.joined()))]

    def _join(self, group: object, rows: dict[int, _AskRow]) -> None:
        """Rows of one group join its search, or begin one."""
        model = self._predictor.model
        if group in self._searches and not model.joins:
            group = group, self._admitted
        asked = list(rows.values())
        ids, mask = _pad([row.prompt_ids for row in asked], model)
        features = model.arrays.stack([row.picture.features for row in asked])
        automata = [row.automaton for row in asked if row.automaton is not None] or None
        rules = asked[0].decoding.rules
        cache = model.prefill(features, ids, mask)
        if group not in self._searches:
            loc0 = self._predictor.tokenizer.loc0
            self._searches[group] = search_of(model, rules, (loc0, loc0 + BINS))
        constraint = constraint_of([row.decoding.budget for row in asked], automata, rules)
        for (number, row), place in zip(rows.items(), self._searches[group].admit(cache, constraint)):
            self._rows[number] = group, place, row


# ---- one ask of a batch -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _AskRow:
    """One ask about one picture, ready to be decoded."""

    picture: EncodedImage
    ask: Ask
    task: Task
    prompt: str
    prompt_ids: list[int]
    decoding: Decoding
    automaton: TokenAutomaton | None
    score_map: ScoreMap | None
    continuation: Continuation | None = None

    @property
    def group(self) -> object:
        """Rows of equal groups can be decoded together; each has its own budget and its own grammar."""
        return self.decoding.rules, self.decoding.by_grammar


def _row_or_failure(
    predictor: ModelParts, picture: EncodedImage | Failure, ask: Ask, request: Request
) -> _AskRow | Failure:
    if isinstance(picture, Failure):
        return picture
    try:
        return _row(predictor, picture, ask, request.decoding, request.before)
    except ValueError as error:
        return failure_of(error, picture.image)


def _row(
    predictor: ModelParts, picture: EncodedImage, ask: Ask, decoding: Decoding, before: Answer | None = None
) -> _AskRow:
    positions = predictor.model.config.text.max_positions
    if decoding.tiles is not None:
        raise ValueError("tiles: several parts are no single row of a batch; ask through predict or predict_many")
    seen = predictor.model.config.image_tokens, predictor.model.config.text.d_model
    own = type(predictor.model.arrays.zeros(0))
    if tuple(picture.features.shape) != seen or not isinstance(picture.features, own):
        got = f"{tuple(picture.features.shape)}, {type(picture.features).__name__}"
        raise ValueError(
            f"image: was encoded by another model, {got}; expected features of {seen}, {own.__name__}, "
            "encode it with this one"
        )
    task = task_of(ask.task, predictor.tasks)
    prompt = prompt_of(ask, picture.size_wh, predictor.tasks)
    ids = predictor.tokenizer.prompt_ids(prompt)
    limit = positions - len(picture.features)
    if len(ids) > limit:
        instead = "ask about fewer labels at a time" if ask.labels else "shorten it"
        raise ValueError(
            f"prompt: expected at most {limit} tokens beside the picture, got {len(ids)} ({prompt!r:.60}); {instead}"
        )
    grammar = automaton(task, predictor.tokenizer, ask) if decoding.by_grammar else None
    score_map = predictor.calibration.of(task.token) if predictor.calibration else None
    row = _AskRow(picture, ask, task, prompt, ids, decoding, grammar, score_map)
    if before is None:
        return row
    if grammar is None or before.size_wh != picture.size_wh:
        raise ValueError(
            f"continue_from: expected the picture of {before.size_wh} pixels that the answer is about, and "
            f"the grammar; got one of {picture.size_wh}"
        )
    if predictor.tokenizer.decode(before.token_ids) != before.text:
        raise ValueError("continue_from: the answer is of another vocabulary; expected one of this model")
    going_on = continuation(before, grammar, positions)
    longer = dataclasses.replace(decoding, budget=going_on.budget(decoding.budget, positions))
    return dataclasses.replace(row, automaton=going_on.resumed(grammar), decoding=longer, continuation=going_on)


def _pad(prompts: Sequence[list[int]], model: Network) -> tuple[Any, Any]:
    """Prompt ids (B, L), padded on the right, and their mask."""
    length, pad = max(map(len, prompts)), model.config.pad_id
    ids = [row + [pad] * (length - len(row)) for row in prompts]
    mask = [[True] * len(row) + [False] * (length - len(row)) for row in prompts]
    return model.arrays.put(ids), model.arrays.put(mask)


def _whole(row: _AskRow, generated: Generated) -> Generated:
    """What was generated, with what went before it."""
    return generated if row.continuation is None else row.continuation.joined(generated)


def _read(tokenizer: Tokenizer, row: _AskRow, generated: Generated) -> Answer:
    size_wh = row.picture.size_wh
    parsed, spans = answers.parse_ids(generated.ids, tokenizer, row.task, size_wh, row.ask)
    left_out: tuple[Decision, ...] = ()
    if len(generated.measures):  # of an answer that is not at its end yet nothing is measured
        parsed, left_out = scored(parsed, spans, generated.measures, size_wh, row.score_map, row.decoding.min_score)
    parsed = dataclasses.replace(parsed, truncated=generated.truncated)
    repeats = row.continuation.repeats(parsed, spans) if row.continuation is not None else ()
    parsed = without(parsed, {decision.item_id for decision in repeats})
    parsed, decisions = post_filters.apply(parsed, row.decoding.filters, row.task.output_kind, size_wh)
    return answer_of(
        parsed,
        task=row.task.token,
        prompt=row.prompt,
        size_wh=size_wh,
        text=tokenizer.decode(generated.ids),
        token_ids=generated.ids,
        token_logprobs=generated.logprobs,
        token_spans=spans,
        decisions=(*left_out, *repeats, *decisions),
        token_measures=generated.measures if len(generated.measures) else None,
        ask=row.ask,
        row=row.task,
        image=row.picture.image,
    )


def _loaded(config: ModelConfig, picture: Picture | Failure) -> LoadedImage | EncodedImage | Failure:
    if isinstance(picture, (LoadedImage, EncodedImage, Failure)):
        return picture
    try:
        return load(config, picture)
    except BadImage as error:
        return failure_of(error, picture)

"""What a run needs before its first step: the model and its tokenizer, sources, batches, the auxiliary head."""

from __future__ import annotations

import contextlib
import math
import re
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from florence2.codec.tasks import PROMPT, TASKS, Task, known_tasks, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.model.davit import Block
from florence2.model.florence import Florence
from florence2.model.model_config import SIZES, ModelConfig
from florence2.predictor import checkpoints
from florence2.records import Sample
from florence2.training import given_weights, init, lora, optim, vocabulary
from florence2.training.batches import Batch, BatchMaker, Failed, InWorker
from florence2.training.config import DataSource, TrainConfig
from florence2.training.datasets import SampleSource, TrainingSource, open_source, place_of
from florence2.training.dense import DenseHead, Vocabulary, open_head
from florence2.training.examine import Examination, Tally, examine
from florence2.training.examples import Limits, TaskMixture
from florence2.training.features import FeatureCache, FrozenVision
from florence2.training.loss import TokenLoss
from florence2.training.mixing import weigh
from florence2.training.moves import MoveSettings
from florence2.training.order import Cursor, PairOrder, PlannedBatch
from florence2.training.prefetch import made_ahead
from florence2.training.ranks import Ranks, device_of
from florence2.training.run_folder import progress_of, remembered_of
from florence2.training.samples import holds_prompts
from florence2.training.step import recompute_layers
from florence2.training.unscored import ListRules
from florence2.training.validation_set import HeldOut, Validation, held_out_of, validation_of

NEW = "new:"
QUOTED = re.compile(r'"[^"]*"')
GB = 1e9
BLANK = 40  # batches that ask nothing, one after the other, where the run begins: more are no chance
AHEAD = 4  # batches made before they are asked for
SURVEYED = 3000  # samples that are read for texts and labels before the run


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run starts from: where its parts are, and how the config names it."""

    found: checkpoints.FoundCheckpoint
    source: str
    revision: str


@dataclass
class TrainingJob:
    """Everything a loop needs."""

    config: TrainConfig
    model: Florence
    tokenizer: Tokenizer
    tasks: Mapping[str, Task]
    order: PairOrder
    maker: BatchMaker
    head: DenseHead | None
    steps: int
    found: Examination
    validation: Validation | None = None
    held_out: Sequence[HeldOut] = ()
    start: Start | None = None
    features: FeatureCache | None = None
    own_rows: Mapping[str, slice] = field(default_factory=dict)
    """The rows that are trained of a matrix that the strategy leaves as it is: those of new tokens."""
    notes: Sequence[str] = ()
    """What is to be stated before the first step."""
    ranks: Ranks = field(default_factory=Ranks)

    def parts(self) -> checkpoints.Parts:
        """What the run starts from, opened again."""
        assert self.start is not None
        return opened(self.start, self.config.new_tokens, self.config.seed)

    @property
    def read_paths(self) -> dict[str, str]:
        """Paths that the run reads from, by their keys."""
        config, found = self.config, self.start.found if self.start else None
        out = {"model": str(found.home), "model's base": str(found.base)} if found else {}
        out |= {"init.language": config.init.language, "init.tower": config.init.tower}
        named = {
            "data": config.data,
            "validation": config.validation or [],
            "replay": config.sources[len(config.data) :],
        }
        for key, sources in named.items():
            for number, source in enumerate(sources):
                out |= {f"{key}[{number}].path": source.path, f"{key}[{number}].images": source.images}
        return out

    @property
    def loss(self) -> TokenLoss:
        """The loss of a target's tokens."""
        return TokenLoss(self.config.label_smoothing, self.config.soft_locations, self.tokenizer.loc0)

    @property
    def epochs(self) -> int:
        """Whole passes after which the data ends; 0: it never does."""
        return int(self.config.epochs) if self.config.epochs == int(self.config.epochs) else 0

    def stream(self, done: int, cursor: Cursor) -> Generator[Sequence[Batch], None, None]:
        """The batches of each step after the first `done`, made ahead: planned by a thread, and by it or by the worker
        processes that the config asks for loaded. Close it to stop them."""
        workers = self.config.workers
        loader: DataLoader[Batch | Failed] = DataLoader(
            InWorker(self.maker) if workers else self.maker,
            batch_size=None,
            sampler=_Plans(self, cursor, (self.steps - done) * self.config.accumulate),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            worker_init_fn=_leave_signals,
        )
        waiting: list[Batch] = []
        with contextlib.closing(made_ahead(iter(loader), AHEAD)) as batches:
            for batch in batches:
                if isinstance(batch, Failed):
                    raise batch.error()
                waiting.append(batch)
                if len(waiting) == self.config.accumulate:
                    yield waiting
                    waiting = []
        if waiting:
            yield waiting

    def first(self, count: int) -> Iterator[Batch]:
        """The first batches of the run that ask anything, whole on every rank; ValueError where a run of BLANK ones
        asks nothing."""
        blank, lost = 0, Tally()
        for planned in self.order.batches(self.config.batch_size, Cursor()):
            batch = self.maker[planned]
            for one in batch.left_out:
                lost.add(one)
            if batch.tokens:
                yield batch
                count, blank = count - 1, 0
            else:
                blank += 1
            if not count:
                return
            if blank == BLANK:
                why = str(lost) or "no token of them is scored"
                raise ValueError(f"data: {BLANK} batches hold no pair that can be trained on: {why}; {lost.advice()}")


class _Plans:
    """A sampler for DataLoader: this rank's share of each planned batch."""

    def __init__(self, job: TrainingJob, cursor: Cursor, count: int) -> None:
        self.job, self.cursor, self.count = job, cursor, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[PlannedBatch]:
        ranks = self.job.ranks
        planned = self.job.order.batches(self.job.config.batch_size, self.cursor, self.job.epochs)
        for _, batch in zip(range(self.count), planned):
            yield self._with_held(batch.share(ranks.rank, ranks.count))

    def _with_held(self, batch: PlannedBatch) -> PlannedBatch:
        """Mark the pictures whose features are in memory: a worker process does not see them."""
        cache = self.job.features
        if cache is None:
            return batch
        pairs = tuple(
            replace(group, held=group.picture.sample is not None and cache.of(group.picture.sample.image) in cache)
            for group in batch.pairs
        )
        return replace(batch, pairs=pairs)


def prepare(config: TrainConfig, ranks: Ranks | None = None, resumed: Path | None = None) -> TrainingJob:
    """Open or build all parts of a run; `resumed` is the checkpoint that it goes on from. Nothing is written."""
    ranks = ranks or Ranks(device=device_of(config.device))
    if config.batch_size % ranks.count:
        raise ValueError(
            f"batch_size: expected a multiple of the {ranks.count} ranks, got {config.batch_size}; each does its share"
        )
    size, start = named(config.model, config.revision)
    shape = SIZES[size] if start is None else start.found.checkpoint().config
    if config.image_size:
        shape = init.with_image_size(shape, config.image_size)
    tasks = known_tasks() if start is None else start.found.tasks()
    sources = open_sources(config, tasks, shape)
    own = sources[: len(config.data)]
    held_out = held_out_of(config, own, remembered_of(resumed) if resumed else None)
    validation = validation_of(config, own, held_out, tasks, shape)
    needs_texts = start is None or bool(config.dense)
    read = [s for source in sources for s in source.samples(SURVEYED // len(sources))] if needs_texts else []
    tokenizer, model = _started(config, size, start, shape, read, resumed)
    limits = limits_of(shape, config.max_target)
    for source in sources:
        source.tokenizer, source.limits = tokenizer, limits
    evaluated = {place_of(sample.image) for sample in validation.samples} if validation else set()
    found = examine(sources, config.on_error, evaluated)
    notes = weigh(config, sources, found)
    steps = steps_of(config, found, resumed)
    notes += notes_on(config, validation, found, steps)
    regularise(model, config)
    if config.lora is not None:
        torch.manual_seed(config.seed)
        lora.put_in(model, config.lora, lora.layout_of(start.found.base if start else None))
    optim.choose_trainable(model, config.strategy, config.freeze_stages)
    own_rows: dict[str, slice] = {}
    if config.new_tokens and config.strategy in vocabulary.OWN_ROWS:  # else the whole matrix is trained
        own_rows = vocabulary.own_rows(model, len(config.new_tokens), tokenizer.vocab_size)
        for name in own_rows:
            model.get_parameter(name).requires_grad_(True)
    if config.gradient_checkpointing:
        recompute_layers(model)
    model.to(ranks.device, torch.float64 if config.precision == "fp64" else torch.float32)
    head = None
    if config.dense:
        head = open_head(start.found.home if start else None, shape.vision.dims[-1], Vocabulary.of(read))
        head = head.to(ranks.device, model.dtype)
    features = features_of(config, model, sources, notes)
    maker = BatchMaker(
        sources,
        tokenizer,
        seed=config.seed,
        map_side=shape.map_size_wh[0] if head else 0,
        vocabulary=head.vocabulary if head else None,
        augment=config.augment,
        on_error=config.on_error,
        size_wh=shape.image_size_wh,
        features=features,
    )
    order = PairOrder(sources, config.seed)
    return TrainingJob(
        config, model, tokenizer, tasks, order, maker, head, steps, found, validation, held_out, start, features,
        own_rows, notes, ranks,
    )  # fmt: skip


def _started(
    config: TrainConfig,
    size: str,
    start: Start | None,
    shape: ModelConfig,
    read: Sequence[Sample],
    resumed: Path | None,
) -> tuple[Tokenizer, Florence]:
    """The tokenizer and the model before the first step: those of a start, or new ones."""
    if start is not None:
        model, tokenizer, _ = opened(start, config.new_tokens, config.seed)
        init.resize(model, shape.image_size_wh)
        return tokenizer, model
    given = config.init
    if resumed is not None:
        tokenizer = Tokenizer.load(resumed)
    elif given.language:
        tokenizer = Tokenizer.load(checkpoints.find_folder(given.language))
    else:
        tokenizer = Tokenizer.train(texts_of(read), config.vocab_size)
    tokenizer = vocabulary.grown(tokenizer, config.new_tokens)
    model = init.build(size, tokenizer, config.seed)
    init.resize(model, shape.image_size_wh)
    given_weights.take(model, given.language, given.tower)
    return tokenizer, model


def open_sources(config: TrainConfig, tasks: Mapping[str, Task], shape: ModelConfig) -> list[TrainingSource]:
    """The datasets of all sources of a config, replay last."""
    moves = MoveSettings(config.flip, config.crop, config.crop_scale, config.crop_keep)
    size_wh, letters = shape.image_size_wh, bool(config.dense)
    return [
        open_source(source, mixture(source, tasks), size_wh, config.on_error, moves, letters)
        for source in config.sources
    ]


def notes_on(config: TrainConfig, validation: Validation | None, found: Examination, steps: int) -> list[str]:
    """What is to be stated of the validation, and of keys without their effect, before the first step."""
    notes = []
    given = config.init.language if config.model.startswith(NEW) else config.model
    if given and config.vocab_size != TrainConfig.vocab_size:
        notes.append(f"vocab_size: {config.vocab_size} changes nothing: the vocabulary is that of {given}")
    if config.warmup_steps > steps:
        reached = 100 * steps / config.warmup_steps
        notes.append(
            f"warmup_steps: {config.warmup_steps} are more than the run's {steps} steps: the rate rises to "
            f"{reached:.2g} % of lr"
        )
    if found.both:
        notes.append(
            f"validation: {found.both} of the pictures that are evaluated are trained on as well, so their scores say "
            "little; name parts of the data (split: train, split: val) or other pictures"
        )
    if validation is not None and validation.unread:
        notes.append(f"validation: {len(validation.unread)} samples cannot be read, such as {validation.unread[0]}")
    named = {"validation": config.validation, "best.metric": config.best.metric}
    idle = [key for key, value in named.items() if value]
    if validation is None and idle:
        notes.append(f"{' and '.join(idle)}: nothing is evaluated; evaluate_every says how often (1e: each epoch)")
    return notes


def features_of(
    config: TrainConfig, model: Florence, sources: Sequence[TrainingSource], notes: list[str]
) -> FeatureCache | None:
    """The cache that a config asks for; ValueError where the tower is trained. What is to be stated goes to `notes`."""
    if config.cache_features == "off":
        return None
    frozen = FrozenVision(model)
    if not frozen.tower:
        raise ValueError(
            f"cache_features: {config.cache_features}: the tower is trained by strategy {config.strategy}; expected "
            "frozen_vision, decoder, or lora with lora.vision: false"
        )
    if config.dense:
        raise ValueError("cache_features: dense trains on the tower's map; leave out one of the two")
    pictures = sum(source.count(0) for source in sources if isinstance(source, SampleSource))
    changes = [key for key in ("augment", "flip", "crop") if getattr(config, key) not in ("none", 0)]
    if changes or not pictures:
        why = f"{' and '.join(changes)} change pictures" if pictures else "scenes are drawn anew"
        notes.append(f"cache_features: off: {why} each epoch")
        return None
    kind = torch.bfloat16 if config.cache_dtype == "bf16" else torch.float32
    folder = Path(config.cache_folder or Path(config.out) / "features") if config.cache_features == "disk" else None
    cache = FeatureCache(
        frozen.name(f"{config.precision} {config.fast_fp32}"), frozen.shape, kind, config.cache_gb * GB, folder
    )
    notes.append(cache.about(pictures))
    return cache


def opened(start: Start, new_tokens: Sequence[str], seed: int) -> checkpoints.Parts:
    """The parts of a start, its vocabulary grown by new tokens."""
    model, tokenizer, tasks = checkpoints.open_parts(start.found, "float32")
    if new_tokens:
        tokenizer = tokenizer.with_tokens(new_tokens)
        native = start.found.checkpoint().layout == "transformers"  # which saves rows in multiples of 64
        vocabulary.grow(model, tokenizer, new_tokens, seed, 64 if native else 1)
    return checkpoints.Parts(model, tokenizer, tasks)


def _leave_signals(worker: int) -> None:
    """A stop is the loop's to handle: workers live until it has saved (a terminal signals the whole group)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def named(model: str, revision: str = "") -> tuple[str, Start | None]:
    """The size of a new model and no start, or the checkpoint of one that is there."""
    if revision and (model.startswith(NEW) or model in checkpoints.SHIPPED_NAMES or Path(model).is_dir()):
        raise ValueError(f"revision: {revision}: goes with a hub id, {model} is none; leave it out")
    if not model.startswith(NEW):
        return "", Start(checkpoints.find(model, revision or None), model, revision)
    size = model.removeprefix(NEW)
    if size not in SIZES:
        raise ValueError(f"model: {model}: expected one of {', '.join(NEW + size for size in SIZES)}")
    return size, None


def mixture(source: DataSource, table: Mapping[str, Task]) -> TaskMixture:
    """The source's tasks by token and their weights; where it names none, all official ones, and of rows of prompts and
    answers the prompts as they are."""
    weights = source.tasks or dict.fromkeys((*TASKS, PROMPT) if holds_prompts(source) else TASKS, 1.0)
    chosen = {task_of(name, table).token: weight for name, weight in weights.items() if weight}
    lists = ListRules(source.unsure_below, source.open_end, source.item_order == "random", source.unsure_names_below)
    return TaskMixture(chosen, table, source.answers == "first", lists=lists)


def limits_of(shape: ModelConfig, max_target: int | None) -> Limits:
    """What the model holds: beside the picture's vectors in the encoder, and in the decoder."""
    width, height = shape.map_size_wh
    most = shape.text.max_positions
    return Limits(most - 1 - width * height, min(max_target or most, most))


def steps_of(config: TrainConfig, found: Examination, resumed: Path | None = None) -> int:
    """Steps in all: as configured, or of so many epochs those that are done and those for the pairs that were not met
    until then: a run that ended with a short batch has met fewer than its steps hold."""
    refuse_unused_epoch(config, found)
    if not config.epochs:
        return config.steps
    size = config.batch_size * config.accumulate
    done, met = progress_of(resumed, size) if resumed else (0, 0)
    left = max(0, round(found_pairs(config, found)) - met)
    return max(1, done + math.ceil(left / size))


def refuse_unused_epoch(config: TrainConfig, found: Examination) -> None:
    """ValueError where the run would come to an epoch in which no source is used, by the epochs that they name."""
    spans = [source.epochs for source in config.sources if source.epochs is not None]
    if len(spans) < len(config.sources):  # one is used in every epoch
        return
    size, pairs, epoch = config.batch_size * config.accumulate, 0.0, 0
    while epoch < config.epochs if config.epochs else round(pairs) <= (config.steps - 1) * size:
        used = [n for n, (first, last) in zip(found.pairs_by_source, spans) if first <= epoch <= last]
        if not used:
            steps = math.ceil(round(pairs) / size)
            asked = f"epochs: {config.epochs:g}" if config.epochs else f"steps: {config.steps}"
            most = f"epochs: {epoch}" if config.epochs else f"steps: {steps}"
            raise ValueError(
                f"data: no source is used in epoch {epoch} (counted from 0), and {asked} goes on to it; widen the "
                f"epochs of a source{f', or give {most}' if epoch else ''}"
            )
        pairs, epoch = pairs + sum(used), epoch + 1


def found_pairs(config: TrainConfig, found: Examination) -> float:
    """Pairs of all epochs of a config, each source in those that use it."""
    total, left, epoch = 0.0, config.epochs, 0
    while left > 0:
        spans = [source.epochs or (0, epoch) for source in config.sources]
        pairs = sum(n for n, (first, last) in zip(found.pairs_by_source, spans) if first <= epoch <= last)
        total, left, epoch = total + pairs * min(1.0, left), left - 1, epoch + 1
    return total


def texts_of(samples: Sequence[Sample]) -> Iterator[str]:
    """Texts that a vocabulary should encode in few tokens: prompts, captions, labels, descriptions, phrases.

    What is written in the pictures is left out: it is to be spelt letter by letter, read and not guessed.
    """
    for task in TASKS.values():
        yield from [task.prompt.replace("{input}", "")] * 50
    for sample in samples:
        yield from (QUOTED.sub("", text.text) for text in sample.texts if text.detail != "ocr")
        for region in sample.regions:
            if region.kind != "text":
                yield from (region.label, region.description)
        yield from (QUOTED.sub("", grounding.phrase) for grounding in sample.groundings)


def regularise(model: Florence, config: TrainConfig) -> None:
    """Set the run's dropout and drop path in the model at hand; the saved config keeps its own."""
    if config.dropout is not None:
        for module in model.language.modules():
            if hasattr(module, "dropout"):
                module.dropout = config.dropout  # type: ignore[assignment]
    blocks = [module for module in model.vision_tower.modules() if isinstance(module, Block)]
    for number, block in enumerate(blocks):
        block.drop_path = config.drop_path * number / max(1, len(blocks) - 1)

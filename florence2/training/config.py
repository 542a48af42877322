"""The configuration of a training run: plain dataclasses whose values are checked. Imports no torch, knows no file."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from florence2.labels import fold_spaces

SCHEDULES = ("constant", "linear", "cosine", "trapezoid")
PRECISIONS = ("fp32", "bf16", "fp64")
AUGMENTS = ("none", "default")
STRATEGIES = ("full", "frozen_vision", "decoder", "lora")
SPLITS = ("train", "val", "test")
CACHES = ("off", "memory", "disk")
ROWS = (260, 2**20 - 1024)  # of a new vocabulary: 4 specials and 256 bytes are always there


@dataclass
class DataSource:
    """Where samples come from, and which of their tasks are trained how often."""

    path: str = ""
    """A folder, .jsonl or store; hf:OWNER/NAME@REVISION; or `scenes:count=20000,objects=1-3`, drawn on the fly."""
    tasks: dict[str, float] = field(default_factory=dict)
    """Task to weight, such as {OD: 2, CAPTION: 1}; or a list of tasks, each of weight 1. PROMPT: answered questions,
    the question itself the prompt. Empty: all official ones with truths; of rows of prompts and answers
    PROMPT too."""
    answers: str = "all"
    """Of several answers to one question (captions of one picture): all, a pair each; or the first."""
    weight: float = 1.0
    """How often each pair of this source comes in an epoch; a fraction takes that share of them, and an epoch that it
    leaves empty is passed over."""
    split: str = ""
    """train, val or test; empty: the whole."""
    format: str = ""
    """The foreign format's name; empty: detected from the files."""
    prefix_suffix: bool = False
    """The source is JSON Lines of image, prefix and suffix; absent: detected from the files."""
    images: str = ""
    """The folder that relative picture paths start from; empty: as the format says."""
    pairs: int = 1
    """Asks about one picture in a batch; the picture is encoded once for all of them."""
    negatives: float = 0.0
    """Questions about what is not there, so many for one about what is; of OPEN_VOCABULARY_DETECTION,
    CAPTION_TO_PHRASE_GROUNDING and of region tasks (empty regions), where coverage says what is absent."""
    epochs: tuple[int, int] | None = None
    """First and last epoch (from 0, both included) that use this source; a curriculum is made of such spans.
    Each epoch of the run has to have a source."""
    snapshot: int | None = None
    """Of a store the snapshot that is read; absent: the newest."""
    fold: tuple[int, int] | None = None
    """[number, folds]: leave out the pictures of that fold, which another model is to annotate; absent: none."""
    unsure_below: float = 0.0
    """Objects scored lower are written in targets and not scored by the loss: their places are neither objects nor
    background."""
    unsure_names_below: float = 0.0
    """Of objects scored lower the loss takes the place and not the name: sources agree on a box and not on its name."""
    open_end: bool = False
    """Where coverage does not say that all objects are listed, the end of a list of objects is not scored."""
    item_order: str = "fixed"
    """Of lists of objects: fixed, as the task says; random, another one each time."""
    holdout: float = 0.0
    """Leave out this share of the pictures, by hash of their ids, on which a model is to be measured; below 1."""
    samples: Any = field(default=None, repr=False, compare=False)
    """From Python, in place of path: Samples, rows of (picture, prompt, answer), or what `datasets` loads."""

    def __post_init__(self) -> None:
        _check_source(self)


@dataclass
class ParameterGroup:
    """A rate for some of the parameters."""

    match: str
    """A regular expression, searched for in the parameters' names; it has to be in one that is trained."""
    lr: float
    """Their largest learning rate."""


@dataclass
class OptimizerConfig:
    """AdamW's own numbers."""

    betas: tuple[float, float] = (0.9, 0.98)
    """How slowly the means of gradients and of their squares forget; small batches ask for a shorter second memory."""
    eps: float = 1e-8
    """Added to the root of the second mean."""


@dataclass
class LoraConfig:
    """A low-rank adapter (peft); `strategy: lora` uses it."""

    rank: int = 8
    """Inner width of the adapter."""
    alpha: float = 16.0
    """Scale: the adapter's output is multiplied by alpha / rank (rslora: alpha / sqrt(rank))."""
    dropout: float = 0.05
    """Dropout before the adapter, 0 to 1."""
    vision: bool = True
    """Whether layers of the tower are adapted too where targets name some; false: it stays as it is."""
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"])
    """Ends of names of linear layers, in our spelling or that of the checkpoint's layout; each has to match one."""
    dora: bool = False
    """DoRA: directions and lengths apart (arXiv 2402.09353)."""
    rslora: bool = False
    """rsLoRA: scaled by the root of the rank (arXiv 2312.03732)."""


@dataclass
class InitConfig:
    """What a new model's parts begin with; the rest starts from nothing."""

    language: str = ""
    """A BART checkpoint (folder or hub id) of the size's own widths; its tokenizer comes with it."""
    tower: str = ""
    """A Florence-2 checkpoint whose tower is taken, or an original DaViT's (exact for one picture size alone)."""


@dataclass
class BestConfig:
    """Which evaluation is the best."""

    metric: str = ""
    """A key of evaluations.jsonl's metrics; empty: the task's main metric, with several tasks `loss`."""
    mode: str = ""
    """max or min; empty: min for losses and error rates, else max."""


@dataclass
class TrainConfig:
    """One training run. The same config again resumes it from its newest checkpoint."""

    out: str
    """The run's folder: checkpoints, metrics.jsonl, the config."""
    data: list[DataSource]
    """Where pairs come from: a list of sources (their keys: below)."""
    temperature: float = 1.0
    """Of the mixture of tasks: one with n pairs gives a number in proportion to n ** (1 / temperature), all together as
    many as before. 1: as many as there are; above 1: rare tasks more often. Scenes are drawn by weights alone."""
    replay: DataSource | None = None
    """A source of other tasks, mixed in against forgetting; its keys are those of data[]."""
    replay_share: float = 0.2
    """Share of all pairs that come from `replay`, above 0 and below 1."""
    model: str = "nano"
    """What `load` opens, adapters too; or `new:nano`, a size started from nothing with a vocabulary of its own."""
    revision: str = ""
    """Branch, tag or commit of a hub id."""
    image_size: int = 0
    """Side in pixels of the squares that pictures are brought to, saved with the model; 0: as the model has it. The
    tables of positions are stretched to the new map."""
    init: InitConfig = field(default_factory=InitConfig)
    """Given weights that a new model begins with: language, tower."""
    new_tokens: list[str] = field(default_factory=list)
    """Tokens of your own, appended to the vocabulary for prompts and answers; old ids stay. With lora and decoder their
    rows alone are trained of the matrix."""
    vocab_size: int = 1536
    """Rows of a new model's vocabulary before the 1,024 added tokens; any other keeps its own."""
    steps: int = 1000
    """Steps of the optimiser in all; a resumed run may raise it."""
    epochs: float = 0.0
    """Passes over the data, in place of `steps`; 0: `steps` counts."""
    batch_size: int = 32
    """Pairs of (picture, ask) in one forward, over all ranks."""
    accumulate: int = 1
    """Forwards summed into one step; the loss is the mean over all their tokens."""
    lr: float = 1e-4
    """Largest learning rate; 0 changes nothing."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: str = "cosine"
    """After the warm-up: constant; linear or cosine down to zero; trapezoid: constant, the last 30 % linear to zero."""
    weight_decay: float = 0.01
    """On matrices; norms, biases and embeddings have none."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """AdamW's betas and eps."""
    groups: list[ParameterGroup] = field(default_factory=list)
    """Rates of their own: a list of {match: expression, lr: rate}; the first found in a parameter's name holds."""
    clip: float = 1.0
    """Largest norm of all gradients together; 0: off."""
    ema: float = 0.0
    """Decay of the averaged weights that are saved in place of the last ones; 0: off."""
    dense: float = 0.0
    """Weight of the auxiliary loss on the tower's map; 0: off."""
    precision: str = "fp32"
    """fp32; bf16: fp32 weights and a bf16 copy that computes; fp64: for tests."""
    fast_fp32: str = "auto"
    """auto: on an AMD CPU, where fp32 stays fp32, its products by torch's matmul precision `medium` (twice as fast);
    on: wherever it is, which may compute in a lower type; off."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    threads: int = 0
    """Threads of torch on the CPU; 0: as they are."""
    workers: int = 0
    """Processes that prepare batches; 0: a thread of this one does."""
    seed: int = 0
    """Of the order, the augmentation, dropout and new weights."""
    dropout: float | None = None
    """In the language model, 0 to 1; absent: the checkpoint's."""
    drop_path: float = 0.0
    """In the tower, 0 to 1, rising from the first block to the last."""
    label_smoothing: float = 0.0
    """Share of the target spread over the whole vocabulary, 0 to 1."""
    soft_locations: float = 0.0
    """Bins (of 1,000 to a side) by which a location's target is spread as a Gaussian, such as 3 to 6; 0: off."""
    pull: float = 0.0
    """Share of each token's target that is what the start thinks there, against forgetting, 0 to 1; 0: off. The start
    is kept and asked at every step: about a third more time."""
    pull_unscored: float = 0.0
    """The same where a source leaves tokens unscored (open_end, unsure_below): the weight of what the start thinks."""
    augment: str = "none"
    """none; default: light and contrast."""
    flip: float = 0.0
    """Share of pictures, anew each epoch, that are mirrored, left and right in words exchanged; never one with text
    that is read, or with answered questions."""
    crop: float = 0.0
    """Share of pictures, anew each epoch, of which a window is shown, or which are shown on a larger grey ground; never
    one with answered questions or with words of place and size, never without a part that a caption or a line needs."""
    crop_scale: tuple[float, float] = (0.6, 1.3)
    """Least and largest side of the window as a share of the picture's."""
    crop_keep: float = 0.4
    """An object of which a window leaves less is dropped from the truth; others are clipped."""
    strategy: str = "full"
    """full; frozen_vision: all but the tower; decoder: the decoder's layers without the tied matrix; lora."""
    freeze_stages: int = 0
    """With strategy full: stages of the tower, from the first, that stay as they are."""
    lora: LoraConfig | None = None
    """With strategy lora: rank, alpha, dropout, targets, dora, rslora."""
    cache_features: str = "off"
    """off; memory (or true): what a frozen tower makes of a picture is computed once, for all its asks and epochs;
    disk: in files as well, for later runs of the same tower. Augmentation switches it off."""
    cache_dtype: str = "bf16"
    """bf16: half the room, features rounded to 8 bits, nothing lost where precision is bf16; fp32."""
    cache_folder: str = ""
    """Where files go; empty: OUT/features."""
    cache_gb: float = 8.0
    """Most memory that features take, for each rank; pictures beyond it come from the files or are computed again."""
    gradient_checkpointing: bool = False
    """Compute layers again in the backward pass instead of keeping their inner results: less memory, more time."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 1
    """Checkpoints kept, the best apart."""
    evaluate_every: str = "0"
    """Steps between evaluations, or epochs as 1e or 0.5e; 0: none."""
    validation: list[DataSource] | None = None
    """What is evaluated; absent: each source's own val part, else 5 % of its samples, kept out of training."""
    validation_limit: int = 200
    """Most samples of validation that an evaluation asks about."""
    patience: int = 0
    """Evaluations without a better best after which the run stops; 0: off."""
    best: BestConfig = field(default_factory=BestConfig)
    """metric and mode of the best checkpoint."""
    tensorboard: bool = False
    """Write the numbers of metrics.jsonl and evaluations.jsonl to OUT/tensorboard as well (needs florence2[train])."""
    on_error: str = "skip"
    """skip: a picture that cannot be read is left out, counted and named; raise: every picture is opened first."""
    max_target: int | None = None
    """Longest target in tokens with <s> and </s>; absent: what the model holds. Longer ones are left out, counted."""

    def __post_init__(self) -> None:
        _check_choices(self)
        _check_numbers(self)
        _check_strategy(self)
        if not self.data:
            raise ValueError("data: expected at least one source; add `- path: FOLDER`")
        if self.validation is not None and not self.validation:
            raise ValueError(
                "validation: expected at least one source; leave it out, and a share of the data is held out"
            )
        if not self.out:
            raise ValueError("out: expected the run's folder, got nothing")

    @property
    def sources(self) -> list[DataSource]:
        """All that pairs come from, replay last."""
        return [*self.data, *([self.replay] if self.replay is not None else [])]

    @property
    def evaluation_interval(self) -> tuple[float, str]:
        """How often is evaluated: (steps, "steps") or (epochs, "epochs"); (0, "steps") never."""
        text = self.evaluate_every.strip()
        unit = "epochs" if text.endswith("e") else "steps"
        return float(text.removesuffix("e")), unit


def _check_choices(config: TrainConfig) -> None:
    choices = {
        "schedule": SCHEDULES,
        "precision": PRECISIONS,
        "augment": AUGMENTS,
        "strategy": STRATEGIES,
        "on_error": ("skip", "raise"),
        "cache_features": CACHES,
        "fast_fp32": ("auto", "on", "off"),
        "cache_dtype": ("bf16", "fp32"),
    }
    for key, expected in choices.items():
        if getattr(config, key) not in expected:
            raise ValueError(f"{key}: expected one of {', '.join(expected)}, got {getattr(config, key)!r}")
    if config.best.mode not in ("", "max", "min"):
        raise ValueError(f"best.mode: expected max or min, got {config.best.mode!r}")


def _refuse_infinite(config: Any) -> None:
    for key, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}: expected a finite number, got {value}")


def _check_source(source: DataSource) -> None:
    _refuse_infinite(source)
    if source.split not in ("", *SPLITS):
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {source.split!r}")
    if source.answers not in ("all", "first"):
        raise ValueError(f"answers: expected all or first, got {source.answers!r}")
    for task, weight in source.tasks.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"tasks.{task}: expected a weight of at least 0, got {weight}")
    if source.tasks and not any(source.tasks.values()):
        raise ValueError("tasks: every weight is 0; leave out the source, or give one task a weight")
    if not 0 <= source.negatives <= 100:
        raise ValueError(f"negatives: expected a number from 0 to 100, got {source.negatives}")
    if source.weight <= 0:
        raise ValueError(f"weight: expected above 0, got {source.weight}")
    if source.pairs < 1:
        raise ValueError(f"pairs: expected at least 1, got {source.pairs}")
    if not 0 <= source.holdout < 1:
        raise ValueError(f"holdout: expected 0 to less than 1, got {source.holdout}")
    for key in ("unsure_below", "unsure_names_below"):
        if not 0 <= getattr(source, key) <= 1:
            raise ValueError(f"{key}: expected 0 to 1, got {getattr(source, key)}")
    if source.item_order not in ("fixed", "random"):
        raise ValueError(f"item_order: expected fixed or random, got {source.item_order!r}")
    if source.epochs and not 0 <= source.epochs[0] <= source.epochs[1]:
        raise ValueError(f"epochs: expected [first, last] from 0 on, got {list(source.epochs)}")
    if source.fold and not 0 <= source.fold[0] < source.fold[1]:
        raise ValueError(f"fold: expected [number, folds], the number below the folds, got {list(source.fold)}")


def _check_numbers(config: TrainConfig) -> None:
    for part in (config, config.lora, config.optimizer):
        if part is not None:
            _refuse_infinite(part)
    for key in ("steps", "batch_size", "accumulate", "save_every", "keep", "validation_limit"):
        if getattr(config, key) < 1:
            raise ValueError(f"{key}: expected at least 1, got {getattr(config, key)}")
    if config.max_target is not None and config.max_target < 3:
        raise ValueError(f"max_target: expected at least 3 tokens, got {config.max_target}")
    not_negative = ("lr", "epochs", "warmup_steps", "weight_decay", "clip", "ema", "dense", "dropout", "drop_path")
    counts = ("workers", "threads", "patience", "freeze_stages", "cache_gb", "image_size")
    for key in (*not_negative, "label_smoothing", "soft_locations", *counts):
        if (getattr(config, key) or 0) < 0:
            raise ValueError(f"{key}: expected at least 0, got {getattr(config, key)}")
    if not ROWS[0] <= config.vocab_size <= ROWS[1]:
        raise ValueError(f"vocab_size: expected {ROWS[0]} to {ROWS[1]} rows, got {config.vocab_size}")
    for key in ("flip", "crop", "crop_keep", "pull", "pull_unscored"):
        if not 0 <= getattr(config, key) <= 1:
            raise ValueError(f"{key}: expected 0 to 1, got {getattr(config, key)}")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed: expected 0 to {2**32 - 1}, got {config.seed}")
    if config.temperature <= 0:
        raise ValueError(f"temperature: expected above 0, got {config.temperature}")
    if not 0 < config.replay_share < 1:
        raise ValueError(f"replay_share: expected above 0 and below 1, got {config.replay_share}")
    if not 0.1 <= config.crop_scale[0] <= config.crop_scale[1] <= 10:
        raise ValueError(f"crop_scale: expected [least, largest] within 0.1 to 10, got {list(config.crop_scale)}")
    for key in ("ema", "dropout", "drop_path", "label_smoothing"):
        if (getattr(config, key) or 0) >= 1:
            raise ValueError(f"{key}: expected less than 1, got {getattr(config, key)}")
    betas = config.optimizer.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas) or config.optimizer.eps <= 0:
        raise ValueError(f"optimizer: expected two betas in 0..1 and eps above 0, got {betas}, {config.optimizer.eps}")
    for number, group in enumerate(config.groups):
        if not 0 <= group.lr < math.inf:
            raise ValueError(f"groups[{number}].lr: expected at least 0, got {group.lr}")
        try:
            re.compile(group.match)
        except re.error as error:
            raise ValueError(f"groups[{number}].match: {group.match!r} is no regular expression ({error})") from None
    try:
        value, unit = config.evaluation_interval
        if not 0 <= value < math.inf or (unit == "steps" and value != int(value)):
            raise ValueError
    except ValueError:
        raise ValueError(f"evaluate_every: expected steps, or epochs as 1e, got {config.evaluate_every!r}") from None


def _check_strategy(config: TrainConfig) -> None:
    """A key of another strategy is refused: it would change nothing."""
    if config.lora is not None and config.strategy != "lora":
        raise ValueError(f"lora: goes with strategy lora, got strategy {config.strategy}; leave out one of the two")
    if config.strategy == "lora" and config.lora is None:
        config.lora = LoraConfig()
    if (config.init.language or config.init.tower) and not config.model.startswith("new:"):
        raise ValueError("init: goes with a new model (model: new:base); leave out one of the two")
    if config.cache_folder and config.cache_features != "disk":
        raise ValueError("cache_folder: goes with cache_features: disk; leave out one of the two")
    if config.freeze_stages and config.strategy != "full":
        raise ValueError(f"freeze_stages: goes with strategy full, got {config.strategy}; leave out one of the two")
    if config.lora is not None and (
        config.lora.rank < 1 or config.lora.alpha <= 0 or not 0 <= config.lora.dropout < 1 or not config.lora.targets
    ):
        raise ValueError(f"lora: expected rank and alpha above 0, dropout in 0..1 and targets, got {config.lora}")
    if config.strategy == "lora" and (config.ema or config.dense or config.model.startswith("new:")):
        raise ValueError("strategy lora: goes with a model that is there, without ema and dense; leave them out")
    if config.strategy == "lora" and config.image_size:
        raise ValueError("image_size: an adapter leaves its base as it is; leave it out, or train with strategy full")
    if (config.pull or config.pull_unscored) and (config.model.startswith("new:") or config.cache_features != "off"):
        raise ValueError("pull: goes with a model that is there, without cache_features; leave out one of the two")
    if config.patience and not config.evaluation_interval[0]:
        raise ValueError("patience: counts evaluations; give evaluate_every as well")


def described(kind: type) -> Iterator[tuple[str, str, str]]:
    """(key, default, sentence) of every key of a dataclass of this file; a sentence is the string beneath its field."""
    defaults = {f.name: f for f in dataclasses.fields(kind)}
    (body,) = (node.body for node in ast.parse(inspect.getsource(kind)).body if isinstance(node, ast.ClassDef))
    for node, following in zip(body, [*body[1:], None]):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = fold_spaces(str(following.value.value))
            field = defaults[node.target.id]
            made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            plain = "needed" if made is dataclasses.MISSING else "absent" if made is None else made
            shown = ", ".join(f"{k}={v}" for k, v in vars(made).items()) if dataclasses.is_dataclass(made) else plain
            yield node.target.id, "empty" if shown in ("", [], {}) else str(shown), text

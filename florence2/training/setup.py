"""What a run needs before its first step: the model and its tokenizer, datasets, batches, the auxiliary head."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from torch.utils.data import DataLoader

from florence2.codec.tasks import TASKS, load_tasks, save_tasks, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.model.checkpoint import load_model, open_checkpoint
from florence2.model.config import SIZES
from florence2.model.davit import Block
from florence2.model.florence import Florence
from florence2.predictor.checkpoints import find_folder
from florence2.records import Sample
from florence2.training import init
from florence2.training.batches import Batch, Batches
from florence2.training.config import DataSource, TrainConfig, to_mapping
from florence2.training.datasets import open_source
from florence2.training.dense import DenseHead, Vocabulary, open_head

NEW = "new:"
QUOTED = re.compile(r'"[^"]*"')
LOOK = 3000  # samples that are read for texts and labels before the run


@dataclass
class TrainingJob:
    """Everything a loop needs."""

    config: TrainConfig
    model: Florence
    tokenizer: Tokenizer
    batches: Batches
    head: DenseHead | None

    def stream(self, done: int) -> Iterator[Sequence[Batch]]:
        """The batches of each step after the first `done`, made by worker processes where the config asks for them."""
        accumulate, workers = self.config.accumulate, self.config.workers
        numbers = range(done * accumulate, self.config.steps * accumulate)
        loader: DataLoader[Batch] = DataLoader(
            self.batches,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals,
        )
        waiting: list[Batch] = []
        for batch in loader:
            waiting.append(batch)
            if len(waiting) == accumulate:
                yield waiting
                waiting = []


def prepare(config: TrainConfig) -> TrainingJob:
    """Open or build all parts of a run and write its config into OUT."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    size, start = named(config.model)
    shape = SIZES[size] if start is None else open_checkpoint(start).config
    datasets = [open_source(source, tasks_of(source), shape.image_size_wh) for source in config.data]
    looked = (
        []
        if start and not config.dense
        else [s for dataset in datasets for s in dataset.samples(LOOK // len(datasets))]
    )
    if start is None:
        own = Tokenizer.load(out) if (out / "tokenizer.json").is_file() else None  # where the run is resumed
        tokenizer = own or Tokenizer.train(texts_of(looked), config.vocab_size)
        model = init.build(size, tokenizer, config.seed)
    else:
        tokenizer, model = Tokenizer.load(start), load_model(start, "float32")
    tokenizer.save(out)
    save_tasks(load_tasks(start) if start else TASKS, out)
    for dataset in datasets:
        dataset.tokenizer = tokenizer
    regularise(model, config)
    model.to(config.device)
    head = None
    if config.dense:
        head = open_head(start, shape.vision.dims[-1], Vocabulary.of(looked)).to(config.device)
    batches = Batches(
        datasets,
        tokenizer,
        count=config.steps * config.accumulate,
        size=config.batch_size,
        seed=config.seed,
        max_target=min(config.max_target, shape.text.max_positions),
        map_side=shape.map_size_wh[0] if head else 0,
        vocabulary=head.vocabulary if head else None,
        augment=config.augment,
    )
    (out / "config.yaml").write_text(yaml.safe_dump(to_mapping(config), sort_keys=False), encoding="utf-8")
    return TrainingJob(config, model, tokenizer, batches, head)


def _leave_signals(worker: int) -> None:
    """A stop is the loop's to handle: workers live until it has saved (a terminal signals the whole group)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def named(model: str) -> tuple[str, Path | None]:
    """The size of a new model and no folder, or the folder of one that is there."""
    if not model.startswith(NEW):
        return "", find_folder(model)
    size = model.removeprefix(NEW)
    if size not in SIZES:
        raise ValueError(f"model: {model}: expected one of {', '.join(NEW + size for size in SIZES)}")
    return size, None


def tasks_of(source: DataSource) -> dict[str, float]:
    """The source's tasks by token and their weights; where it names none, all official ones."""
    return {
        task_of(name).token: weight for name, weight in (source.tasks or dict.fromkeys(TASKS, 1.0)).items() if weight
    }


def texts_of(samples: Sequence[Sample]) -> Iterator[str]:
    """What a vocabulary should spell well: prompts, captions, labels, descriptions, phrases.

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
    for module in model.language.modules():
        if hasattr(module, "dropout"):
            module.dropout = config.dropout  # type: ignore[assignment]
    blocks = [module for module in model.vision_tower.modules() if isinstance(module, Block)]
    for number, block in enumerate(blocks):
        block.drop_path = config.drop_path * number / max(1, len(blocks) - 1)

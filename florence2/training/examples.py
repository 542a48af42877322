"""From a Sample to what the model is trained on: (ask, target) pairs by the tasks' own truths, as token ids.

The encoder gets the picture and the prompt, the decoder the target: no token of an answer is ever in a prompt.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from florence2.codec.answers import encode
from florence2.codec.tasks import Task, prompt_text, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.formats.problems import LostObjects, ReadProblems
from florence2.labels import is_visible
from florence2.records import Ask, Parsed, Sample
from florence2.sources.negatives import Negatives
from florence2.training.unscored import ListRules

Truth = tuple[Task, Ask, Parsed]


@dataclass(frozen=True)
class TaskMixture:
    """The tasks of a source by token, each with its weight; they are looked up in `table`, the checkpoint's own."""

    weights: Mapping[str, float]
    table: Mapping[str, Task]
    first: bool = False
    """Of several answers to one ask only the first is trained on."""
    negatives: Negatives | None = None
    """What is asked about things that are not there."""
    lists: ListRules = ListRules()
    """How lists of objects are taught."""

    def truths(self, sample: Sample) -> list[Truth]:
        """Every pair that the sample's truth holds for these tasks, in the tasks' order."""
        truths = [(task, ask, parsed) for task in self.tasks for ask, parsed in self.pairs(task, sample)]
        return list({truth[1]: truth for truth in reversed(truths)}.values())[::-1] if self.first else truths

    def pairs(self, task: Task, sample: Sample) -> list[tuple[Ask, Parsed]]:
        """The pairs of one task: what is true, and what is not there."""
        found = task.truths(sample)
        return found + self.negatives.pairs(task, sample, found) if self.negatives else found

    def reweighed(self, times: Mapping[str, float]) -> TaskMixture:
        """The same tasks, each so many times as often."""
        return replace(self, weights={token: weight * times.get(token, 1.0) for token, weight in self.weights.items()})

    @property
    def tasks(self) -> list[Task]:
        return [task_of(token, self.table) for token in self.weights]


@dataclass(frozen=True)
class Limits:
    """What fits in the model, in tokens with <s> and </s>: a prompt beside the picture, a target."""

    prompt: int
    target: int


@dataclass(frozen=True)
class LeftOut:
    """A pair, or all pairs of a sample, that cannot be trained on; `reason` is one word that can be counted."""

    reason: str
    id: str
    image: str
    task: str
    detail: str
    pairs: int = 1


@dataclass(frozen=True)
class Example:
    """One pair of a sample: `prompt_ids` with <s> and </s>, `target_ids` likewise."""

    sample_id: str
    ask: Ask
    prompt: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    unscored: tuple[int, ...] = ()
    """Positions of target ids that the loss leaves out."""


def example(sample: Sample, truth: Truth, tokenizer: Tokenizer, table: Mapping[str, Task] | None = None) -> Example:
    """One pair as ids; ValueError where the answer cannot be written as a target."""
    task, ask, parsed = truth
    size_wh = sample.image.size_wh
    prompt = prompt_text(ask, size_wh, table)
    target = encode(parsed, task, tokenizer, size_wh, ask)
    return Example(sample.id, ask, prompt, tuple(tokenizer.prompt_ids(prompt)), (tokenizer.bos, *target, tokenizer.eos))


def fitted(
    sample: Sample,
    truth: Truth,
    tokenizer: Tokenizer,
    limits: Limits,
    tasks: TaskMixture,
    rng: random.Random | None = None,
) -> Example | LeftOut:
    """The pair, or why it cannot be trained on; `rng` draws the order of items where it is random."""
    task = truth[0].name
    truth = (*truth[:2], tasks.lists.ordered(truth[0], truth[2], rng))
    try:
        made = example(sample, truth, tokenizer, tasks.table)
    except ValueError as error:
        return left_out("unwritable", sample, str(error), task)
    prompt, target = len(made.prompt_ids), len(made.target_ids)
    if prompt > limits.prompt:
        detail = f"prompt of {prompt} tokens; beside the picture the model takes {limits.prompt}"
        return left_out("long_prompt", sample, detail, task)
    if target > limits.target:
        return left_out("too_long", sample, f"target of {target} tokens; max_target is {limits.target}", task)
    empty = truth[0].output_kind == "text" or (truth[0].output_kind == "region_text" and truth[2].regions)
    if target == 2 and empty:  # of a region an empty answer says that nothing is there
        return left_out("empty", sample, "the answer holds no letters", task)
    unscored = tasks.lists.unscored(sample, *truth, made.target_ids, tokenizer)
    return replace(made, unscored=unscored) if unscored else made


def sound(sample: Sample, tasks: TaskMixture) -> tuple[Sample, list[LeftOut]]:
    """The sample without what no pair should say: regions that lie outside the picture or have no area, texts without
    a letter that these tasks would ask for; and each of those. A label that lost one is no longer listed wholly."""
    width, height = sample.image.size_wh
    lost: list[LeftOut] = []
    gone: set[str] = set()
    coverage = dict(sample.coverage)
    regions, texts = [], []
    for region in sample.regions:
        x1, y1, x2, y2 = region.box or (0.0, 0.0, 1.0, 1.0)
        flat = x2 <= x1 or y2 <= y1
        outside = bool(width and height) and (x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height)
        if flat or outside:
            detail = f"region {region.id!r}: box {region.box} " + (
                "has no area" if flat else "lies outside the picture"
            )
            lost.append(left_out("flat" if flat else "outside", sample, detail))
            gone.add(region.id)
            objects = LostObjects(ReadProblems())
            objects.add(region.label)
            coverage = objects.withdraw(coverage, region.label_space, sample.regions)
        else:
            regions.append(region)
    asked = {task.storage_rule for task in tasks.tasks}
    for text in sample.texts:
        if is_visible(text.text) or text.detail not in asked:
            texts.append(text)
        else:
            lost.append(left_out("empty", sample, f"text {text.id!r}: holds no letters"))
            gone.add(text.id)
    if not lost:
        return sample, lost
    groundings = [
        replace(grounding, region_ids=tuple(i for i in grounding.region_ids if i not in gone))
        for grounding in sample.groundings
        if grounding.text_id not in gone and not (grounding.region_ids and set(grounding.region_ids) <= gone)
    ]
    kept = replace(sample, regions=tuple(regions), texts=tuple(texts), groundings=tuple(groundings), coverage=coverage)
    return kept, lost


def left_out(reason: str, sample: Sample, detail: str, task: str = "", pairs: int = 1) -> LeftOut:
    """What is left out of a sample."""
    return LeftOut(reason, sample.id, sample.image.member or sample.image.uri or sample.image.id, task, detail, pairs)


def sample_tasks(sample: Sample, tasks: TaskMixture, count: int, rng: random.Random) -> list[Truth]:
    """`count` pairs of a sample for different tasks, tasks drawn by weight, each task's pair at random."""
    remaining = dict(tasks.weights)
    drawn: list[Truth] = []
    while remaining and len(drawn) < count:
        token = rng.choices(tuple(remaining), tuple(remaining.values()))[0]
        del remaining[token]
        task = task_of(token, tasks.table)
        truths = tasks.pairs(task, sample)
        if truths:
            drawn.append((task, *rng.choice(truths)))
    return drawn

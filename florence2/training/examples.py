"""From a Sample to what the model is trained on: (ask, target) pairs by the tasks' own truths, as token ids.

The encoder gets the picture and the prompt, the decoder the target: no token of an answer ever stands in a prompt.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from florence2.codec.answers import encode
from florence2.codec.tasks import Task, prompt_text, task_of
from florence2.codec.tokenizer import Tokenizer
from florence2.records import Ask, Parsed, Sample


@dataclass(frozen=True)
class Example:
    """One pair of a sample: `prompt_ids` with <s> and </s>, `target_ids` likewise."""

    sample_id: str
    ask: Ask
    prompt: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


def example(sample: Sample, ask: Ask, parsed: Parsed, task: Task, tokenizer: Tokenizer) -> Example:
    """One pair as ids; ValueError where the answer cannot be written as a target."""
    size_wh = sample.image.size_wh
    prompt = prompt_text(ask, size_wh)
    target = encode(parsed, task, tokenizer, size_wh, ask)
    return Example(sample.id, ask, prompt, tuple(tokenizer.prompt_ids(prompt)), (tokenizer.bos, *target, tokenizer.eos))


def pairs_of(sample: Sample, tasks: Mapping[str, float]) -> list[tuple[Task, Ask, Parsed]]:
    """Every pair that the sample's truth holds for these tasks, in the tasks' order."""
    return [(task, ask, parsed) for task in map(task_of, tasks) for ask, parsed in task.truths(sample)]


def sample_tasks(
    sample: Sample, tasks: Mapping[str, float], count: int, rng: random.Random
) -> list[tuple[Task, Ask, Parsed]]:
    """`count` pairs of a sample for different tasks, tasks drawn by weight, each task's pair at random."""
    left = dict(tasks)
    chosen: list[tuple[Task, Ask, Parsed]] = []
    while left and len(chosen) < count:
        name = rng.choices(tuple(left), tuple(left.values()))[0]
        del left[name]
        task = task_of(name)
        truths = task.truths(sample)
        if truths:
            chosen.append((task, *rng.choice(truths)))
    return chosen

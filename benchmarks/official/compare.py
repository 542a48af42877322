"""One checkpoint beside transformers on real pictures: ids, prompts, dictionaries, published vectors; and our grammar.

Knows neither which checkpoints nor what becomes of the results.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import florence2
from florence2.codec.answers import unused_positions
from florence2.codec.tasks import TASKS, ask_of
from florence2.model.checkpoint import open_checkpoint
from florence2.model.layouts import EMBEDDING
from florence2.predictor import EncodedImage
from florence2.predictor.checkpoints import find_folder
from florence2.predictor.convert import convert
from florence2.predictor.doctor import CheckpointReport, examine

# picture -> what is asked about it: a caption to ground, an expression, a class; a region is the middle half of it
INPUTS = {
    "car": ("A green car parked in front of a yellow building.", "a car", "wheels"),
    "street": ("A stop sign stands before a red gate.", "the stop sign", "car"),
    "astronaut": ("A woman in an orange suit smiles before a flag.", "the orange suit", "flag"),
    "cat": ("A cat with yellow eyes.", "the nose of the cat", "cat"),
    "coffee": ("A cup of coffee with a spoon on a wooden table.", "the spoon", "cup"),
    "page": ("A page of printed text.", "the first line", "text"),
}
PROMPTS = {  # published prompt ids, of the official tokenizer
    "<DETAILED_CAPTION>": [0, 47066, 21700, 11, 4617, 99, 16, 2343, 11, 5, 2274, 4, 2],
    "<OD>": [0, 574, 22486, 5, 8720, 19, 4120, 766, 11, 5, 2274, 4, 2],
    "<OCR>": [0, 2264, 16, 5, 2788, 11, 5, 2274, 116, 2],
    "<OCR_WITH_REGION>": [0, 2264, 16, 5, 2788, 11, 5, 2274, 6, 19, 3806, 116, 2],
    "<CAPTION>": [0, 2264, 473, 5, 2274, 6190, 116, 2],
    "<REGION_PROPOSAL>": [0, 574, 22486, 5, 976, 5327, 11, 5, 2274, 4, 2],
    "<OPEN_VOCABULARY_DETECTION>wheels": [0, 574, 22486, 10562, 11, 5, 2274, 4, 2],
    "<REFERRING_EXPRESSION_SEGMENTATION>a car": [0, 574, 22486, 10, 512, 11, 5, 2274, 19, 11445, 2],
}
ADDED = 50265  # the id of <od>, the first added token, in the official tokenizer
PUBLISHED_TOKENS = 100  # the limit under which the published answers were recorded

Say = Callable[[str], None]
Vector = tuple[str, str, Sequence[int]]  # picture, prompt, published ids


@dataclass(frozen=True)
class Plan:
    """What is compared: checkpoints, pictures, tasks, the most tokens an answer may have, and what is known before."""

    sources: Sequence[str]
    pictures: dict[str, np.ndarray]
    tasks: Sequence[str] = tuple(TASKS)
    tokens: int = 1024
    device: str = "cpu"
    twins: Sequence[tuple[str, str]] = ()
    """Pairs of checkpoints that should hold the same model."""
    vectors: dict[str, Sequence[Vector]] = field(default_factory=dict)
    """Answers that are known of a checkpoint."""


@dataclass(frozen=True)
class Asked:
    """One ask, answered by the official rules, by transformers and by the grammar."""

    picture: str
    beams: int
    official: florence2.Answer
    theirs: tuple[int, ...]
    same_prompt: bool
    same_dictionary: bool
    totals: tuple[float, float]
    """Where ids differ, our model's log-probability of ours and of theirs; nearly equal: a tie, broken otherwise."""
    grammar: florence2.Answer
    unread: int
    """Tokens of the official answer that no item uses."""

    @property
    def same(self) -> bool:
        return self.official.token_ids == self.theirs

    @property
    def right(self) -> bool:
        return self.same and self.same_prompt and self.same_dictionary


@dataclass(frozen=True)
class Result:
    """What was found of one checkpoint. `vectors`: what is published, and whether ours says the same."""

    report: CheckpointReport
    load_seconds: float
    vectors: list[tuple[str, bool]]
    asked: list[Asked]


def examined(source: str, plan: Plan, say: Say) -> Result:
    """The doctor's report, the vectors, and every task about every picture; greedy search, too, about the first."""
    report = examine(source)
    begun = time.perf_counter()
    model = florence2.load(source, device=plan.device, dtype="float32")
    seconds = time.perf_counter() - begun
    vectors = [*prompt_vectors(model), *answer_vectors(model, plan.vectors.get(source, ()), plan.pictures)]
    asked: list[Asked] = []
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(source, report, Path(folder), plan.device)
        for number, name in enumerate(plan.pictures):
            begun = time.perf_counter()
            widths = (model.config.num_beams, 1) if number == 0 else (model.config.num_beams,)
            for beams in dict.fromkeys(widths):
                asked += ask_all(model, reference, name, beams, plan)
            equal = sum(one.right for one in asked)
            say(f"  {name}: {equal} of {len(asked)} answers equal so far, {time.perf_counter() - begun:.0f} s")
    return Result(report, seconds, vectors, asked)


def ask_all(model: florence2.Florence2, reference: Reference, name: str, beams: int, plan: Plan) -> Iterator[Asked]:
    """Every task about one picture, each of the three ways."""
    picture = plan.pictures[name]
    encoded = model.encode_image(picture)
    asks = asks_about(name, picture, plan.tasks)
    budget = min(plan.tokens, model.config.text.max_positions)
    official = model.predict(encoded, asks, official=True, num_beams=beams, max_new_tokens=budget)
    grammar = model.predict(encoded, asks, grammar=True, max_new_tokens=budget)
    for ours, free in zip(official, grammar):
        prompt, theirs, dictionary = reference.answer(picture, ours, beams, budget)
        same = ours.token_ids == theirs
        yield Asked(
            picture=name,
            beams=beams,
            official=ours,
            theirs=theirs,
            same_prompt=model.tokenizer.prompt_ids(ours.prompt) == prompt,
            same_dictionary=not same or ours.official("transformers") == dictionary,
            totals=(0.0, 0.0)
            if same
            else (total(model, encoded, ours, ours.token_ids), total(model, encoded, ours, theirs)),
            grammar=free,
            unread=len(unused_positions(ours.token_ids, model.tokenizer, ours.task)),
        )


def asks_about(name: str, picture: np.ndarray, tasks: Sequence[str]) -> list[florence2.Ask]:
    """Each task with what it takes."""
    height, width = picture.shape[:2]
    caption, expression, label = INPUTS[name]
    texts = {"<CAPTION_TO_PHRASE_GROUNDING>": caption, "<OPEN_VOCABULARY_DETECTION>": label}
    asks = []
    for token in tasks:
        takes = TASKS[token].input_kind
        text = texts.get(token, expression) if takes == "text" else ""
        region = (width / 4, height / 4, width * 3 / 4, height * 3 / 4) if takes == "region" else ()
        asks.append(florence2.Ask(token, text=text, region=region))
    return asks


class Reference:
    """transformers' model and processor of a checkpoint; from another layout than theirs it gets our export."""

    def __init__(self, source: str, report: CheckpointReport, folder: Path, device: str) -> None:
        from transformers import AutoProcessor, Florence2ForConditionalGeneration
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        exported = report.layout != "transformers" or report.facts["adapter"]
        if report.facts["adapter"]:
            florence2.load(source, device="cpu").save(folder, "transformers")  # transformers gets it merged
        elif exported:
            convert(source, folder, "transformers")
        home = folder if exported else find_folder(source)
        self.processor = AutoProcessor.from_pretrained(home)
        self.processor.image_processor = CLIPImageProcessorPil.from_pretrained(home)  # resizes as Pillow does
        self.model = Florence2ForConditionalGeneration.from_pretrained(
            home, dtype=torch.float32, attn_implementation="eager"
        )
        self.model.to(device).eval()

    @torch.inference_mode()
    def answer(
        self, picture: np.ndarray, ours: florence2.Answer, beams: int, budget: int
    ) -> tuple[list[int], tuple[int, ...], Any]:
        """What ours was asked: prompt ids without the picture's places, generated ids, and the official dictionary."""
        from PIL import Image

        before, _, after = TASKS[ours.task].prompt.partition("{input}")
        given = ours.prompt[len(before) : len(ours.prompt) - len(after)]
        inputs = self.processor(text=ours.task + given, images=Image.fromarray(picture), return_tensors="pt")
        prompt = [i for i in inputs["input_ids"][0].tolist() if i != self.processor.image_token_id]
        inputs = inputs.to(self.model.device)
        ids = self.model.generate(**inputs, num_beams=beams, do_sample=False, max_new_tokens=budget)[0].tolist()
        said = self.processor.decode(ids, skip_special_tokens=False)
        dictionary = self.processor.post_process_generation(said, task=ours.task, image_size=ours.size_wh)
        return prompt, tuple(ids), dictionary


@torch.inference_mode()
def total(model: florence2.Florence2, encoded: EncodedImage, ours: florence2.Answer, ids: Sequence[int]) -> float:
    """The log-probability that our model gives to ids as an answer, all at once and without any rule."""
    prompt = torch.tensor([model.tokenizer.prompt_ids(ours.prompt)])
    targets = torch.tensor([ids], device=model.device)
    logits = model.model(encoded.features[None], prompt, None, targets[:, :-1])
    return float(logits.log_softmax(-1).gather(2, targets[:, 1:, None]).sum())


def prompt_vectors(model: florence2.Florence2) -> Iterator[tuple[str, bool]]:
    """The published prompt ids, where the tokenizer is the official one."""
    if model.tokenizer.id_of("<od>") == ADDED:
        for prompt, ids in PROMPTS.items():
            yield f"prompt ids of `{prompt}`", model.tokenizer.prompt_ids(ask_of(prompt).prompt) == ids


def answer_vectors(
    model: florence2.Florence2, vectors: Sequence[Vector], pictures: dict[str, np.ndarray]
) -> Iterator[tuple[str, bool]]:
    """The published answers about the pictures that could be had."""
    for name, prompt, ids in vectors:
        if name in pictures:
            answer = model.predict(pictures[name], prompt, official=True, max_new_tokens=PUBLISHED_TOKENS)
            yield f"`{prompt}` about {name}", answer.token_ids == tuple(ids)


def equal_tensors(first: str, second: str) -> tuple[int, int]:
    """How many tensors of two checkpoints are bit-equal (embeddings on the rows that both have), and how many not."""
    one, other = open_checkpoint(find_folder(first)), open_checkpoint(find_folder(second))
    equal = 0
    for name in one.names:
        a, b = one.read(name), other.read(name)
        rows = min(len(a), len(b)) if name == EMBEDDING else None
        equal += torch.equal(a[:rows], b[:rows])
    return equal, len(one.names) - equal

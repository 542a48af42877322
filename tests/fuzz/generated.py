"""Answers of models with random weights, under every task, rule, label set, margin and beam width, going on,
in tiles and filtered: whole, scored."""

import math
import random

import numpy as np
import torch

from florence2.codec.answers import canonical, parse_ids, unused_positions
from florence2.codec.grammar import automaton
from florence2.codec.tasks import CLOSED, QUESTIONS, TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.model.florence import Florence
from florence2.predictor import Florence2
from florence2.predictor.post_filters import FILTERS, PLACED
from florence2.records import Ask
from tests.fuzz.attempts import Attempt
from tests.training.tiny import WORDS, tiny_config

LABELS = ("cat", "cat, dog", "ca", "a cat on a mat", "é", "日本", "x" * 30, "Cat", "0", "dog")
TOGETHER = 12  # asks that are answered in one batch
EACH = 20  # batches that one model answers


def attempts(seed):
    """Answers without end, some 240 of each model."""
    number = 0
    while True:
        rng = random.Random(f"{seed}-{number}")
        model = _model(rng)
        for turn in range(EACH):
            yield from _answered(model, rng, f"seed {seed}, model {number}, turn {turn}")
        number += 1


def _model(rng):
    tokenizer = Tokenizer.train(WORDS * 10, 320)
    model = Florence(tiny_config(tokenizer.vocab_size))
    torch.manual_seed(rng.randrange(10**6))
    scale = rng.choice((0.2, 1.0, 2.0, 6.0))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_().mul_(scale / weight[0].numel() ** 0.5)
        model.language.embedding.weight[tokenizer.eos] *= rng.choice((0.5, 1.0, 3.0))
    return Florence2(model, tokenizer)


def _answered(model, rng, name):
    pixels = np.random.default_rng(rng.randrange(10**6)).integers(0, 255, (rng.randint(1, 50), 40, 3), np.uint8)
    size_wh = (pixels.shape[1], pixels.shape[0])
    how = {"num_beams": rng.choice((1, 1, 2, 4)), "max_new_tokens": rng.choice((2, 3, 7, 24, 60))}
    how |= rng.choice(
        ({"official": True}, {"grammar": True}, {"grammar": True, "margin": rng.choice((0.1, 2.0, 40.0))})
    )
    asks = [_ask(rng, size_wh, closed="grammar" in how) for _ in range(TOGETHER)]
    try:
        answers = model.predict(pixels, asks, **how)
    except Exception as error:
        yield Attempt("all", f"{name}: {how}", f"{type(error).__name__}: {str(error)[:200]}")
        return
    for ask, answer in zip(asks, answers):
        fault = "; ".join(_amiss(model.tokenizer, ask, answer, size_wh, "grammar" in how))
        yield Attempt(answer.row.output_kind, f"{name}: {ask.task} {ask.labels[:3]} {how}: {answer.text[:80]}", fault)
    yield from _further(model, rng, pixels, list(zip(asks, answers)), how, name)


def _further(model, rng, pixels, asked, how, name):
    """One of the answers goes on, one is made of tiles, one is filtered."""
    size_wh = (pixels.shape[1], pixels.shape[0])
    budget = {"max_new_tokens": rng.choice((7, 24, 60))}
    cut = [(ask, answer, {"continue_from": answer, **budget}) for ask, answer in asked if answer.truncated]
    placed = [(a, b) for a, b in asked if b.row.output_kind in PLACED]
    grids = ("auto", (1, 1), *(((2, 1), (2, 2)) if size_wh[1] > 16 else ()))  # tiles of a cell at least
    tiled = [(a, b, {"tiles": rng.choice(grids), **budget}) for a, b in placed if b.row.input_kind != "region"]
    filtered = [
        (a, b, {"filters": [f for f, row in FILTERS.items() if b.row.output_kind in row.kinds], **budget})
        for a, b in placed
    ]
    for ask, answer, options in (rng.choice(some) for some in (cut, tiled, filtered) if some):
        told = f"{name}: {ask.task} {ask.labels[:3]} {sorted(options)} after {how}"
        try:
            found = model.predict(pixels, None if "continue_from" in options else ask, **options)
        except Exception as error:
            yield Attempt("further", told, f"{type(error).__name__}: {str(error)[:200]}")
            continue
        by_grammar = "continue_from" in options or ("filters" in options and model.config.rules == "grammar")
        if "tiles" in options:
            fault = "; ".join(_outside(found, size_wh))
        else:
            fault = "; ".join(_amiss(model.tokenizer, answer.ask, found, size_wh, by_grammar))
        yield Attempt("further", f"{told}: {found.text[:80]}", fault)


def _outside(answer, size_wh):
    """What is wrong with an answer that was made of parts: it has no tokens of its own."""
    width, height = size_wh
    ids = [item.id for item in (*answer.regions, *answer.groundings)]
    if len(set(ids)) < len(ids) or any(i not in ids for g in answer.groundings for i in g.region_ids):
        yield f"ids {ids[:9]}"
    if not ((answer.xyxy >= 0).all() and (answer.xyxy <= [width, height] * 2).all()):
        yield f"a place outside the picture of {size_wh}"
    if not all(r.score is not None and 0 <= r.score <= 1 for r in (*answer.regions, *answer.groundings)):
        yield "an item without a score"
    if answer.ask.labels and not set(answer.labels.tolist()) <= set(answer.ask.labels):
        yield "a label outside the set"


def _ask(rng, size_wh, closed):
    task = rng.choice([*TASKS.values(), *QUESTIONS.values()])
    given = {
        "text": {"text": rng.choice(("a dog", "cat", "a star on a house"))},
        "region": {"region": (0, 0, *size_wh)},
    }
    fields = given.get(task.input_kind, {})
    if closed and task.output_kind in CLOSED and rng.random() < 0.5:
        fields = {**fields, "labels": tuple(rng.sample(LABELS, rng.randint(1, len(LABELS))))}
        if task.output_kind == "open_boxes":
            fields.pop("text", None)
    return Ask(task.token, **fields)


def _amiss(tokenizer, ask, answer, size_wh, by_grammar):
    items = [*answer.texts, *answer.regions, *answer.groundings]
    for item in items:
        if item.score is None or not 0 <= item.score <= 1:
            yield f"{item.id}: score {item.score}"
    gone = {decision.item_id for decision in answer.decisions}
    if not {item.id for item in items} <= set(answer.signals()) <= {item.id for item in items} | gone:
        yield "items without signals"
    if not all(math.isfinite(value) for value in answer.token_measures.ravel().tolist()):
        yield "a measure that is no number"
    if not by_grammar:
        return
    if left := unused_positions(answer.token_ids, tokenizer, ask.task):
        yield f"ids that belong to nothing: {left[:5]}"
    legal = automaton(answer.row, tokenizer, ask)
    state = legal.start()
    try:
        for token in answer.token_ids[2:]:
            state = legal.advance(state, token)
        if len(answer.token_ids) > 2 and not legal.accepts(state):
            yield "not at an end"
    except ValueError as error:
        yield f"not legal: {str(error)[:100]}"
    if ask.labels and not {region.label for region in answer.regions} - {""} <= set(ask.labels):
        yield "a label outside the set"
    parsed, _ = parse_ids(answer.token_ids, tokenizer, answer.row, size_wh, ask)
    if all(r.box or r.quad or r.polygons for r in parsed.regions) and len(parsed.regions) and not ask.labels:
        once = canonical(parsed, answer.row, size_wh, ask)
        if canonical(once, answer.row, size_wh, ask) != once:
            yield "written again it is another answer"

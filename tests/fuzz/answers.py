"""Answers of any ids and text: read for every task without an error, in bounded time, nothing outside the picture."""

import math
import random

from florence2.codec.answers import canonical, parse, parse_ids, render, unused_positions
from florence2.codec.official import avg_loc_scores, decode_with_spans, official
from florence2.codec.tasks import TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.labels import is_unicode
from florence2.records import Ask
from tests.fuzz.attempts import Attempt, limited, one_line
from tests.fuzz.damage import HOSTILE, damaged_bytes
from tests.training.tiny import WORDS

SIZES = ((640, 480), (1, 1), (10_000, 3), (33, 100_000))
PIECES = (
    *("<loc_0>", "<loc_999>", "<loc_1000>", "<loc_-1>", "<loc_", "<loc_9999999999999999999999>", "<loc_²>", "<sep>"),
    *("<poly>", "</poly>", "<and>", "</s>", "<s>", "<pad>", "<unk>", "<od>", "</od>", "<ocr>", "</ocr>", "<grounding>"),
    *(
        "cat",
        "a dog on a sofa",
        " ",
        "\n",
        "\t",
        "é",
        "\ufffd",
        "<",
        ">",
        "<<loc_1>>",
        "\u2028",
        "\0",
        "it",
        "the image",
    ),
    *("<loc_1><loc_2><loc_3><loc_4>", "<loc_5>" * 8, "<loc_5>" * 7, "x" * 300, "<loc_1>" * 400),
)


def attempts(seed):
    """Random answers to each task in turn, without end."""
    tokenizer, number = Tokenizer.train(WORDS * 10, 320), 0
    while True:
        for token, task in TASKS.items():
            rng = random.Random(f"{seed}-{token}-{number}")
            size_wh = rng.choice(SIZES)
            given = {"text": {"text": "a dog on a sofa"}, "region": {"region": (0, 0, *size_wh)}}
            ask = rng.choice((None, Ask(token, **given.get(task.input_kind, {}))))
            text = "".join(rng.choice(PIECES) for _ in range(rng.choice((0, 1, 5, 30, 300))))
            if rng.random() < 0.2:
                text = damaged_bytes(rng, text.encode() or b"x")[1].decode("utf-8", "replace")
            if rng.random() < 0.1:
                text = str(rng.choice(HOSTILE))[:20_000] if rng.random() < 0.5 else rng.choice(PIECES) * 2000
            ids = [rng.choice((rng.randrange(tokenizer.vocab_size), tokenizer.loc0 + rng.randrange(1000)))
                   for _ in range(rng.choice((0, 3, 40, 1000)))]  # fmt: skip
            fault = _of_text(text, token, size_wh, ask) or _of_ids(ids, token, size_wh, ask, tokenizer)
            yield Attempt(task.output_kind, f"seed {seed}, number {number}: {token}: {text[:60]!r}", fault)
        number += 1


def _of_text(text, token, size_wh, ask):
    faults = []
    with limited(len(text), faults, 100):
        try:
            parsed = parse(text, token, size_wh, ask)
            faults += _amiss(parsed, size_wh)
            if all(region.box or region.quad or region.polygons for region in parsed.regions):  # asked without a place
                again = parse(render(parsed, token, size_wh, ask), token, size_wh, ask)
                if canonical(again, token, size_wh, ask) != canonical(parsed, token, size_wh, ask):
                    faults.append("rendered and parsed again it says something else")
            for style in ("microsoft", "transformers"):
                official(text, token, size_wh, style)
        except Exception as error:
            if is_unicode(text) or one_line(error, "") or "Unicode" not in str(error):
                faults.append(f"{type(error).__name__}: {str(error)[:200]}")
    return "; ".join(faults)


def _of_ids(ids, token, size_wh, ask, tokenizer):
    faults = []
    with limited(len(ids), faults, 1000):
        try:
            parsed, spans = parse_ids(ids, tokenizer, token, size_wh, ask)
            faults += _amiss(parsed, size_wh)
            items = {item.id for item in (*parsed.texts, *parsed.regions, *parsed.groundings)}
            if not set(spans) <= items:
                faults.append(f"places of items that are not there: {set(spans) - items}")
            if any(not 0 <= position < len(ids) for position in unused_positions(ids, tokenizer, token)):
                faults.append("unused positions outside the ids")
            text, at = decode_with_spans(ids, tokenizer)
            scores = avg_loc_scores(text, at, [-1.0] * len(at))
            if len(at) != len(ids) or not all(math.isnan(score) or 0 <= score <= 1 for score in scores):
                faults.append("scores of boxes outside [0, 1]")
        except Exception as error:
            faults.append(f"ids {ids[:40]}: {type(error).__name__}: {str(error)[:200]}")
    return "; ".join(faults)


def _amiss(parsed, size_wh):
    """Places outside the picture, ids twice, groundings that name nothing."""
    width, height = size_wh
    items = [item.id for item in (*parsed.texts, *parsed.regions, *parsed.groundings)]
    if len(set(items)) < len(items):
        yield "two items of one id"
    for region in parsed.regions:
        flat = [region.box or (), region.quad, *region.polygons]
        for x, y in (pair for numbers in flat for pair in zip(numbers[::2], numbers[1::2])):
            if not (0 <= x <= width and 0 <= y <= height):
                yield f"a place outside the picture: {x}, {y} of {size_wh}"
    for grounding in parsed.groundings:
        if not set(grounding.region_ids) <= set(items):
            yield f"a phrase of a region that is not there: {grounding}"

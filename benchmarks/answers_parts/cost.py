"""What scores and label sets cost a large model: processor time of a decoding step, random weights.

The same step (the grammar of objects, greedy) without measures of its tokens, with them, and with a set of 1,200 names
too, alternated; the picture and the prompt are read outside of the measured time.
"""

from __future__ import annotations

import statistics
import time

import torch

from answers_parts.label_sets import names
from florence2.codec.grammar import automaton
from florence2.codec.locations import BINS
from florence2.codec.tasks import TASKS
from florence2.codec.tokenizer import Tokenizer
from florence2.decoding.generate import Rules, constraint_of, search_of
from florence2.model.florence import Florence
from florence2.model.model_config import SIZES
from florence2.records import Ask

STEPS, ROUNDS = 40, 7
OBJECTS = TASKS["<OD>"]


@torch.inference_mode()
def run(args) -> dict[str, object]:
    """The table, and its figures."""
    if args.tokenizer is None:
        print("\ncost: needs --tokenizer FOLDER, the published tokenizer")
        return {}
    tokenizer = Tokenizer.load(args.tokenizer)
    figures: dict[str, object] = {}
    print("\n| size | a step | processor ms (median) | as a multiple of the first |\n|---|---|---|---|")
    for size in args.sizes.split(","):
        torch.manual_seed(0)
        config = SIZES[size]
        model = Florence(config).eval()
        features = torch.randn(1, config.image_tokens, config.text.d_model)
        ids = torch.tensor([tokenizer.prompt_ids(OBJECTS.prompt)])
        loc = tokenizer.loc0, tokenizer.loc0 + BINS
        many = Ask(OBJECTS.token, labels=tuple(names(1200)))
        ways = {"grammar alone": (None, None), "and measures": (loc, None), "and 1,200 names": (loc, many)}
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, (ordered, ask) in ways.items():
                search = search_of(model, Rules(num_beams=1, margin=1e9), ordered)
                grammar = automaton(OBJECTS, tokenizer, ask, config.text.vocab_size)
                cache = model.prefill(features, ids, torch.ones_like(ids, dtype=torch.bool))
                search.admit(
                    cache, constraint_of([config.text.max_positions], [grammar], Rules(num_beams=1, margin=1e9))
                )
                search.step()
                start = time.process_time()
                for _ in range(STEPS):
                    search.step()
                spent[name].append(1e3 * (time.process_time() - start) / STEPS)
        plain = spent["grammar alone"]
        for name, values in spent.items():
            ratio = statistics.median(a / b for a, b in zip(values, plain))
            figures[f"{size}, {name}"] = {"ms": round(statistics.median(values), 3), "ratio": round(ratio, 4)}
            print(f"| {size} | {name} | {statistics.median(values):.2f} | {ratio:.3f} |", flush=True)
    return figures

"""How long reading an answer takes, ours and the official dictionaries: python benchmarks/parsing.py

Prints a table of milliseconds at 4,000 and 16,000 tokens of adversarial answers, and, last, one JSON line.
"""

import json
import time

from florence2.codec.answers import parse, parse_ids
from florence2.codec.official import official
from florence2.codec.tasks import TASKS
from florence2.codec.tokenizer import Tokenizer

LENGTHS = 4_000, 16_000
UNITS = {  # what makes a backtracking parser slow -> tokens in one unit
    "a": 1,
    " ": 1,
    "<loc_5>": 1,
    "<loc_5": 1,
    "a<loc_1><loc_2><loc_3>": 4,
    "<poly>": 1,
    "<sep>": 1,
    "a<poly><loc_1><loc_2><loc_3><loc_4><loc_5><loc_6></poly>": 9,
    "<loc_1><loc_2><sep>": 3,
    "a\n<loc_1>": 3,
    "cat<loc_1><loc_2><loc_3><loc_4>": 5,
}
SIZE = 640, 480


def milliseconds(call, repeats=3):
    """The best of a few."""
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        call()
        best = min(best, time.process_time() - began)
    return 1000 * best


def main():
    tokenizer = Tokenizer.train(["a cat and a dog"] * 3, 300)
    worst = {"parse": 0.0, "parse_ids": 0.0, "official": 0.0}
    slowest = dict(worst)
    print(f"{'unit':<60} {'form':<10} " + " ".join(f"{n:>9,}" for n in LENGTHS) + "   ratio  (slowest task)")
    for unit, tokens in UNITS.items():
        texts = [unit * (length // tokens) for length in LENGTHS]
        ids = [tokenizer.encode(text) for text in texts]
        for form in worst:
            rows = []
            for task in {task.output_kind: task for task in TASKS.values()}.values():
                calls = {
                    "parse": lambda i: parse(texts[i], task, SIZE),  # noqa: B023  (called before the loop goes on)
                    "parse_ids": lambda i: parse_ids(ids[i], tokenizer, task, SIZE),  # noqa: B023
                    "official": lambda i: official(texts[i], task, SIZE),  # noqa: B023
                }
                times = [milliseconds(lambda i=i: calls[form](i)) for i in range(2)]  # noqa: B023
                rows.append((times[1], times[0], task.name))
            long, short, name = max(rows)
            ratio = long / max(short, 0.01)
            worst[form] = max(worst[form], ratio)
            slowest[form] = max(slowest[form], long)
            print(f"{unit!r:<60} {form:<10} {short:9.2f} {long:9.2f} {ratio:7.1f}  {name}")
    result = {name: {"worst_ratio": round(worst[name], 2), "slowest_ms": round(slowest[name], 1)} for name in worst}
    print(json.dumps({"benchmark": "parsing", "tokens": LENGTHS, **result}))


if __name__ == "__main__":
    main()

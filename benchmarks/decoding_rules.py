"""What the decoding rules cost as answers grow: time a token at 1,000 to 16,000 tokens, a model that costs nothing.

The model wants to repeat itself, so the ban of repeated n-grams is at work all the time, and beams fork and die.
Prints a table and, last, one JSON line.
"""

import json
import time

import torch

from florence2.decoding.generate import Rules, generate

VOCAB = 2000
LENGTHS = (1000, 4000, 16000)


class Repeats:
    """Logits that depend on the last token alone, drawn once: a walk that would go in circles for ever."""

    def __init__(self):
        self.table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0))
        self.table[:, :8] += 3  # a few tokens are said again and again
        self.table[:, 2] = -100

    def prefill(self, image_features, prompt_ids, prompt_mask):
        return self

    def states(self, ids, cache):
        return self.table[ids]

    def logits(self, states, span=None):
        return states

    def select(self, rows):
        pass


def seconds(beams, length):
    """How long one answer of `length` tokens takes."""
    model = Repeats()
    rules = Rules(num_beams=beams, forced_eos=2)
    start = time.process_time()
    answer = generate(model, torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1), [length], None, rules)[0]
    assert len(answer.ids) == length + 1
    return time.process_time() - start


def main():
    torch.set_num_threads(1)
    seconds(3, 100)
    rows = {beams: {length: seconds(beams, length) for length in LENGTHS} for beams in (1, 3, 5)}
    print("beams  " + "  ".join(f"{length:>7} tokens" for length in LENGTHS) + "  16,000 / 4,000")
    for beams, times in rows.items():
        cells = "  ".join(f"{1e6 * t / n:8.0f} us/tok" for n, t in times.items())
        print(f"{beams:>5}  {cells}  {times[16000] / times[4000]:.1f}")
    ratios = {f"ratio_{beams}_beams": round(times[16000] / times[4000], 2) for beams, times in rows.items()}
    print(json.dumps({"benchmark": "decoding_rules", **ratios}))


if __name__ == "__main__":
    main()

"""How time and memory grow with tokens, beams, batch, pictures and labels of a closed set: docs/growth.svg and a table.

A random model a quarter as wide as base for the first three, nano for the others; one thread. The exponent of a line is
the slope of log time over log size in its upper half: 1 is as the work grows, under 1 is better. Attention over an
answer's own tokens is the one part that grows with the square: its line is drawn apart, as what is left without it.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import math
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

import florence2
from florence2 import sources
from florence2.decoding.generate import Rules, generate
from florence2.drawing.growth_plot import Panel, growth_svg
from florence2.model.model_config import ModelConfig, TextConfig, VisionConfig
from tests.parity.twins import lively

RUNS = 1
TOKENS = (16, 64, 256, 1000)
BEAMS = (1, 4, 16, 64)
BATCH = (1, 4, 16, 64)
PICTURES = (4, 8, 16, 32, 64)
LABELS = (10, 100, 1000, 10_000, 50_000)


class Point(NamedTuple):
    """What one size cost: the least seconds of a few runs, and how far memory rose above what was held, in MB."""

    size: int
    seconds: float
    mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/growth.svg"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, nano = _model(), florence2.load("nano")
    rows = (
        ("tokens", "an answer", TOKENS, lambda n: _answer(model, n), RUNS),
        ("tokens", "without attention to them", TOKENS, lambda n: _steps(model, n), RUNS),
        ("beams", "16 tokens", BEAMS, lambda n: _answer(model, 16, beams=n), RUNS),
        ("batch", "16 tokens", BATCH, lambda n: _answer(model, 16, batch=n), RUNS),
        ("pictures", "predict_many", PICTURES, lambda n: _many(nano, n), 1),
        ("labels in the set", "the first answer", LABELS, lambda n: _labels(nano, n, new=True), 1),
        ("labels in the set", "later ones", LABELS, lambda n: _labels(nano, n, new=False), RUNS),
    )
    times: dict[str, dict[str, list]] = {}
    memory: dict[str, dict[str, list]] = {}
    result = {}
    for name, line, sizes, call, runs in rows:
        points = _grow(name, line, sizes, call, runs)
        result[f"{name}: {line}"] = round(exponent(points), 2)
        times.setdefault(name, {})[line] = [(p.size, p.seconds) for p in points]
        if line not in ("later ones", "without attention to them"):
            memory.setdefault(name, {})[line] = [(p.size, p.mb) for p in points]
    panels = []
    for name, lines in times.items():
        panels += [Panel(name, "seconds", lines), Panel(name, "MB above what is held", memory[name])]
    args.out.write_text(growth_svg(panels), encoding="utf-8")
    print(args.out)
    print(json.dumps({"benchmark": "growth", "exponents": result}))


def exponent(points: list[Point]) -> float:
    """The slope of log seconds over log size in the upper half."""
    upper = points[len(points) // 2 - 1 :]
    xs, ys = [math.log(p.size) for p in upper], [math.log(p.seconds) for p in upper]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys)) / sum((a - x) ** 2 for a in xs)


def _grow(name: str, line: str, sizes: tuple[int, ...], call: Callable[[int], float], runs: int = RUNS) -> list[Point]:
    call(sizes[0])
    out = []
    for size in sizes:
        held = _reset_peak()
        seconds = min(call(size) for _ in range(runs))
        out.append(Point(size, seconds, max(0.0, _peak() - held)))
        print(f"{name:<18} {line:<26} {size:>6} {1e3 * seconds:>9.1f} ms {out[-1].mb:>7.1f} MB", flush=True)
    print(f"{name:<18} {line:<26} exponent {exponent(out):.2f}", flush=True)
    return out


def _timed(call: Callable[[], object]) -> float:
    started = time.process_time()  # the one thread's own time: others may use the machine
    call()
    return time.process_time() - started


def _model():
    vision = VisionConfig(dims=(32, 64, 128, 256), depths=(1, 1, 3, 1), heads=(1, 2, 4, 8), groups=(1, 2, 4, 8))
    text = TextConfig(
        4096, d_model=192, encoder_layers=2, decoder_layers=2, encoder_heads=6, decoder_heads=6, encoder_ffn=768,
        decoder_ffn=768, max_positions=1024,
    )  # fmt: skip
    return lively(ModelConfig(vision, text, image_size_wh=(384, 384), image_id=4095), eos=-20.0)


@lru_cache(maxsize=1)
def _picture(model):
    generator = torch.Generator().manual_seed(0)
    width, height = model.config.image_size_wh
    with torch.inference_mode():
        return model.encode_image(torch.randn(1, 3, height, width, generator=generator))


def _prompts(model, batch: int):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1200, 4000, (batch, 8), generator=generator)
    return _picture(model).expand(batch, -1, -1), ids, torch.ones_like(ids)


def _answer(model, tokens: int, beams: int = 1, batch: int = 1) -> float:
    prompts = _prompts(model, batch)
    found = []
    rules = Rules(num_beams=beams, early_stopping="never")
    seconds = _timed(lambda: found.extend(generate(model, *prompts, [tokens] * batch, None, rules)))
    assert all(len(one.ids) == tokens + 1 for one in found), "an answer ended before its tokens"
    return seconds


def _steps(model, tokens: int) -> float:
    """As many steps as an answer has, each as if it were the second: no earlier tokens to attend to."""
    features, ids, mask = _prompts(model, 1)

    @torch.inference_mode()
    def run() -> None:
        cache = model.prefill(features, ids, mask)
        for number in range(tokens):
            model.logits(model.states(torch.tensor([1200 + number]), cache)).log_softmax(-1).argmax(-1).tolist()
            cache.own.lengths = [1]

    return _timed(run)


def _many(nano, count: int) -> float:
    pictures = [sample.image for sample in sources.open(f"scenes:{count}")]
    return _timed(lambda: [None for _ in nano.predict_many(pictures, "<OD>", max_new_tokens=16)])


def _labels(nano, count: int, new: bool) -> float:
    picture = next(iter(sources.open("scenes:1"))).image
    labels = [f"thing {n}" for n in range(count)]
    if new:
        labels[-1] = f"thing {time.perf_counter_ns()}"  # a set that was not seen before
    else:
        nano.predict(picture, "<OD>", labels=labels, max_new_tokens=16)
    return _timed(lambda: nano.predict(picture, "<OD>", labels=labels, max_new_tokens=16))


def _reset_peak() -> float:
    """Forget the highest memory so far; what is held now, in MB."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was given back to the C library, to the system
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(key: str) -> float:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(key)), 0.0)


if __name__ == "__main__":
    main()

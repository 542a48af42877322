"""On a CUDA GPU, base and large in bfloat16: a decoding step, one answer, eight tasks, a batch of 64, the tower.

Ours beside transformers eager in bfloat16, the same random weights, prompts and number of tokens, in one run of under
five minutes. Without a GPU it says so; `--device cpu --sizes tiny` tries the script itself on a processor.
"""

import argparse
import dataclasses
import statistics
import time

import torch

from benchmarks.pairs import Table, alternate, ratio
from benchmarks.twin_models import Twins, calm
from florence2.decoding.generate import Rules, generate
from florence2.model.model_config import SIZES
from tests.parity import twins

GOALS = {"step": 15, "answer": 6, "eight tasks": 20, "throughput": 2.5}


class GpuTwins(Twins):
    """A size of ours and of theirs on a device, in bfloat16."""

    def __init__(self, size: str, device: str) -> None:
        config = twins.tiny() if size == "tiny" else SIZES[size]
        if size != "tiny":
            text = dataclasses.replace(config.text, vocab_size=51328)
            config = dataclasses.replace(config, image_id=51289, text=text)
        plain = twins.lively(config, eos=-3.0)
        if size != "tiny":
            calm(plain)
        self.plain = plain
        self.theirs = {"bfloat16": twins.theirs_of(plain).bfloat16().to(device)}
        ours = plain.bfloat16().to(device)
        ours.in_runs = True
        self.ours = {"bfloat16": ours}
        self.device, self.config = device, config
        self.image_tokens, self.image_id = config.image_tokens, config.image_id
        generator = torch.Generator().manual_seed(1)
        width, height = config.image_size_wh
        self.pixels = torch.randn(1, 3, height, width, generator=generator).to(device)
        self.ids = torch.randint(4, min(50000, config.text.vocab_size // 2), (64, 8), generator=generator).to(device)

    def synchronised(self, call):
        def timed():
            found = call()
            if self.device != "cpu":
                torch.cuda.synchronize()
            return found

        return timed

    def throughput(self, batch: int, tokens: int):
        """Ours on `batch` pictures, each encoded, one prompt each."""
        model, ids = self.ours["bfloat16"], self.ids[:batch]
        with torch.inference_mode():
            features = model.encode_image(self.pixels.expand(batch, -1, -1, -1))
        return generate(model, features, ids, torch.ones_like(ids), [tokens] * batch, None, Rules(num_beams=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="base,large", help="of base, large, tiny (default: base,large)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tokens", type=int, default=64, metavar="N", help="of an answer (default: 64)")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="of the throughput row (default: 64)")
    parser.add_argument("--pairs", type=int, default=4, metavar="N", help="alternating runs (default: 4)")
    args = parser.parse_args()
    if unknown := set(args.sizes.split(",")) - {*SIZES, "tiny"}:
        parser.error(f"--sizes: expected some of {', '.join(SIZES)}, tiny, got {min(unknown)!r}")
    for name, least in (("tokens", 3), ("batch", 1), ("pairs", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name}: expected at least {least}, got {getattr(args, name)}")
    if args.device != "cpu" and not args.device.startswith("cuda"):
        parser.error(f"--device: expected cuda, cuda:N or cpu, got {args.device!r}")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(
            "gpu: no CUDA device; run it on a machine with one (torch with CUDA: make setup TORCH_INDEX=URL)"
        )
    args.threads, args.quick = torch.get_num_threads(), False
    if args.device != "cpu":
        torch.cuda.set_device(torch.device(args.device).index or 0)  # what is measured is what is waited for
    name = torch.cuda.get_device_name() if args.device != "cpu" else "processor"
    rate = _gemm(args.device)
    print(f"{name}, torch {torch.__version__}, bfloat16; best product {rate / 1e12:.2f} TFLOP/s; {args.tokens} tokens")
    table = Table("gpu", args)
    table.note("device", name)
    for size in args.sizes.split(","):
        started = time.perf_counter()
        _rows(GpuTwins(size, args.device), size, args, table, rate)
        table.note(f"seconds_{size}", round(time.perf_counter() - started))
    table.end()


def _rows(both: GpuTwins, size: str, args: argparse.Namespace, table: Table, rate: float) -> None:
    tokens, tier = args.tokens, "bfloat16"

    def pair(ours, theirs):
        calls = {"ours": both.synchronised(ours), "theirs": both.synchronised(theirs)}
        times = alternate(calls, args.pairs)
        return times["theirs"], times["ours"]

    def row(key, theirs, ours):
        table.row(f"{size}_{key.replace(' ', '_')}", f"{size}: {key} (goal {GOALS[key]})", theirs, ours)

    one = slice(0, 1)
    long = pair(lambda: both.answer(tier, 1, tokens), lambda: both.their_answer(tier, one, tokens))
    short = pair(lambda: both.answer(tier, 1, 2), lambda: both.their_answer(tier, one, 2))
    row("answer", *long)
    ms = [1e3 * (statistics.median(a.wall) - statistics.median(b.wall)) / (tokens - 2) for a, b in zip(long, short)]
    step = ms[0] / ms[1] if ms[1] > 0 else float("nan")
    print(f"{size}: step, batch 1 (goal {GOALS['step']}): theirs {ms[0]:.2f} ms, ours {ms[1]:.2f} ms, ratio {step:.1f}")
    table.note(f"ratio_{size}_step", round(step, 2))
    apart = [lambda n=n: both.their_answer(tier, slice(n, n + 1), tokens) for n in range(8)]
    eight = pair(lambda: both.answer(tier, 8, tokens), lambda: [call() for call in apart])
    row("eight tasks", *eight)
    batch = pair(lambda: both.answer(tier, 8, tokens), lambda: both.their_answer(tier, slice(0, 8), tokens))
    rest = ratio(*batch)
    print(f"  of it by encoding once: {ratio(*eight) / rest:.1f}; the rest, beside their batch of eight: {rest:.1f}")
    table.note(f"ratio_{size}_eight_rest", round(rest, 3))
    try:
        many = pair(
            lambda: both.throughput(args.batch, tokens),
            lambda: both.their_answer(tier, slice(0, args.batch), tokens),
        )
        row("throughput", *many)
        table.note(f"pictures_per_s_{size}", round(args.batch / statistics.median(many[1].wall), 1))
    except torch.cuda.OutOfMemoryError:
        print(f"{size}: throughput: this GPU has no memory for a batch of {args.batch}; try --batch {args.batch // 2}")
    _tower(both, size, args, table, rate)
    ours, theirs = both.answer(tier, 8, tokens), [call()[0] for call in apart]
    same = [a == b for one, two in zip(ours, theirs) for a, b in zip(one, two)]
    table.note(f"equal_tokens_{size}", round(sum(same) / len(same), 3))
    both.ours[tier].in_runs = False
    stepwise = both.answer(tier, 8, tokens)
    both.ours[tier].in_runs = True
    same = [a == b for one, two in zip(ours, stepwise) for a, b in zip(one, two)]
    print(f"{size}: tokens in recorded runs that are those of a step at a time: {sum(same)} of {len(same)}")
    table.note(f"equal_runs_{size}", round(sum(same) / len(same), 3))
    if args.device != "cpu":
        table.note(f"gpu_peak_mb_{size}", round(torch.cuda.max_memory_allocated() / 2**20))


def _tower(both: GpuTwins, size: str, args: argparse.Namespace, table: Table, rate: float) -> None:
    """The tower's rate as a share of the best product's."""
    from torch.utils.flop_counter import FlopCounterMode

    model, pictures = both.ours["bfloat16"], both.pixels.expand(min(8, args.batch), -1, -1, -1)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counted:
            model.encode_image(pictures)
        (times,) = alternate({"tower": both.synchronised(lambda: model.encode_image(pictures))}, args.pairs).values()
    reached = counted.get_total_flops() / min(times.wall)
    print(
        f"{size}: tower, {len(pictures)} pictures: {reached / 1e12:.2f} TFLOP/s, {100 * reached / rate:.0f} % (goal 50)"
    )
    table.note(f"tower_share_{size}", round(reached / rate, 3))


def _gemm(device: str) -> float:
    """FLOP/s of a large bfloat16 product."""
    side = 512 if device == "cpu" else 8192
    x = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(12):
        started = time.perf_counter()
        for _ in range(4):
            x @ x
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / 4)
    return 2 * side**3 / best


if __name__ == "__main__":
    main()

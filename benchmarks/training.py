"""The training loop beside a plain transformers loop: same model, same pairs, same batch and precision, in turn.

    python -m benchmarks.training [--quick] [--rows nano,base,frozen] [--steps N] [--precision fp32]

Each loop is a process of its own that does a step when it is asked to, so that their peak memory is their own and the
two share what else the machine does. The plain loop is what the public recipes do: a DataLoader whose collate
function opens, resizes and normalises the pictures, `model(..., labels=...)`, AdamW. Ours is `Trainer.step` on the
batches of a run's own stream, data prepared as --workers says. Rows: the size of nano; base whole; base with a frozen
tower, ours with its features kept, from the second epoch on (theirs runs the frozen tower without gradients). Weights
are random but nano's, dropout is off. `in cpu` is the ratio of the loops' own processor seconds, which a busy machine
changes less; `wait` our share of time spent waiting for data; `data` the pairs a second that data alone are made at.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PICTURES = 8
SPREAD = 0.2


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison: a model's size, pairs of a batch, what is frozen."""

    size: str
    batch: int
    strategy: str = "full"
    cached: bool = False


ROWS = {
    "nano": Row("nano", 16),
    "base": Row("base", 2),
    "frozen": Row("base", 4, "frozen_vision", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="pictures of 256 px for base, two steps: some minutes")
    parser.add_argument("--rows", default="nano,base,frozen")
    parser.add_argument("--steps", type=int, default=0, help="steps of each loop (default: 30 of nano, 5 of base)")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--fast", default="auto", help="fast_fp32 of our loop (default: auto)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1, help="processes that make data, of either loop")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args)
        return
    result: dict[str, Any] = {"benchmark": "training", "quick": args.quick, "threads": args.threads}
    result |= {"precision": args.precision, "fast_fp32": args.fast, "workers": args.workers}
    print(
        f"{'':<10}{'theirs':>12}{'ours':>12}{'ratio':>8}{'in cpu':>8}{'theirs':>10}{'ours':>9}{'wait':>8}{'data':>12}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.rows.split(","):
            row = compared(name, args, Path(temporary) / name)
            unsteady = "" if row["steady"] else "  not measurable here"
            speeds = f"{row['theirs']:>8.2f} p/s{row['ours']:>8.2f} p/s{row['ratio']:>8.2f}{row['cpu_ratio']:>8.2f}"
            memory = f"{row['theirs_gb']:>7.2f} GB{row['ours_gb']:>6.2f} GB"
            print(f"{name:<10}{speeds}{memory}{row['wait']:>7.1%}{row['data']:>8.0f} p/s{unsteady}", flush=True)
            result[name] = row
            result[f"ratio_{name}"] = row["ratio"]
    print(json.dumps(result))


def compared(name: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One row: both loops warmed up, then a step of each in turn."""
    row = ROWS[name]
    made(row, folder, args.quick)
    steps = args.steps or (2 if args.quick else 30 if row.size == "nano" else 5)
    loops = {kind: Loop(kind, name, args, folder) for kind in ("theirs", "ours")}
    warm = 1 + 2 * PICTURES // row.batch * row.cached  # ours has seen every picture then
    for _ in range(warm):
        loops["ours"].step()
    loops["theirs"].step()
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    cpu: dict[str, list[float]] = {"theirs": [], "ours": []}
    waits = []
    for number in range(steps):
        for kind in list(loops)[:: -1 if number % 2 else 1]:
            found = loops[kind].step()
            times[kind].append(found["seconds"])
            cpu[kind].append(found["cpu"])
            if kind == "ours":
                waits.append(found["wait"])
    ends = {kind: loop.end() for kind, loop in loops.items()}
    ratios = [a / b for a, b in zip(times["theirs"], times["ours"])]
    median = {kind: statistics.median(found) for kind, found in times.items()}
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 3 else (0.0, 0.0, 1.0)
    return {
        "theirs": round(row.batch / median["theirs"], 3),
        "ours": round(row.batch / median["ours"], 3),
        "ratio": round(statistics.median(ratios), 3),
        "cpu_ratio": round(statistics.median(a / b for a, b in zip(cpu["theirs"], cpu["ours"])), 3),
        "ratios": [round(ratio, 2) for ratio in (low, high)],
        "theirs_gb": ends["theirs"]["gb"],
        "ours_gb": ends["ours"]["gb"],
        "wait": round(sum(waits) / sum(times["ours"]), 4),
        "data": ends["ours"]["data"],
        "loss_theirs": ends["theirs"]["loss"],
        "loss_ours": ends["ours"]["loss"],
        "steps": steps,
        "steady": high <= (1 + SPREAD) * low,
    }


class Loop:
    """One of the two loops in a process of its own, a line asked and a line answered for each step."""

    def __init__(self, kind: str, name: str, args: argparse.Namespace, folder: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.training",
            "--worker",
            kind,
            "--rows",
            name,
            "--folder",
            str(folder),
        ]
        command += ["--precision", args.precision, "--threads", str(args.threads), "--workers", str(args.workers)]
        command += ["--fast", args.fast, *(["--quick"] if args.quick else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def step(self) -> dict[str, Any]:
        return self._ask("step")

    def end(self) -> dict[str, Any]:
        found = self._ask("end")
        self.process.wait()
        return found

    def _ask(self, what: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(what, file=self.process.stdin, flush=True)
        while line := self.process.stdout.readline():
            if line.startswith("{"):
                return dict(json.loads(line))
        raise SystemExit(f"a loop ended with code {self.process.wait()}")


def serve(args: argparse.Namespace) -> None:
    """Be one loop: a step for each line on stdin, its seconds on stdout."""
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    loop = {"ours": Ours, "theirs": Theirs}[args.worker](ROWS[args.rows], args)
    loss = 0.0
    for line in sys.stdin:
        if line.strip() == "end":
            break
        started, cpu = time.perf_counter(), time.process_time()
        wait, loss = loop.step()
        seconds = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        print(json.dumps({**seconds, "wait": wait}), flush=True)
    gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"gb": round(gb, 3), "loss": round(loss, 4), "data": loop.data_rate()}), flush=True)


class Ours:
    """`Trainer.step` on a run's own stream."""

    def __init__(self, row: Row, args: argparse.Namespace) -> None:
        from florence2.training import products
        from florence2.training.config_files import from_mapping
        from florence2.training.order import Cursor
        from florence2.training.setup import prepare
        from florence2.training.trainer import Trainer

        config = from_mapping({
            "model": str(args.folder / "model"), "out": str(args.folder / "out"), "steps": 10_000, "lr": 1e-5,
            "clip": 0,
            "data": [{"path": str(args.folder / "set" / "truth.jsonl"), "tasks": ["OD", "CAPTION"]}],
            "batch_size": row.batch, "strategy": row.strategy, "precision": args.precision, "schedule": "constant",
            "cache_features": "memory" if row.cached else "off", "workers": args.workers, "dropout": 0.0, "seed": 1,
            "fast_fp32": args.fast,
        })  # fmt: skip
        self.job = prepare(config)
        self.trainer = Trainer(self.job)
        self.switch = products.float32_products(config.fast_fp32, self.trainer.device, config.precision)
        self.switch.__enter__()
        self.stream = self.job.stream(0, Cursor())
        self.number = 0

    def step(self) -> tuple[float, float]:
        started = time.perf_counter()
        batches = next(self.stream)
        waited = time.perf_counter() - started
        self.number += 1
        return waited, self.trainer.step(self.number, batches)["loss"]

    def data_rate(self) -> float:
        """Pairs a second, made by this process alone and nothing else done; pictures not in memory."""
        from florence2.training.order import Cursor

        self.job.maker.features = None
        started, pairs = time.perf_counter(), 0
        for planned in self.job.order.batches(4, Cursor(1000)):
            for source in self.job.maker.sources:
                source.__dict__.update(source.__getstate__() | {"_samples": source._samples})  # nothing decoded is kept
            pairs += self.job.maker[planned].pairs
            if time.perf_counter() - started > 2:
                break
        return round(pairs / (time.perf_counter() - started), 1)


class Theirs:
    """The plain loop around transformers' own class."""

    def __init__(self, row: Row, args: argparse.Namespace) -> None:
        import torch
        from torch.utils.data import DataLoader
        from transformers import Florence2ForConditionalGeneration

        self.torch = torch
        model = Florence2ForConditionalGeneration.from_pretrained(args.folder / "native", dtype=torch.float32)
        for module in model.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
            for name in ("dropout", "activation_dropout", "attention_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, 0.0)
        if row.strategy == "frozen_vision":
            for parameter in model.model.vision_tower.parameters():
                parameter.requires_grad_(False)
        self.model = model.train()
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.98))
        self.autocast = args.precision == "bf16"
        self.rows = PlainRows(args.folder, model.config.image_token_id, model.model)
        generator = torch.Generator().manual_seed(0)
        loader = DataLoader(
            self.rows,
            batch_size=row.batch,
            shuffle=True,
            generator=generator,
            num_workers=args.workers,
            collate_fn=self.rows.collate,
            drop_last=True,
        )
        self.stream = (batch for _ in range(10_000) for batch in loader)

    def step(self) -> tuple[float, float]:
        started = time.perf_counter()
        batch = next(self.stream)
        waited = time.perf_counter() - started
        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.autocast):
            loss = self.model(**batch).loss
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return waited, float(loss.detach())

    def data_rate(self) -> float:
        return 0.0


class PlainRows:
    """The same pairs, as the public recipes prepare them."""

    def __init__(self, folder: Path, image_token: int, model: Any) -> None:
        self.folder, self.image_token = folder, image_token
        facts = json.loads((folder / "pairs.json").read_text())
        self.pairs, self.side, self.image_tokens = facts["pairs"], facts["side"], facts["image_tokens"]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.pairs[index])

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import numpy as np
        import torch
        from PIL import Image

        pictures = []
        for row in rows:
            picture = Image.open(self.folder / "set" / row["image"]).convert("RGB")
            picture = picture.resize((self.side, self.side), Image.Resampling.BICUBIC)
            array = np.asarray(picture, np.float32) / 255
            pictures.append(((array - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1))
        prompts, targets = [row["prompt"] for row in rows], [row["target"] for row in rows]
        width, length = max(map(len, prompts)), max(map(len, targets))
        ids = [[self.image_token] * self.image_tokens + prompt + [1] * (width - len(prompt)) for prompt in prompts]
        mask = [[1] * (self.image_tokens + len(prompt)) + [0] * (width - len(prompt)) for prompt in prompts]
        labels = [target + [-100] * (length - len(target)) for target in targets]
        return {
            "pixel_values": torch.from_numpy(np.stack(pictures).astype(np.float32)),
            "input_ids": torch.tensor(ids),
            "attention_mask": torch.tensor(mask),
            "labels": torch.tensor(labels),
        }


def made(row: Row, folder: Path, quick: bool) -> None:
    """Pictures, their truth, the pairs as ids, and the model in both layouts."""
    import torch

    from florence2 import scenes
    from florence2.codec.tasks import TASKS
    from florence2.model.florence import Florence
    from florence2.model.model_config import SIZES
    from florence2.predictor import checkpoints
    from florence2.predictor.convert import convert
    from florence2.scenes.scene_files import write
    from florence2.sources import open as open_samples
    from florence2.training.examples import TaskMixture, example

    write(folder / "set", (scenes.draw(seed, size=(640, 480), objects=(2, 4)) for seed in range(PICTURES)))
    parts = checkpoints.open_parts(checkpoints.find("nano"), "float32")
    model = parts.model
    if row.size != "nano":
        config = SIZES[row.size]
        if quick:
            config = dataclasses.replace(config, image_size_wh=(256, 256))
        torch.manual_seed(0)
        model = Florence(config).eval()
    checkpoints.save(model, parts.tokenizer, parts.tasks, folder / "model")
    convert(folder / "model", folder / "native", "transformers")
    mixture = TaskMixture({"<OD>": 1.0, "<CAPTION>": 1.0}, TASKS)
    pairs = []
    for sample in open_samples(folder / "set" / "truth.jsonl"):
        image = str(Path(sample.image.uri).relative_to((folder / "set").absolute()))
        for truth in mixture.truths(sample):
            one = example(sample, truth, parts.tokenizer)
            pairs.append({"image": image, "prompt": list(one.prompt_ids), "target": list(one.target_ids)})
    width, height = model.config.map_size_wh
    facts = {"pairs": pairs, "side": model.config.image_size_wh[0], "image_tokens": 1 + width * height}
    (folder / "pairs.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()

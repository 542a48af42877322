"""Training data of any size: memory, time to the first step, step times, as the set grows. One JSON line a set.

    python benchmarks/training_data.py [--sizes 1000,10000,100000] [--kinds jsonl,store,coco] [--folder KEPT]

Pictures are few (64, drawn) and referred to again and again: what grows is the records. Each set is trained in a
process of its own with a model of a few thousand weights, so that the data's share is what is seen; 192 steps of 16
pairs read three blocks of records. Beside it the same samples are trained from a list in memory (`from_list`, up to
--listed samples). `cpu_ms` is processor time a step, which a busy machine changes less than wall time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PICTURES = 64
KINDS = ("jsonl", "store", "coco")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--steps", type=int, default=192)
    parser.add_argument("--listed", type=int, default=100_000, help="the largest set that is held in a list as well")
    parser.add_argument("--folder", type=Path, help="where the sets are made and kept (default: a temporary folder)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one, args.steps, args.in_memory)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for kind in args.kinds.split(","):
            for size in map(int, args.sizes.split(",")):
                started = time.monotonic()
                data = made(folder, size, kind)
                line = {"samples": size, "kind": kind, "made_s": round(time.monotonic() - started, 1)}
                line |= _apart(data, args.steps)
                if size <= args.listed:
                    listed = _apart(data, args.steps, "--in-memory")
                    line["from_list"] = {key: listed[key] for key in ("step_ms", "cpu_ms", "data_ms", "memory_mb")}
                print(json.dumps(line), flush=True)


def _apart(data: Path, steps: int, *more: str) -> dict:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, "--one", str(data), "--steps", str(steps), *more]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def made(folder: Path, size: int, kind: str) -> Path:
    """A set of that many records over a few pictures, made once."""
    from florence2 import scenes
    from florence2.scenes.scene_files import write

    folder.mkdir(parents=True, exist_ok=True)
    small = folder / "pictures"
    if not small.is_dir():
        write(small, (scenes.draw(seed, signs=0, size=64, objects=(2, 4)) for seed in range(PICTURES)))
    target = folder / f"{kind}-{size}"
    if target.exists():
        return target
    rows = [json.loads(line) for line in (small / "truth.jsonl").read_text().splitlines()]
    if kind == "coco":
        return _coco(target, rows, size)
    lines = folder / f"jsonl-{size}"
    if not lines.exists():
        lines.mkdir()
        with open(lines / "samples.jsonl", "w", encoding="utf-8") as out:
            for number in range(size):
                row = rows[number % len(rows)]
                uri = f"../pictures/{row['image']['uri']}"
                image = {**row["image"], "id": f"{number}", "uri": uri}
                out.write(json.dumps({**row, "id": f"s{number}", "image": image}) + "\n")
    if kind == "jsonl":
        return lines
    from florence2.cli import main as command

    if command(["import", str(lines), "--out", str(target)]):
        raise SystemExit("import failed")
    from florence2.store import Store

    Store(target).compact()
    return target


def _coco(target: Path, rows: list, size: int) -> Path:
    """The same as a COCO file, each record a picture of its own name (hard links)."""
    import os

    target.mkdir()
    images, annotations = [], []
    for number in range(size):
        row = rows[number % len(rows)]
        name = f"{number}.png"
        os.link(target.parent / "pictures" / row["image"]["uri"], target / name)
        images.append({"id": number, "file_name": name, "width": 64, "height": 64})
        for region in row["regions"]:
            x1, y1, x2, y2 = region["box"]
            box = {"image_id": number, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": 1.0, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, **box})
    data = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (target / "annotations.json").write_text(json.dumps(data))
    return target


def measured(data: Path, steps: int, in_memory: bool = False) -> dict[str, float]:
    """One short run: seconds to the first step's end; of a later step the wall, processor and waiting time; memory."""
    import resource

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from florence2 import sources
    from florence2.training import train
    from tests.training.tiny import tiny_model

    with tempfile.TemporaryDirectory() as temporary:
        config = {
            "model": tiny_model(Path(temporary) / "model"), "out": f"{temporary}/out", "steps": steps, "batch_size": 16,
            "lr": 1e-4, "threads": 1, "save_every": steps, "schedule": "constant",
        }  # fmt: skip
        config["data"] = [{"samples": list(sources.open(data))} if in_memory else {"path": str(data)}]
        config["data"][0]["tasks"] = ["OD"]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        marks: list[tuple[float, float]] = []
        lines: list[dict] = []

        def progress(line: dict) -> None:
            marks.append((time.monotonic() - started, time.process_time()))
            lines.append(line)

        train(config, progress)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    later = len(lines) - 1
    return {
        "first_step_s": round(marks[0][0], 2),
        "step_ms": round(1000 * sum(line["seconds"] for line in lines[1:]) / later, 2),
        "cpu_ms": round(1000 * (marks[-1][1] - marks[0][1]) / later, 2),
        "data_ms": round(1000 * sum(line["data_seconds"] for line in lines[1:]) / later, 2),
        "memory_mb": round(after / 1024),
        "grown_mb": round((after - before) / 1024),
    }


if __name__ == "__main__":
    main()

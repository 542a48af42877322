"""Training data of any size: memory, time to the first step, step times, as the set grows. One JSON line a size.

    python benchmarks/training_data.py [--sizes 1000,100000,1000000] [--kind jsonl|store|coco] [--steps 30]

Pictures are few (64, drawn) and referred to again and again: what grows is the records. Each size is trained in a
process of its own with a model of a few thousand weights, so that the data's share is what is seen.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,100000,1000000")
    parser.add_argument("--kind", choices=("jsonl", "store", "coco"), default="jsonl")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where the sets are made and kept (default: a temporary folder)")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measured(args.one, args.kind, args.steps)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        for size in map(int, args.sizes.split(",")):
            data = made(folder, size, args.kind)
            command = [sys.executable, __file__, "--one", str(data), "--kind", args.kind, "--steps", str(args.steps)]
            found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            print(json.dumps({"samples": size, "kind": args.kind, **json.loads(found)}), flush=True)


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


def measured(data: Path, kind: str, steps: int) -> dict[str, float]:
    """One short run: seconds to the first step's end, of a step, and the process's memory."""
    import resource

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from florence2.training import train
    from tests.training.tiny import tiny_model

    with tempfile.TemporaryDirectory() as temporary:
        model = tiny_model(Path(temporary) / "model")
        config = {
            "model": model, "out": f"{temporary}/out", "data": [{"path": str(data), "tasks": ["OD"]}], "steps": steps,
            "batch_size": 16, "lr": 1e-4, "threads": 1, "save_every": steps, "schedule": "constant",
        }  # fmt: skip
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        marks: list[float] = []
        lines: list[dict] = []

        def progress(line: dict) -> None:
            marks.append(time.monotonic() - started)
            lines.append(line)

        train(config, progress)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    later = lines[1:]
    return {
        "first_step_s": round(marks[0], 2),
        "step_ms": round(1000 * sum(line["seconds"] for line in later) / len(later), 2),
        "data_ms": round(1000 * sum(line["data_seconds"] for line in later) / len(later), 2),
        "memory_mb": round(after / 1024),
        "grown_mb": round((after - before) / 1024),
    }


if __name__ == "__main__":
    main()

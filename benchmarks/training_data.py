"""Training data of any size: memory, time to the first step, step times, as the set grows. One JSON line a set.

    python benchmarks/training_data.py [--sizes 1000,10000,100000] [--kinds jsonl,store,units,coco] [--folder KEPT]

Pictures are few (64, drawn) and referred to again and again: what grows is the records. Each set is trained in a
process of its own with a model of a few thousand weights, so that the data's share is what is seen; 96 steps of 16
pairs read two blocks of records. `units` is a store as an import leaves it, `store` the same compacted. Each is started
twice: large COCO files are kept as records by the first start. Beside it the same samples are trained from a list in
memory (`from_list`, up to --listed samples). `cpu_ms` is processor time a step, which a busy machine changes less than
wall time; `first_step_cpu_s` is this process' processor time, its imports included, until the first step has ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from florence2.records import Sample

PICTURES = 64
UNIT = 512  # pictures, as of a large set


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--kinds", default=",".join(_MAKERS))
    parser.add_argument("--steps", type=int, default=96)
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
                first = _apart(data, args.steps)
                line |= _apart(data, args.steps)
                line["first_start"] = {key: first[key] for key in ("first_step_s", "first_step_cpu_s", "memory_mb")}
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
    if not target.exists():
        _MAKERS[kind](target, small / "truth.jsonl", size)
    return target


def _rows(truth: Path) -> list[dict]:
    """The drawn pictures' records, regions alone."""
    rows = [json.loads(line) for line in truth.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("texts", "groundings")} for row in rows]


def _jsonl(target: Path, truth: Path, size: int) -> None:
    rows = _rows(truth)
    target.mkdir()
    with open(target / "samples.jsonl", "w", encoding="utf-8") as out:
        for number in range(size):
            row = rows[number % len(rows)]
            image = {**row["image"], "id": f"{number}", "uri": f"../pictures/{row['image']['uri']}"}
            out.write(json.dumps({**row, "id": f"s{number}", "image": image}) + "\n")


def _store(target: Path, truth: Path, size: int) -> None:
    """The same in a store, compacted."""
    from florence2.store import Store

    _units(target, truth, size)
    Store(target).compact()


def _units(target: Path, truth: Path, size: int) -> None:
    """The same in a store, as an import of as many different pictures would leave it."""
    import dataclasses
    import hashlib

    from florence2 import sources
    from florence2.store import ImageRow, Operator, Store, pending

    store, fragments = Store(target, create=True), []
    intake, labels = (
        Operator(kind, kind, "1", digit * 32, 0, kind, made)
        for kind, digit, made in (("images", "1", ()), ("import", "2", ("region_text/object",)))
    )
    drawn = [dataclasses.replace(sample, texts=(), groundings=()) for sample in sources.open(truth)]

    def sample_of(number: int) -> Sample:
        """A sample of its own name, its items too."""
        sample = drawn[number % len(drawn)]
        image = dataclasses.replace(sample.image, id=str(number))
        regions = tuple(dataclasses.replace(r, id=f"{number}-{r.id}") for r in sample.regions)
        return dataclasses.replace(sample, id=str(number), image=image, regions=regions)

    for first in range(0, size, UNIT):
        unit = [sample_of(number) for number in range(first, min(first + UNIT, size))]
        uid = hashlib.sha256(str(first).encode()).hexdigest()[:32]
        rows = [ImageRow.of(sample, unit=uid) for sample in unit]
        parts = [pending.images_of(intake, uid, rows), pending.annotations_of(labels, uid, uid, unit)]
        fragments += store.put_all(parts)
    store.save(store.snapshot(), fragments, [intake, labels], {"phase": "import", "round": 0})


def _coco(target: Path, truth: Path, size: int) -> None:
    """The same as a COCO file, each record a picture of its own name (hard links)."""
    import os

    rows = _rows(truth)
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


_MAKERS = {"jsonl": _jsonl, "store": _store, "units": _units, "coco": _coco}


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
        "first_step_cpu_s": round(marks[0][1], 2),
        "step_ms": round(1000 * sum(line["seconds"] for line in lines[1:]) / later, 2),
        "cpu_ms": round(1000 * (marks[-1][1] - marks[0][1]) / later, 2),
        "data_ms": round(1000 * sum(line["data_seconds"] for line in lines[1:]) / later, 2),
        "memory_mb": round(after / 1024),
        "grown_mb": round((after - before) / 1024),
    }


if __name__ == "__main__":
    main()

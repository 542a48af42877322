"""Filters and merging with one worker and with two: the time, and that the stores are equal to the byte.

python benchmarks/curation.py [PICTURES] [--unit N]        1,000 pictures of two sources unless named

The store is synthetic: boxes and captions of two sources that half agree, in units of 64; no picture is read. Judging
is by the shipped rules, parser included; merging by its defaults. A worker's start is part of its time.
"""

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import tempfile
import time
from pathlib import Path

import florence2
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.operator import annotation_ids, digest, run_id, unit_id
from florence2.engine.session import Session
from florence2.records import ImageRef, Region, Sample, Source, Text
from florence2.store import ImageRow, Store, pending
from florence2.store.snapshots import Operator

THINGS = ("dog", "cat", "car", "tree", "man", "woman", "boat", "table", "cup", "bird")
PLACES = ("in a field", "on a table", "near a river", "under a tree", "beside a house", "in front of a car")
DOINGS = ("running", "sitting", "standing", "looking at a bird", "holding a cup", "crossing the street")


def fill(store: Store, pictures: int, unit: int) -> None:
    """Commit what an intake and two specialists would have."""
    session = Session(store)
    rng = random.Random(0)
    made = {name: digest(["benchmark", name]) for name in ("images", "left", "right")}
    operators = {
        name: Operator(run_id(m, 0), name, "1", m, 0, "images" if name == "images" else "specialist")
        for name, m in made.items()
    }
    for operator in operators.values():
        session.start(operator, {}, {})
    for start in range(0, pictures, unit):
        ids = [digest(["picture", i], size=12) for i in range(start, min(start + unit, pictures))]
        bare = [Sample(i, ImageRef(i, f"/pictures/{i}.jpg", width=640, height=480, sha256=digest(i, 32))) for i in ids]
        uid = unit_id(ids, operators["images"].fingerprint, 0)
        rows = [ImageRow.of(sample, unit=uid) for sample in bare]
        session.add(store.put_all([pending.images_of(operators["images"], uid, rows)]))
        boxes = [[[rng.uniform(0, 400), rng.uniform(0, 300)] for _ in range(8)] for _ in ids]
        for name in ("left", "right"):
            operator = operators[name]
            said = [annotated(rng, sample, places, operator) for sample, places in zip(bare, boxes)]
            work = unit_id(ids, operator.fingerprint, 0)
            session.add(store.put_all([pending.annotations_of(operator, work, uid, said)]))
    session.finish({"phase": "annotate", "round": 0})


def annotated(rng: random.Random, sample: Sample, places: list[list[float]], operator: Operator) -> Sample:
    """Boxes near common places, and captions of the three lengths."""
    source = Source("specialist", operator.name, "1", 0, operator.run_id)
    names = iter(annotation_ids(sample.image.id, operator.fingerprint, 0, len(places) + 3))
    regions = []
    for x, y in places:
        dx, dy = rng.gauss(0, 12), rng.gauss(0, 12)
        box = (max(0.0, x + dx), max(0.0, y + dy), x + 120 + dx, y + 90 + dy)
        score = round(rng.uniform(0.2, 1), 3)
        regions.append(Region(next(names), box=box, label=rng.choice(THINGS[:5]), score=score, source=source))
    texts = []
    for detail, sentences in (("brief", 1), ("detailed", 2), ("more_detailed", 4)):
        words = " ".join(
            f"A {rng.choice(THINGS)} is {rng.choice(DOINGS)} {rng.choice(PLACES)}." for _ in range(sentences)
        )
        texts.append(Text(next(names), words, detail=detail, score=0.5, source=source))
    return Sample(sample.id, sample.image, regions=tuple(regions), texts=tuple(texts))


def content(root: Path) -> dict[str, str]:
    """path -> hash of every fragment and snapshot."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("images", "annotations", "decisions", "failures", "snapshots")
        for path in (root / folder).rglob("*.*")
    }


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    """Run, compare, print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=int, nargs="?", default=1000)
    parser.add_argument("--unit", type=int, default=64)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base"
        fill(Store(base, create=True), args.pictures, args.unit)
        result: dict = {"pictures": args.pictures, "unit": args.unit, "cpus": os.cpu_count()}
        result["load"] = round(os.getloadavg()[0], 1)
        contents = {}
        for workers in (0, 1, 2):
            root = Path(folder) / f"workers-{workers}"
            shutil.copytree(base, root)
            begun, used = time.perf_counter(), processor_seconds()
            florence2.filter(root, merging=MergeConfig(), workers=workers)
            result[f"workers_{workers}_s"] = round(time.perf_counter() - begun, 2)
            result[f"workers_{workers}_cpu_s"] = round(processor_seconds() - used, 2)
            contents[workers] = content(root)
        result["equal_to_the_byte"] = contents[0] == contents[1] == contents[2]
        result["speedup_of_two"] = round(result["workers_1_s"] / result["workers_2_s"], 2)
        result["counts"] = Store(root).counts()["annotations"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()

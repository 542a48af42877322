"""The store at size: rows a second in and out, bytes an annotation, time to open, random access; no pictures.

python benchmarks/store.py [SAMPLES] [ANNOTATIONS_A_SAMPLE]        20,000 samples of five annotations unless named

A tenth of the size is measured beside it. Of a scan the first 200,000 samples are timed. `random` is a picture with all
its annotations and verdicts at a random position, as shuffled training asks for it; its memory is that of a process
which does nothing else. Everything is read with a warm disk cache.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from florence2.engine.curation.judging import judge
from florence2.engine.execution.context import WorkerContext
from florence2.engine.execution.inline import InlineRunner
from florence2.engine.operator import annotation_ids, digest, run_id, unit_id
from florence2.engine.session import Session
from florence2.records import Decision, ImageRef, Region, Sample, Source
from florence2.store import ImageRow, Store, layout, schema
from florence2.store.image_rows import columns_of
from florence2.store.snapshots import Operator

UNIT = 512  # pictures, as in a folder of a million


class Floor:
    """A rule as cheap as rules get."""

    from florence2.engine.operator import Spec

    spec, config, weights_sha256 = Spec("floor", "1"), {"floor": 0.3}, ""

    def judge(self, sample):
        return [Decision(r.id, "rejected", "", "low_score", r.score, 0.3) for r in sample.regions if r.score < 0.3]


def fill(store: Store, pictures: int, each: int) -> None:
    """Commit units of synthetic rows as an intake and a specialist would."""
    session = Session(store)
    made = [digest(["benchmark", name]) for name in ("images", "boxes")]
    ingestion, boxes = (
        Operator(run_id(m, 0), name, "1", m, 0, kind)
        for m, name, kind in zip(made, ("images", "boxes"), ("images", "specialist"))
    )
    for operator in (ingestion, boxes):
        session.start(operator, {}, {})
    source = Source("specialist", "boxes", "1", 0, boxes.run_id)
    rng = np.random.default_rng(0)
    for start in range(0, pictures, UNIT):
        ids = [digest(["picture", i], size=12) for i in range(start, min(start + UNIT, pictures))]
        uid = unit_id(ids, ingestion.fingerprint, 0)
        corners = rng.uniform(0, 600, (len(ids), each, 4)).round(2)
        scores = rng.uniform(0, 1, (len(ids), each)).round(4)
        images, rows = [], []
        for i, name in enumerate(ids):
            names = annotation_ids(name, boxes.fingerprint, 0, each)
            regions = tuple(
                Region(names[n], box=(x, y, x + w / 4, y + h / 4), label=f"kind {n % 7}", score=s, source=source)
                for n, ((x, y, w, h), s) in enumerate(zip(corners[i].tolist(), scores[i].tolist()))
            )
            sample = Sample(
                name,
                ImageRef(name, f"/pictures/{start + i:09}.jpg", width=640, height=640, sha256=digest(name, 32)),
                regions=regions,
            )
            images.append(columns_of(ImageRow.of(sample, unit=uid)))
            rows += schema.annotation_rows(sample)
        done = unit_id(ids, boxes.fingerprint, 0)
        paths = f"images/unit-{uid}.parquet", layout.fragment("annotations", 0, "boxes", "1", done)
        for path, what, operator in zip(paths, (images, rows), (ingestion, boxes)):
            session.add([store.put(path, what, [uid], operator.run_id, {"round": 0})])
    session.finish({"phase": "annotate"})


def timed(call):
    """Seconds that a call takes, and what it gives."""
    start = time.perf_counter()
    out = call()
    return time.perf_counter() - start, out


def scan(store: Store, limit: int = 200_000) -> float:
    """Annotations read a second, as records."""
    seconds, seen = timed(lambda: sum(len(s.regions) for s in store.samples(limit=limit)))
    return seen / seconds


def queries(root: Path) -> dict:
    """Filters on one field, pushed down to the files by DuckDB and by Arrow."""
    import duckdb
    import pyarrow.dataset as ds

    files = f"read_parquet('{root}/annotations/**/*.parquet')"
    one = duckdb.sql(f"select ann_id, image_id from {files} limit 1").fetchall()[0]
    asks = {
        "duckdb_score_s": f"select text, count(*) from {files} where score > 0.9 group by 1",
        "duckdb_id_s": f"select count(*) from {files} where image_id = '{one[1]}'",
    }
    out = {name: timed(lambda ask=ask: duckdb.sql(ask).fetchall())[0] for name, ask in asks.items()}
    field = ds.field("score")
    out["arrow_score_s"] = timed(
        lambda: ds.dataset(root / "annotations", format="parquet").to_table(["ann_id"], filter=field > 0.9)
    )[0]
    return out


def shuffled(root: Path, count: int = 2000) -> dict:
    """Random access in a process of its own: time to open, a sample's time, peak memory."""
    code = (
        "import json, random, sys, time; from florence2.store import Store; t = time.perf_counter(); "
        "samples = Store(sys.argv[1]).random(); o = time.perf_counter() - t; count = int(sys.argv[2]); "
        "r = random.Random(0); t = time.perf_counter(); "
        "n = sum(len(samples[r.randrange(len(samples))].regions) for _ in range(count)); t = time.perf_counter() - t; "
        "peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(json.dumps([o, 1000 * t / count, peak // 1024]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(root), str(count)], capture_output=True, text=True, check=True
    )
    return dict(zip(("random_open_s", "random_sample_ms", "random_peak_mib"), json.loads(done.stdout)))


def measure(samples: int, each: int, root: Path) -> dict:
    """All figures for one size."""
    store = Store(root, create=True)
    annotations = samples * each
    result: dict = {"samples": samples, "annotations": annotations, "load": os.getloadavg()[0]}
    append_s, _ = timed(lambda: fill(store, samples, each))
    result["append_rows_s"] = (annotations + samples) / append_s
    result["bytes_an_annotation"] = sum(f.stat().st_size for f in root.glob("annotations/**/*.parquet")) / annotations
    result["bytes_a_sample"] = sum(f.stat().st_size for f in root.glob("images/*.parquet")) / samples
    result["open_first_sample_s"], first = timed(lambda: next(iter(Store(root).samples())))
    result["scan_rows_s"] = scan(store)
    result["counts_s"], counts = timed(store.counts)
    result.update(queries(root))
    result.update({f"unit_{name}": value for name, value in shuffled(root, 200).items()})
    session = Session(store)
    judge_s, _ = timed(
        lambda: (
            judge(session, InlineRunner(WorkerContext(store.root)), [Floor()]),
            session.finish({"phase": "filter"}),
        )
    )
    result["filter_rows_s"] = annotations / judge_s
    result["verify_s"], damaged = timed(store.verify)
    result["compact_s"], _ = timed(store.compact)
    result["scan_compacted_rows_s"] = scan(store)
    result.update(shuffled(root))
    result["snapshot_mib"] = (root / "snapshots" / "000002.json").stat().st_size / 2**20
    result["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    assert counts["annotations"]["kept"] == annotations and first.regions and not damaged
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}


def main() -> None:
    samples = int(float(sys.argv[1])) if len(sys.argv) > 1 else 20_000
    each = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    results = []
    for size in (max(UNIT, samples // 10), samples):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(size, each, Path(folder) / "store"))
    for name in results[0]:
        print(f"{name:24}" + "".join(f"{result[name]:>14,}" for result in results))
    print(json.dumps({"benchmark": "store", "results": results}))


if __name__ == "__main__":
    main()

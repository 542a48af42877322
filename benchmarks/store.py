"""The store at size: rows a second in and out, bytes an annotation, time to open, random access; no pictures.

python benchmarks/store.py [ANNOTATIONS]        a million unless named, ten to a picture
"""

import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from florence2.engine.ledger import Ledger, fragment_path
from florence2.engine.operator import digest, run_id, unit_id
from florence2.engine.verdicts import judge
from florence2.records import Decision, ImageRef, Region, Sample, Source
from florence2.store import Store, schema
from florence2.store.snapshots import Operator

UNIT, EACH = 256, 10  # pictures in a unit, boxes in a picture


class Floor:
    """A rule as cheap as rules get."""

    from florence2.engine.operator import Spec

    spec, config, weights_sha256 = Spec("floor", "1"), {"floor": 0.3}, ""

    def judge(self, sample):
        return [Decision(r.id, "rejected", "", "low_score", r.score, 0.3) for r in sample.regions if r.score < 0.3]


def fill(store: Store, pictures: int) -> None:
    """Commit units of synthetic rows as an intake and a specialist would."""
    ledger = Ledger(store)
    made = [digest(["benchmark", name]) for name in ("images", "boxes")]
    intake, boxes = (
        Operator(run_id(m, 0), name, "1", m, 0, kind)
        for m, name, kind in zip(made, ("images", "boxes"), ("images", "specialist"))
    )
    ledger.operators = {o.run_id: o for o in (intake, boxes)}
    source = Source("specialist", "boxes", "1", 0, boxes.run_id)
    rng = np.random.default_rng(0)
    for start in range(0, pictures, UNIT):
        ids = [digest(["picture", i], size=12) for i in range(start, min(start + UNIT, pictures))]
        uid = unit_id(ids, intake.fingerprint, 0)
        corners = rng.uniform(0, 600, (len(ids), EACH, 4)).round(2)
        scores = rng.uniform(0, 1, (len(ids), EACH)).round(4)
        images, rows = [], []
        for i, name in enumerate(ids):
            regions = tuple(
                Region(f"{name}{n:02}", box=(x, y, x + w / 4, y + h / 4), label=f"kind {n % 7}", score=s, source=source)
                for n, ((x, y, w, h), s) in enumerate(zip(corners[i].tolist(), scores[i].tolist()))
            )
            sample = Sample(
                name, ImageRef(name, f"/pictures/{start + i:09}.jpg", width=640, height=640), regions=regions
            )
            images.append(schema.image_row(sample, uid))
            rows += schema.annotation_rows(sample)
        done = unit_id(ids, boxes.fingerprint, 0)
        paths = f"images/unit-{uid}.parquet", fragment_path("annotations", 0, "boxes", "1", done)
        for path, what, operator in zip(paths, (images, rows), (intake, boxes)):
            ledger.add([store.put(path, what, [uid], operator.run_id, {"round": 0})])
    ledger.finish({"phase": "annotate"})


def timed(call):
    """Seconds that a call takes, and what it gives."""
    start = time.perf_counter()
    out = call()
    return time.perf_counter() - start, out


def measure(annotations: int, root: Path) -> dict:
    """All figures for one size."""
    pictures = annotations // EACH
    store = Store(root, create=True)
    append_s, _ = timed(lambda: fill(store, pictures))
    size = sum(f.stat().st_size for f in root.glob("annotations/**/*.parquet"))
    open_s, first = timed(lambda: next(iter(Store(root).samples())))
    scan_s, seen = timed(lambda: sum(len(s.regions) for s in store.samples()))
    count_s, counts = timed(store.counts)
    ledger = Ledger(store)
    judge_s, _ = timed(lambda: (judge(ledger, [Floor()]), ledger.finish({"phase": "filter"})))
    compact_s, _ = timed(store.compact)
    again_s, standing = timed(lambda: sum(len(s.regions) for s in store.samples()))
    random_s, random = timed(store.random)
    places = np.random.default_rng(1).integers(0, pictures, 50).tolist()
    access_s, _ = timed(lambda: [random[i] for i in places])
    import duckdb

    query = f"select source, count(*) from '{root}/annotations/**/*.parquet' where score > 0.5 group by 1"
    sql_s, _ = timed(lambda: duckdb.sql(query).fetchall())
    assert seen == annotations and counts["annotations"]["kept"] == annotations and standing < seen and first.regions
    return {
        "annotations": annotations,
        "append_rows_s": round(annotations / append_s),
        "bytes_per_annotation": round(size / annotations, 1),
        "open_first_sample_s": round(open_s, 3),
        "scan_rows_s": round(annotations / scan_s),
        "counts_s": round(count_s, 2),
        "filter_rows_s": round(annotations / judge_s),
        "compact_s": round(compact_s, 2),
        "scan_compacted_rows_s": round(annotations / again_s),
        "random_open_s": round(random_s, 3),
        "random_access_ms": round(1000 * access_s / len(places), 1),
        "duckdb_filter_s": round(sql_s, 3),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    largest = int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000
    results = []
    for annotations in sorted({max(1000, largest // 100), max(1000, largest // 10), largest}):
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(annotations, Path(folder) / "store"))
            shutil.rmtree(folder, ignore_errors=True)
    for name in results[0]:
        print(f"{name:24}" + "".join(f"{result[name]:>14,}" for result in results))
    print(json.dumps({"benchmark": "store", "results": results}))


if __name__ == "__main__":
    main()

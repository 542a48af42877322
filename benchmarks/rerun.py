"""A command over many pictures, the same command again, and `verify`: what a run that has nothing to do costs.

python benchmarks/rerun.py [PICTURES] [WORKERS,WORKERS]     2,000 tiny pictures unless named, on 1 and 2 workers

The specialist says one thing at once, so that all the time is the engine's: looking at pictures (each read, hashed and
decoded once), decoding them again, rows, Parquet, snapshots.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import florence2
from florence2 import pixels

SAYS = """
from florence2.records import Region

class One:
    name, version, produces = "one", "1", ("region_text/object",)

    def annotate(self, samples, images):
        return [[Region(box=(1.0, 1.0, 9.0, 8.0), label="thing", score=0.9)] for _ in samples]
"""


def draw(folder: Path, count: int) -> None:
    """Tiny pictures of noise, a thousand to a folder, no two alike."""
    rng = np.random.default_rng(0)
    for i in range(count):
        there = folder / f"{i // 1000:04}"
        there.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        (there / f"{i:07}.png").write_bytes(pixels.encode(noise, compress_level=1))


def seconds_of(call) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def measure(count: int, workers: int, pictures: Path, root: Path) -> dict:
    """One store made, made again, filtered, filtered again, verified."""
    store = root / f"store-{workers}"
    says = f"{root}/says.py:One"

    def annotate() -> None:
        florence2.annotate(pictures, store, [says], workers=workers)

    result: dict = {"pictures": count, "workers": workers, "load": round(os.getloadavg()[0], 1)}
    result["annotate_s"] = seconds_of(annotate)
    before = florence2.Store(store).snapshots()
    result["again_s"] = seconds_of(annotate)
    result["filter_s"] = seconds_of(lambda: florence2.filter(store))
    result["filter_again_s"] = seconds_of(lambda: florence2.filter(store))
    result["verify_s"] = seconds_of(lambda: florence2.Store(store).verify())
    result["counts_s"] = seconds_of(lambda: florence2.Store(store).counts())
    result["fragments"] = len(florence2.Store(store).snapshot().fragments)
    assert before == [1] and florence2.Store(store).snapshots() == [1, 2], "a run with nothing to do did something"
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in result.items()}


def main() -> None:
    count = int(float(sys.argv[1])) if len(sys.argv) > 1 else 2000
    workers = [int(w) for w in sys.argv[2].split(",")] if len(sys.argv) > 2 else [1, 2]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "says.py").write_text(SAYS)
        draw(root / "pictures", count)
        results = [measure(count, w, root / "pictures", root) for w in workers]
    for name in results[0]:
        print(f"{name:20}" + "".join(f"{result[name]:>14,}" for result in results))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"benchmark": "rerun", "peak_rss_mib": peak, "results": results}))


if __name__ == "__main__":
    main()

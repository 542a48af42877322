"""How the engine grows: with pictures, with workers, and how busy it keeps a specialist.

python -m benchmarks.scale growth [--sizes 1000,10000,100000,1000000]   time and memory against the number of pictures
python -m benchmarks.scale busy                                         how busy a specialist is kept
python -m benchmarks.scale workers [--runner local,ray]                 pictures per second against workers
python -m benchmarks.scale plot FILE.jsonl...                           docs/scale_*.svg from the lines that these print

`growth` is metadata alone: rows of `images` without files, and one grey array for every picture, so that what is
measured is the engine (reading units, signing, Parquet, the snapshot); each size runs in a process of its own.
`busy` and `workers` run on JPEGs that are drawn, `busy` on megapixel ones too. Their specialist takes a fixed time for
each picture: asleep, as one that waits for a GPU, or at work on the processor. It notes when it was called, and
busy is the share of the time between its first call and the end of its last in which it was, the first unit left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import florence2
from florence2 import sources
from florence2.engine.execution.annotation_phase import run_specialist
from florence2.engine.execution.options import Execution
from florence2.engine.ingest.ingestion import unit_for
from florence2.engine.operator import Spec, digest, run_id, unit_id
from florence2.engine.planning.dependencies import plan_steps
from florence2.engine.session import Session
from florence2.records import ImageRef, Parsed, Region, Sample
from florence2.store import ImageRow, Operator, Store, pending

DOCS = Path(__file__).parent.parent / "docs"
UNIT = 64
GREY = np.full((8, 8, 3), 128, np.uint8)


class Constant:
    """Says one box of every picture after a fixed time, asleep or at work, and notes each call in a file."""

    def __init__(self, seconds: float = 0.0, works: bool = False, notes: str = "", batch_size: int = 8):
        self.spec = Spec("constant", "1", frozenset({"region_text/object"}), batch_size=batch_size)
        self.config: dict[str, float] = {}
        self.weights_sha256 = ""
        self.seconds, self.works, self.notes = seconds, works, notes

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def annotate(self, samples: Sequence[Sample], images: Sequence[np.ndarray]) -> list[Parsed]:
        """One box each."""
        begun = time.time()
        if self.works:
            while time.time() - begun < self.seconds * len(samples):
                pass
        elif self.seconds:
            time.sleep(self.seconds * len(samples))
        if self.notes:
            with open(f"{self.notes}-{os.getpid()}", "a") as file:
                file.write(f"{begun} {time.time()} {len(samples)}\n")
        return [Parsed(regions=(Region("r", box=(1.0, 2.0, 6.0, 7.0), label="thing", score=0.5),)) for _ in samples]

    def close(self) -> None:
        """Nothing to let go of."""


def fill(root: Path, pictures: int) -> None:
    """A store of so many pictures that are rows alone, cut as an intake would."""
    store = Store(root, create=True)
    session = Session(store)
    made_by = digest(["benchmark", "images"])
    operator = Operator(run_id(made_by, 0), "images", "1", made_by, 0, "images")
    session.start(operator, {}, {})
    unit = unit_for(pictures)
    for start in range(0, pictures, unit):
        ids = [digest(["picture", i], size=12) for i in range(start, min(start + unit, pictures))]
        refs = [ImageRef(i, f"/pictures/{i}.jpg", width=640, height=480, sha256=digest(i, 32)) for i in ids]
        uid = unit_id(ids, operator.fingerprint, 0)
        rows = [ImageRow.of(Sample(ref.id, ref), unit=uid) for ref in refs]
        session.add(store.put_all([pending.images_of(operator, uid, rows)]))
    session.finish({"phase": "annotate", "round": 0})


def annotate_metadata(root: Path) -> dict[str, float]:
    """Annotate a store of rows by a specialist that takes no time, in this process; what it took."""
    sources.pixels = lambda *_: GREY  # type: ignore[assignment]
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    session = Session(Store(root))
    (step,) = plan_steps(session, [(Constant(batch_size=64), Constant(batch_size=64))])
    with Execution(workers=0).runner(root) as runner:
        report = run_specialist(session, step, runner, 10**8)
    annotated = time.perf_counter()
    session.finish({"phase": "annotate", "round": 0})
    ended = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pictures": report.asked,
        "seconds": ended - begun,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "write_seconds": report.seconds["write"],
        "snapshot_seconds": ended - annotated,
        "peak_mb": after.ru_maxrss / 1024,
        "start_mb": before.ru_maxrss / 1024,
    }


def growth(sizes: Sequence[int]) -> Iterator[dict[str, object]]:
    """One line a size."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for part in ("fill", "annotate"):
                asked = [sys.executable, "-m", "benchmarks.scale", "part", part, folder + "/s", str(size)]
                done = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)
            yield {"measure": "growth", **json.loads(done.stdout)}


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEGs of smoothed noise, which decode as photographs do."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for n in range(count):
        small = Image.fromarray(rng.integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(folder / f"{n:05}.jpg", quality=90)


def calls(notes: Path) -> list[tuple[float, float, int]]:
    """(begin, end, pictures) of every call that was noted."""
    lines = [line.split() for path in notes.parent.glob(notes.name + "-*") for line in path.read_text().splitlines()]
    return [(float(begin), float(end), int(count)) for begin, end, count in lines]


def busy(count: int) -> Iterator[dict[str, object]]:
    """How busy one worker's specialist is kept, on small and on megapixel JPEGs, asleep and at work."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for size in ((320, 240), (1280, 960)):
            folder = root / f"{size[0]}"
            draw(folder, count, size)
            store = florence2.annotate(folder, root / f"s{size[0]}", [], workers=1, unit=UNIT)
            for seconds, works in ((0.02, False), (0.05, False), (0.1, False), (0.1, True)):
                kind = f"{seconds * 1000:.0f} ms {'at work' if works else 'asleep'}"
                notes = root / f"notes-{size[0]}-{kind}"
                specialist = Constant(seconds, works, str(notes))
                specialist.spec = dataclasses.replace(specialist.spec, name=kind.replace(" ", "-"))
                florence2.annotate(store.root, with_=[specialist], workers=1)
                yield {
                    "measure": "busy",
                    "size": list(size),
                    "specialist": kind,
                    "pictures": count,
                    **_share(notes, UNIT),
                }


def _share(notes: Path, skip: int = 0) -> dict[str, float]:
    """Of all calls but those of the first `skip` pictures, in which workers load what they write Parquet with."""
    found = sorted(calls(notes))[skip // 8 :]
    span = max(end for _, end, _ in found) - min(begin for begin, _, _ in found)
    return {
        "busy": sum(end - begin for begin, end, _ in found) / span,
        "pictures_per_second": sum(n for *_, n in found) / span,
    }


def workers(runners: Sequence[str], counts: Sequence[int], pictures: int) -> Iterator[dict[str, object]]:
    """Pictures per second of a specialist that is asleep for 50 ms a picture, against workers."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        draw(root / "pictures", pictures, (320, 240))
        for runner in runners:
            for count in counts:
                notes = root / f"notes-{runner}-{count}"
                specialist = Constant(0.05, notes=str(notes))
                by = {"runner": runner, "workers": count, "unit": 16}
                florence2.annotate(root / "pictures", root / f"{runner}-{count}", [specialist], **by)  # type: ignore[arg-type]
                yield {
                    "measure": "workers",
                    "runner": runner,
                    "workers": count,
                    "pictures": pictures,
                    **_share(notes, 32 * count),
                }


def plot(lines: Sequence[dict]) -> None:
    """docs/scale_growth.svg and docs/scale_workers.svg."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "scale", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    grown = sorted((line for line in lines if line["measure"] == "growth"), key=lambda line: line["pictures"])
    if grown:
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
        sizes = [line["pictures"] for line in grown]
        left.plot(sizes, [line["cpu_seconds"] for line in grown], marker="o", label="measured")
        left.plot(sizes, [size * 1e-4 for size in sizes], linestyle=":", color="grey", label="0.1 ms a picture")
        left.set(xscale="log", yscale="log", xlabel="pictures", ylabel="seconds of processor")
        left.legend()
        right.plot(sizes, [line["peak_mb"] for line in grown], marker="o")
        right.set(xscale="log", xlabel="pictures", ylabel="most memory, MB")
        right.set_ylim(0, 1.3 * max(line["peak_mb"] for line in grown))
        _save(figure, "scale_growth.svg")
    ran = [line for line in lines if line["measure"] == "workers"]
    if ran:
        figure, axes = pyplot.subplots(figsize=(4, 3), layout="constrained")
        for runner in dict.fromkeys(line["runner"] for line in ran):
            points = [(line["workers"], line["pictures_per_second"]) for line in ran if line["runner"] == runner]
            axes.plot(*zip(*points), marker="o", label=runner)
        most = max(line["workers"] for line in ran)
        axes.plot([1, most], [20, 20 * most], linestyle=":", color="grey", label="20 a worker")
        axes.set(xlabel="workers", ylabel="pictures per second", xlim=(0, None), ylim=(0, None))
        axes.legend()
        _save(figure, "scale_workers.svg")


def _save(figure, name: str) -> None:
    figure.savefig(DOCS / name, metadata={"Date": None})


def main() -> None:
    """Parse and print one JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("growth", "busy", "workers", "plot", "part"))
    parser.add_argument("more", nargs="*")
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--runner", default="local,ray")
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--pictures", type=int, default=256)
    args = parser.parse_args()
    if args.what == "part":
        part, root, size = args.more
        if part == "fill":
            fill(Path(root), int(size))
        else:
            print(json.dumps(annotate_metadata(Path(root))))
    elif args.what == "plot":
        plot([json.loads(line) for path in args.more for line in Path(path).read_text().splitlines()])
    else:
        lines = {
            "growth": lambda: growth([int(float(size)) for size in args.sizes.split(",")]),
            "busy": lambda: busy(args.pictures),
            "workers": lambda: workers(
                args.runner.split(","), [int(n) for n in args.workers.split(",")], args.pictures
            ),
        }[args.what]()
        for line in lines:
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

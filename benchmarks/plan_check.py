"""What `florence2 plan` and `annotate --dry-run` foretell beside what runs then take; and the rates that are shipped.

python -m benchmarks.plan_check check [--sizes 500,1500] [--workers 1,2] [--units 64,256]   estimated beside measured
python -m benchmarks.plan_check filter [--sizes] [--units]                  the same of judging
python -m benchmarks.plan_check plot FILE.jsonl...                          docs/scale_plan.svg from these lines
python -m benchmarks.plan_check rates|machine                               the shipped rates, measured and written

`check` draws JPEGs, lets a dry run try a few of them, and then runs `annotate` by specialists of known speed, asleep
and at work on the processor, comparing wall time, bytes and fragments; `filter` does so for judging. One JSON line a
run, errors in per cent. `rates` measures inspecting, RapidOCR, judging and merging, and what a fragment costs in a
snapshot; what needs a GPU is assumed from arithmetic and stays marked so. `machine` also prints how many jobs one
process hands out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import florence2
from benchmarks.scale import draw
from florence2 import pixels, scenes
from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.estimating import estimate_annotate
from florence2.engine.execution.jobs import Job, Resources
from florence2.engine.execution.options import Execution
from florence2.engine.ingest.ingestion import unit_for
from florence2.engine.ingest.inspection import ImageRules, InspectTask
from florence2.engine.planning.bottlenecks import bottlenecks
from florence2.engine.planning.rates import DEFAULT, PhaseRates, Rates, read_rates, write_rates
from florence2.engine.planning.simulation import Machines, simulate
from florence2.engine.sample_run import measured_rates, worker_start_s
from florence2.engine.specialists import as_specialist
from florence2.records import ImageRef, Sample
from florence2.store import Fragment, Operator, Snapshot, Store

SAYS = """
import time
from florence2.records import Region

class Says:
    name = "says"
    version, produces, batch_size = "1", ("region_text/object",), 8

    def annotate(self, samples, images):
        begun = time.time()
        while {works} and time.time() - begun < {seconds} * len(samples):
            pass
        time.sleep(0 if {works} else {seconds} * len(samples))
        return [
            [Region(box=(1.0 + n, 2.0, 60.0 + n * 7, 70.0), label="thing", score=0.9 - n / 50) for n in range(6)]
            for _ in samples
        ]
"""
PICTURE_WH = (320, 240)


def data_bytes(store: Store) -> tuple[int, int]:
    """Fragments of the newest snapshot, and the bytes of these and of the snapshots."""
    fragments = store.snapshot().fragments
    paths = [*(fragment.path for fragment in fragments), *(f"snapshots/{n:06d}.json" for n in store.snapshots())]
    return len(fragments), sum(os.path.getsize(store.root / path) for path in paths)


def compared(what: dict, estimated: dict[str, float], measured: dict[str, float]) -> dict:
    """A line: both figures, and how far the estimate is off."""
    errors = {f"{name}_error": round(100 * (estimated[name] / measured[name] - 1), 1) for name in measured}
    kinds = (("estimated", estimated), ("measured", measured))
    figures = {f"{name}_{kind}": round(of[name], 2) for name in measured for kind, of in kinds}
    return {**what, **errors, **figures, "load": round(os.getloadavg()[0], 1)}


def check(sizes: Sequence[int], workers: Sequence[int], units: Sequence[int]) -> Iterator[dict]:
    """Each run's estimate beside the run, then judging's."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seconds, works in ((0.02, False), (0.02, True)):
            file = root / f"says_{'works' if works else 'sleeps'}.py"
            file.write_text(
                SAYS.format(seconds=seconds, works=works).replace("class Says", f"class {file.stem.title()}")
            )
            name = f"{file}:{file.stem.title()}"
            for size in sizes:
                pictures = root / f"pictures-{size}"
                if not pictures.exists():
                    draw(pictures, size, PICTURE_WH)
                for count in workers:
                    for unit in units:
                        yield _annotated(root, pictures, name, size, count, unit, "at work" if works else "asleep")


def _annotated(root: Path, pictures: Path, name: str, size: int, workers: int, unit: int, how: str) -> dict:
    out = root / f"store-{size}-{workers}-{unit}-{how}"
    plan = estimate_annotate(pictures, out, [name], unit=unit, workers=workers, sample=32)
    begun = time.perf_counter()
    store = florence2.annotate(pictures, out, [name], unit=unit, workers=workers)
    took = time.perf_counter() - begun
    fragments, held = data_bytes(store)
    what = {"measure": "annotate", "specialist": f"20 ms {how}", "pictures": size, "workers": workers, "unit": unit}
    estimated = {"seconds": plan.seconds, "bytes": plan.bytes, "fragments": plan.fragments}
    return compared(what, estimated, {"seconds": took, "bytes": held, "fragments": fragments})


def judged(sizes: Sequence[int], units: Sequence[int]) -> Iterator[dict]:
    """Judging: rates from small stores, held against larger ones."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        phase, command = filter_rates(root)
        for size in sizes:
            for unit in units:
                times = []
                for number in range(TRIES):
                    store = annotated_rows(root / f"s-{size}-{unit}-{number}", size, unit)
                    before, held_before = data_bytes(store)
                    begun = time.perf_counter()
                    florence2.filter(store, workers=0)
                    times.append(time.perf_counter() - begun)
                took = statistics.median(times)
                fragments, held = data_bytes(store)
                rates = dataclasses.replace(shipped_machine(), once=(phase,), worker_start_s=0.0, command_s=command)
                plan = simulate(rates, size, unit, Machines(cpus=1, workers=1))
                estimated = {"seconds": plan.seconds, "fragments": plan.fragments, "bytes": plan.fragment_bytes}
                estimated["bytes"] += fragments * rates.entry_bytes
                measured = {"seconds": took, "fragments": fragments - before, "bytes": held - held_before}
                yield compared({"measure": "filter", "pictures": size, "unit": unit}, estimated, measured)


def shipped_machine() -> Rates:
    """Rates that hold no phase, with the machine's figures as shipped."""
    from florence2.engine.planning.rates import only_annotating

    return only_annotating(())


def annotated_rows(root: Path, pictures: int, unit: int) -> Store:
    """A store of scenes' pictures with six boxes each, made without waiting for any specialist."""
    folder = root.with_name(f"pictures-{pictures}")
    if not folder.exists():
        draw(folder, pictures, (64, 48))
    file = root.with_name("says_nothing.py")
    file.write_text(SAYS.format(seconds=0.0, works=False).replace("class Says", "class Says_Nothing"))
    return florence2.annotate(folder, root, [f"{file}:Says_Nothing"], unit=unit, workers=0)


TRIES = 3  # of what takes a second: a disk's own moods are as long
FEW_IN_MANY, FEW, MANY = (256, 16), (256, 128), (1024, 128)  # pictures and unit of what rates of judging are made from


def filter_rates(
    root: Path, merging: bool = False, clock: Callable[[], float] = time.perf_counter
) -> tuple[PhaseRates, float]:
    """What judging by the shipped rules costs a picture and a unit by a clock, and what is left: the command's own."""
    took, fragments, rows, size = {}, {}, {}, {}
    name = "merge" if merging else "filter"
    for number, which in enumerate(((32, 16), *(FEW_IN_MANY, FEW, MANY) * TRIES)):  # the first warms up
        store = annotated_rows(root / f"rates-{name}-{number}", *which)
        if merging:
            florence2.filter(store, workers=0)
        before = {fragment.path for fragment in store.snapshot().fragments}
        begun = clock()
        florence2.filter(store, merging=MergeConfig() if merging else None, workers=0)
        took.setdefault(which, []).append(clock() - begun)
        made = [fragment for fragment in store.snapshot().fragments if fragment.path not in before]
        fragments[which], rows[which] = len(made), sum(fragment.rows for fragment in made)
        size[which] = sum(os.path.getsize(store.root / fragment.path) for fragment in made)
    took = {which: statistics.median(some) for which, some in took.items()}
    pictures, units = FEW[0], FEW[0] / FEW[1]
    job = max(0.0, (took[FEW_IN_MANY] - took[FEW]) / (pictures / FEW_IN_MANY[1] - units))
    more, more_units = MANY[0] - pictures, MANY[0] / MANY[1] - units
    seconds = max(0.0, took[MANY] - took[FEW] - job * more_units) / more
    fixed = (size[FEW_IN_MANY] - size[FEW]) / max(1, fragments[FEW_IN_MANY] - fragments[FEW])
    phase = PhaseRates(
        name,
        name,
        f"measured: {pictures:,} and {MANY[0]:,} pictures of six boxes",
        seconds=seconds,
        job_s=job,
        batch=1,
        rows=rows[FEW] / pictures,
        row_bytes=max(0.0, size[FEW] - fixed * fragments[FEW]) / max(1, rows[FEW]),
        fragments=fragments[FEW] / units,
        fragment_bytes=fixed,
    )
    return phase, max(0.0, took[FEW] - seconds * pictures - job * units)


def jobs_a_second(count: int = 2000) -> float:
    """How many empty jobs one process hands out and hears of, in two workers, once they are there."""
    task = InspectTask((), ImageRules())
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "s", create=True)
        with Execution(workers=2).runner(store.root) as runner:
            outcomes = iter(runner.run((Job(f"j{n}", 1, task) for n in range(count)), Resources("x")))
            next(outcomes)
            begun = time.perf_counter()
            for _ in outcomes:
                pass
            return (count - 1) / (time.perf_counter() - begun)


def snapshot_costs(count: int = 100_000) -> dict[str, float]:
    """Of a fragment in a snapshot: bytes, seconds to read, bytes of memory."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "s", create=True)
        operator = Operator("0" * 32, "specialist", "1.0", "0" * 32, 0)
        made = tuple(
            Fragment(
                f"annotations/round-0/specialist@1.0/unit-{n:032x}.parquet", 512, f"{n:064x}", (f"{n:032x}",), "0" * 32
            )
            for n in range(count)
        )
        data = Snapshot(1, 0, made, (operator,)).to_bytes()
        (store.root / "snapshots" / "000001.json").write_bytes(data)
        del made
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        held = _resident()
        begun = time.perf_counter()
        kept = store.snapshot()
        took = time.perf_counter() - begun
        memory = max(_resident() - held, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
        assert len(kept.fragments) == count
        return {"entry_bytes": len(data) / count, "entry_read_s": took / count, "entry_memory": memory / count}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def scene_samples(folder: Path, count: int) -> list[Sample]:
    """Drawn scenes as picture files."""
    folder.mkdir(parents=True)
    out = []
    for seed in range(count):
        array, _ = scenes.draw(seed)
        (folder / f"{seed:04}.png").write_bytes(pixels.encode(array))
        out.append(Sample(str(seed), ImageRef("", (folder / f"{seed:04}.png").as_uri())))
    return out


A100_FLOPS, USED = 312e12, 0.3  # NVIDIA's dense bfloat16 peak, and the share of it that is assumed to be reached
BASE_FLOP, LARGE_FLOP = 357e9, 1420e9  # of the towers at 768 x 768: torch's FlopCounterMode over florence2.model
TEXTS, REGIONS, PAIRS = 3.87, 5.42, 28.4  # a picture, of the paper's Table 2: texts, regions, phrases with regions
ROW, MASK_ROW = 60.0, 300.0  # bytes: docs/store.md; and with an outline, assumed
ON_GPU = PhaseRates(  # assumed of all of them: a GPU and four processors a worker, pictures of a megapixel
    "", gpus=1.0, cpus=4.0, decode_s=0.012, cpu_s=0.02, job_s=0.1, load_s=30.0, fragment_bytes=6000.0
)


def by_flops(flop: float) -> float:
    """Seconds of a GPU of that kind."""
    return flop / (A100_FLOPS * USED)


def assumed() -> tuple[tuple[PhaseRates, ...], tuple[PhaseRates, ...]]:
    """The paper's phases that need a GPU, none of them measured: run once, and in each round."""
    peak = f"assumed: {USED:.0%} of an A100's 312 TFLOP/s in bfloat16; "

    def phase(name: str, seconds: float, rows: float, basis: str, row_bytes: float = ROW, **more: object) -> PhaseRates:
        known = {"name": name, "seconds": seconds, "rows": rows, "basis": basis, "row_bytes": row_bytes}
        return dataclasses.replace(ON_GPU, **{**known, **more})

    crops = REGIONS * by_flops(BASE_FLOP * (384 / 768) ** 2) + REGIONS * 0.004
    once = (
        phase("objects", 1 / 24, REGIONS, "assumed: 24 pictures a second, of DINO with a ResNet-50"),
        phase("captions", by_flops(LARGE_FLOP) + 0.03, 1.87, peak + "large tower 1,420 GFLOP, and 30 ms of decoding"),
        phase("region texts", crops, REGIONS, peak + "5.42 crops through the base tower at 384, 4 ms of decoding each"),
        phase("region choice", by_flops(REGIONS * 162e9), 0.0, peak + "5.42 crops through ViT-L/14, 162 GFLOP each"),
        phase("grounding", TEXTS * 0.1, PAIRS, "assumed: 0.1 s a text for Grounding DINO T, 3.87 texts a picture"),
        phase(
            "masks", 0.15 + PAIRS * 0.002, PAIRS,
            "assumed: 0.15 s on an A100 for SAM's ViT-H, as its FAQ is quoted, and 2 ms a box", MASK_ROW,
        ),
    )  # fmt: skip
    train = phase(
        "train", 3 * by_flops(LARGE_FLOP), 0.0, peak + "three times the large tower's forward pass; one pair a picture",
        0.0, kind="train", fragments=0.0, fragment_bytes=0.0, job_s=0.0, batch=64, cpus=8.0,
    )  # fmt: skip
    student = phase(
        "student", by_flops(LARGE_FLOP) + TEXTS * 0.02, TEXTS + REGIONS,
        peak + "large tower once a picture, and 20 ms of decoding a question in a batch",
    )  # fmt: skip
    return once, (train, student)


def shipped() -> Rates:
    """What is measured here with what is assumed: the plan to FLD-5B."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ocr = as_specialist("rapidocr")
        inspect, text = measured_rates(scene_samples(root / "scenes", 24), [("rapidocr", ocr)])
        (judging, command), (merging, _) = (filter_rates(root, merge, time.process_time) for merge in (False, True))
    jobs = jobs_a_second()
    where = f"seconds of a processor, {os.cpu_count()} at a load of {os.getloadavg()[0]:.0f}"
    rules = len(list(open_chain(None)))
    inspect = dataclasses.replace(inspect, basis=f"measured: 24 scenes of 640 pixels, {where}")
    text = dataclasses.replace(text, name="text regions", basis=f"measured: RapidOCR, 24 scenes, {where}")
    inspect, text = (dataclasses.replace(each, seconds=each.cpu_s) for each in (inspect, text))
    more = (TEXTS + 2 * REGIONS + PAIRS) / 6  # items of a picture in the paper, over those that were judged
    judging, merging = (
        dataclasses.replace(
            each,
            seconds=each.seconds * more,
            rows=each.rows * more,
            basis=f"measured: {what}, pictures of six boxes, times {more:.1f}; no texts parsed; {where}",
        )
        for each, what in ((judging, f"{rules} rules"), (merging, "merging"))
    )
    once, each_round = assumed()
    return Rates(
        (inspect, text, *once, judging, merging),
        (*each_round, judging, merging),
        worker_start_s=worker_start_s(2),
        command_s=command,
        driver_job_s=1 / jobs,
        entry_basis=f"measured: 100,000 fragments, {where}; {jobs:.0f} jobs a second",
        picture_basis="assumed: 120 kB, a web picture",
        **snapshot_costs(),
    )


def plot(lines: Sequence[dict]) -> None:
    """docs/scale_plan.svg: estimated beside measured, and what breaks first as pictures grow."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "plan", "font.size": 9, "svg.fonttype": "none"})
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    most = 1.3 * max(max(line["seconds_measured"], line["seconds_estimated"]) for line in lines)
    least = 0.7 * min(line["seconds_measured"] for line in lines)
    left.fill_between(
        [least, most], [0.85 * least, 0.85 * most], [1.15 * least, 1.15 * most], color="0.9", label="15 %"
    )
    for kind in dict.fromkeys(line["measure"] for line in lines):
        points = [(line["seconds_measured"], line["seconds_estimated"]) for line in lines if line["measure"] == kind]
        left.plot(*zip(*points), marker="o", linestyle="", markersize=4, label=kind)
    left.set(xscale="log", yscale="log", xlabel="seconds measured", ylabel="seconds estimated")
    left.legend()
    sizes, rates = [10**n for n in range(4, 10)], read_rates()
    shares: dict[str, list[float]] = {}
    for size in sizes:
        for each in bottlenecks(simulate(rates, size, unit_for(size), Machines(64, 512), 2), rates):
            shares.setdefault(each.name, []).append(each.share)
    for name, values in shares.items():
        right.plot(sizes, values, marker=".", label=name)
    right.axhline(1, color="grey", linestyle=":")
    right.set(xscale="log", yscale="log", xlabel="pictures", ylabel="share of the limit")
    right.legend(fontsize=7)
    figure.savefig(Path(__file__).parent.parent / "docs" / "scale_plan.svg", metadata={"Date": None})


def main() -> None:
    """Parse and print one JSON line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "filter", "machine", "rates", "plot"))
    parser.add_argument("files", nargs="*")
    parser.add_argument("--sizes", default="500,1500")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--units", default="64,256")
    args = parser.parse_args()
    sizes, workers, units = ([int(n) for n in text.split(",")] for text in (args.sizes, args.workers, args.units))
    if args.what == "machine":
        print(json.dumps({"jobs_a_second": jobs_a_second(), "worker_start_s": worker_start_s(2), **snapshot_costs()}))
        return
    if args.what == "plot":
        found = (json.loads(line) for path in args.files for line in Path(path).read_text().splitlines())
        plot([line for line in found if "measure" in line])
        return
    if args.what == "rates":
        write_rates(DEFAULT, shipped())
        return
    lines = []
    for line in check(sizes, workers, units) if args.what == "check" else judged(sizes, units):
        lines.append(line)
        print(json.dumps(line), flush=True)
    for name in ("seconds", "bytes", "fragments"):
        errors = [abs(line[f"{name}_error"]) for line in lines]
        print(json.dumps({"error_of": name, "median": statistics.median(errors), "largest": max(errors)}))


if __name__ == "__main__":
    main()

"""The engine measured: what specialists, each filter rule and merging are worth, its speed, its own overhead.

python benchmarks/engine.py [--data DATA] [--models MODELS] [--only SET,SET] [--pictures N] [--out FILE.json]

Sets: scenes, pages (drawn, held out), overhead; with --data also receipts (SROIE), street (ICDAR 2015), photos (COCO),
all parts: no specialist learnt from them. A store is made by `annotate`, `filter` and merging as a user would make it.
Rules are fitted to one half of the pictures, as `filter --tune --write` does; the other half is scored as it stood
before any rule and after each one that changed something, by the rules as shipped and by the fitted ones. Each stage's
F1 is compared with that of the stage before by a paired bootstrap of the pictures.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from engine_families import FAMILIES, PRF, f1_change

import florence2
from florence2 import pixels, scenes, sources
from florence2.engine.commands import import_labels
from florence2.engine.curation import fitting
from florence2.engine.curation.filters.rules import open_chain
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.execution.annotation import SECONDS
from florence2.formats import jsonl
from florence2.labels import fold_label
from florence2.records import Sample
from florence2.store import Store

HELD_OUT = 2**31 + 7_000_000  # seeds that nothing is trained on
COCO_NAMES = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
              "diningtable": "dining table", "tvmonitor": "tv"}  # fmt: skip

# ---- the overhead ------------------------------------------------------------------------------------------------


CONSTANT = """
import time
from florence2.records import Region

class Constant:  # takes 10 ms a picture and says eight things of it
    name, version, produces = "constant", "1", ("region_text/object",)

    def annotate(self, samples, images):
        out = []
        for _ in samples:
            time.sleep(0.01)
            out.append([Region(box=(i, 2.0, 30.5 + i, 40.2), label=f"kind {i}", score=0.5 + i / 100) for i in range(8)])
        return out
"""


INSIDE = ("annotate", "wait", "write", "rest")


def overhead(folder: Path, counts: Sequence[int] = (256, 1280), unit: int = 64) -> dict:
    """The engine's own share of the time, as the slope between two sizes: what a longer run costs a picture.

    The pictures are in the store already, so that their hashing is left out; waiting for their decoding is not.
    """
    rng = np.random.default_rng(0)
    (folder / "constant.py").write_text(CONSTANT)
    sets = []
    for count in counts:
        there = folder / f"pictures-{count}"
        there.mkdir()
        for i in range(count):
            noise = rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)
            (there / f"{i:05}.png").write_bytes(pixels.encode(noise, compress_level=1))
        sets.append(there)
    out: dict = {"unit": unit, "pictures": list(counts), "annotations_a_picture": 8, "load": os.getloadavg()[0]}
    for workers in (0, 1):
        walls, own, units = [], [], 0.0
        for there in sets:
            runs = []
            for again in range(2):  # the quicker run counts: a slow start must not look like a quick engine
                store, reports = folder / f"store-{workers}-{there.name}-{again}", {}
                florence2.annotate(there, store, [], unit=unit, workers=0)
                begun = time.perf_counter()
                florence2.annotate(store, with_=[f"{folder}/constant.py:Constant"], workers=workers, reports=reports)
                runs.append((time.perf_counter() - begun, *(reports["constant"].seconds[k] for k in INSIDE)))
            wall, annotate, *rest = min(runs)
            walls.append(wall)
            own.append(annotate)
            units = sum(rest) / annotate
        more = counts[1] - counts[0]
        per_picture, specialist = (walls[1] - walls[0]) / more, (own[1] - own[0]) / more
        share = per_picture / specialist - 1
        out[f"workers_{workers}"] = {
            "overhead": round(share, 4),
            "inside_units": round(units, 4),
            "ms_a_picture": round(1000 * (per_picture - specialist), 3),
            "specialist_ms": round(1000 * specialist, 3),
            "fixed_s": round(walls[0] - counts[0] * per_picture, 2),
        }
        print(
            f"overhead, workers {workers}: {share:.1%} of {1000 * specialist:.1f} ms a picture, {units:.1%} in units; "
            f"once a command {walls[0] - counts[0] * per_picture:.2f} s (load {out['load']:.1f})"
        )
    return out


# ---- a set -------------------------------------------------------------------------------------------------------


@dataclass
class Set:
    """Pictures with their truth, who annotates them, and what is scored."""

    name: str
    truth: list[Sample]
    specialists: list[str]
    families: tuple[str, ...]
    grounding: list[str] = dataclasses.field(default_factory=list)  # specialists of the run on people's captions
    labels: set[str] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        """Part the pictures in two, by the hash of their names."""
        order = sorted(self.truth, key=lambda s: hashlib.sha256(Path(s.image.uri).name.encode()).hexdigest())
        self.fitted_to, self.held_out = order[::2], order[1::2]


def measured(given: Set, folder: Path) -> dict:
    """Run the engine over a set; the scores of the pictures that no rule was fitted to, by stage, and its times."""
    bare = [dataclasses.replace(s, texts=(), regions=(), groundings=(), decisions=()) for s in given.truth]
    store, times = annotated(bare, given, folder / "store")
    stores = [(store, given.families)]
    if given.grounding:
        captions = [dataclasses.replace(s, regions=(), groundings=(), decisions=()) for s in given.truth]
        jsonl.write(captions, folder / "captions.jsonl")
        grounded = import_labels(folder / "captions.jsonl", folder / "grounded", workers=0)
        florence2.annotate(grounded.root, with_=given.grounding, workers=0)
        stores.append((grounded, ("phrases",)))
    rows: list[dict] = []
    changes: dict = {}
    for each, families in stores:
        name = each.root.name
        fitted, changes[name] = fit(each, given.fitted_to, folder / f"{name}.yaml")
        other = Store(shutil.copytree(each.root, folder / f"{name}-fitted")) if fitted else None
        took = curated(each, None)
        times.update(took if each is store else {})
        if other:
            curated(other, fitted)
        for family in families:
            shipped = stages(each, given, family, "shipped")
            found = stages(other, given, family, "fitted") if other else []
            rows += compared(shipped, found)
    print_rows(given, rows, times, changes)
    fell = store.reasons()["annotations"]
    print("fell, by reason: " + (", ".join(f"{n} {word}" for word, n in fell.items()) or "nothing"))
    return {"pictures": len(bare), "scores": rows, "times": times, "fell": fell, "fitted": changes}


def annotated(bare: list[Sample], given: Set, out: Path) -> tuple[Store, dict]:
    """Intake and specialists, timed."""
    times: dict = {"load": round(os.getloadavg()[0], 1)}
    data = [Path(s.image.uri).read_bytes() for s in bare]
    times["hashing_alone_s"] = seconds_of(lambda: [hashlib.sha256(d).hexdigest() for d in data])
    times["decoding_alone_s"] = seconds_of(lambda: [pixels.load(d) for d in data])
    times["intake_s"] = seconds_of(lambda: florence2.annotate(bare, out, [], workers=0))
    reports: dict = {}
    times["annotate_s"] = seconds_of(
        lambda: florence2.annotate(out, with_=given.specialists, workers=0, reports=reports)
    )
    times["operators"] = {
        name: {part: round(value, 3) for part, value in each.seconds.items()} for name, each in reports.items()
    }
    times["pictures_s"] = round(len(bare) / (times["intake_s"] + times["annotate_s"]), 2)
    return Store(out), times


def fit(store: Store, labelled: list[Sample], out: Path) -> tuple[Path | None, dict]:
    """What `filter --tune --write` writes from these labelled pictures; None where it suggests nothing."""
    wanted = {Path(s.image.uri).name for s in labelled}
    samples = [s for s in store.samples(view="all") if Path(s.image.uri).name in wanted]
    found = fitting.fit(samples, labelled, open_chain())
    if found.changes:
        out.write_text(yaml.safe_dump(dict(found.changes), sort_keys=False))
    return out if found.changes else None, {"changes": dict(found.changes), "refused": found.refused}


def curated(store: Store, rules: Path | None) -> dict:
    """Filters, then merging, timed."""
    return {
        "filter_s": seconds_of(lambda: florence2.filter(store, rules)),
        "merge_s": seconds_of(lambda: florence2.filter(store, rules, merging=MergeConfig())),
    }


def seconds_of(call: Callable) -> float:
    begun = time.perf_counter()
    call()
    return round(time.perf_counter() - begun, 3)


@dataclass
class Stage:
    """A family's scores at one stage, and its counts by picture."""

    row: dict
    counts: np.ndarray

    def beside(self, other: "Stage") -> list[float]:
        """The change of F1 from another stage, and its paired interval of 95 %."""
        return [round(value, 4) for value in f1_change(other.counts, self.counts)]


def stages(store: Store, given: Set, family: str, rules: str) -> list[Stage]:
    """A family's scores: of each source alone, of all before any rule, after each rule that changed it, merged."""
    held = {Path(s.image.uri).name for s in given.held_out}
    samples = [s for s in store.samples(view="all") if Path(s.image.uri).name in held]
    names = {d.seq: d.rule for s in samples for d in s.decisions if d.rule != "merge"}
    merged = max((d.seq for s in samples for d in s.decisions if d.rule == "merge"), default=0)
    later = [(f"after {rule}", lambda s, seq=seq: [d for d in s.decisions if d.seq <= seq])
             for seq, rule in sorted(names.items())]  # fmt: skip
    later += [("merged", lambda s: s.decisions)] if merged else []
    out: list[Stage] = []
    sources = sorted({i.source.name for s in samples for i in items(s, family) if i.source.name != "merge"})
    for name in sources if len(sources) > 1 else ():
        alone = scored(f"{name} alone", given, family, (only(s, name) for s in samples))
        out += [alone] if alone.row["kept"] else []
    for stage, decisions in [("all sources, no rule", lambda s: ()), *later]:
        views = (dataclasses.replace(_unmerged(s, stage), decisions=tuple(decisions(s))).current() for s in samples)
        found = scored(stage, given, family, views)
        if stage.startswith("all"):
            if not found.row["kept"]:
                return []
            out.append(found)
        elif any(found.row[k] != out[-1].row[k] for k in (*PRF, "accuracy", "kept")):
            found.row["change"] = found.beside(out[-1])
            out.append(found)
    for each in out:
        each.row["rules"] = rules
    return out


def compared(shipped: list[Stage], fitted: list[Stage]) -> list[dict]:
    """The rows of both ways; each last stage is compared with the best source alone, and fitted with shipped."""
    alone = [stage for stage in shipped if stage.row["stage"].endswith("alone")]
    best = max(alone, key=lambda stage: stage.row["F1"], default=None)
    for found in (shipped, fitted):
        if best and found:
            found[-1].row["beside_best_alone"] = found[-1].beside(best)
    if fitted:
        fitted[-1].row["beside_shipped"] = fitted[-1].beside(shipped[-1])
    return [stage.row for stage in (*shipped, *(s for s in fitted if s.row["stage"][:5] in ("after", "merge")))]


def items(sample: Sample, family: str) -> list:
    """Annotations of a family, whoever made them but people."""
    regions = {
        "objects": [r for r in sample.regions if r.kind == "object" and not r.refines],
        "lines": [r for r in sample.regions if r.kind == "text"],
        "faces": [r for r in sample.regions if r.label == "face" and not r.refines],
        "masks": [r for r in sample.regions if r.refines],
        "texts": list(sample.texts),
        "phrases": list(sample.groundings),
    }[family]
    return [item for item in regions if item.source.kind != "import"]


def only(sample: Sample, source: str) -> Sample:
    kept = {
        field: tuple(i for i in getattr(sample, field) if i.source.name == source)
        for field in ("regions", "texts", "groundings")
    }
    return dataclasses.replace(sample, decisions=(), **kept)


def _unmerged(sample: Sample, stage: str) -> Sample:
    if stage == "merged":
        return sample
    return dataclasses.replace(sample, regions=tuple(r for r in sample.regions if r.source.name != "merge"))


def scored(stage: str, given: Set, family: str, views: Iterable[Sample]) -> Stage:
    truth = {Path(s.image.uri).name: s for s in given.truth}
    labels = given.labels or {fold_label(r.label) for s in given.truth for r in s.regions if r.kind == "object"}
    metric, kept = FAMILIES[family](labels), 0
    for view in views:
        kept += metric.update(truth[Path(view.image.uri).name], view)
    scores = {name: round(value, 4) for name, value in metric.compute().items()}
    return Stage({"set": given.name, "family": family, "stage": stage, "kept": kept, **scores}, np.array(metric.counts))


# ---- the sets ----------------------------------------------------------------------------------------------------


def drawn(name: str, folder: Path, count: int) -> Set:
    """Held-out scenes, or pages of text."""
    draw = scenes.draw if name == "scenes" else scenes.draw_page
    truth = scenes.write(folder / "drawn", (draw(HELD_OUT + i) for i in range(count)))
    samples = list(jsonl.read(truth))
    if name == "pages":
        return Set(name, samples, ["rapidocr", "student:nano"], ("lines",))
    return Set(name, samples, ["student:nano", "composer"], ("objects", "texts"), ["student:nano", "grounder"])


def resolve_specialist(name: str, folder: Path, data: Path, models: Path, limit: int | None) -> Set:
    """A development set, all its parts."""
    path = {"receipts": "sroie/dev", "street": "icdar2015/dev", "photos": "coco_open/dev"}[name]
    samples = [s for s in sources.open(data / path) if s.regions and Path(s.image.uri).exists()][:limit]
    if name != "photos":
        return Set(name, samples, ["rapidocr", f"tesseract:{models / 'tesseract_eng'}"], ("lines",))
    names = [COCO_NAMES.get(n, n) for n in (models / "yolox_nano" / "coco.names").read_text().split("\n") if n]
    yolox = card(folder / "yolox.yaml", "yolox-nano", models / "yolox_nano" / "yolox_nano.onnx", names, [416, 416], 0.1,
                 {"decode": "yolox", "strides": [8, 16, 32]}, letterbox="top-left", pad=114)  # fmt: skip
    yunet = card(folder / "yunet.yaml", "yunet", models / "yunet" / "yunet_n_640_640.onnx", ["face"], [640, 640], 0.3,
                 {"decode": "yunet"}, letterbox="top-left")  # fmt: skip
    everyone = [yolox, yunet, "opencv", "composer", "grabcut"]
    return Set(name, samples, everyone, ("objects", "masks", "faces", "texts"), [yolox, "grounder"], set(names))


def card(path: Path, name: str, model: Path, classes, size, score: float, output: dict, **more) -> str:
    facts = {"name": name, "version": "1", "model": str(model), "classes": classes, "score": score, "nms": 0.7}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**facts, "input": {"size": size, "channels": "bgr", **more}, "output": output}))
    return str(path)


# ---- the tables --------------------------------------------------------------------------------------------------


def print_rows(given: Set, rows: list[dict], times: dict, changes: dict) -> None:
    print(f"\n{given.name}: {len(given.truth)} pictures, {len(given.held_out)} of them scored, load {times['load']}")
    for name, each in changes.items():
        print(f"fitted rules of {name}: {json.dumps(each['changes']) if each['changes'] else 'none'} {each['refused']}")
    print("| family | rules | stage | annotations | precision | recall | F1 | change of F1 (95 %) | accuracy |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        numbers = " | ".join(f"{row[name]:.3f}" for name in PRF)
        head = f"{row['family']} | {row['rules']} | {row['stage']} | {row['kept']}"
        print(f"| {head} | {numbers} | {interval(row.get('change'))} | {row['accuracy']:.3f} |")
    for row in rows:
        for key in ("beside_best_alone", "beside_shipped"):
            if key in row:
                print(f"{row['family']}, {row['rules']} rules, {key.replace('_', ' ')}: {interval(row[key])}")
    parts = ", ".join(f"{name[:-2].replace('_', ' ')} {times[name]:.2f} s" for name in times if name.endswith("_s"))
    print(f"\n{parts}\n\n| specialist | pictures/s | {' | '.join(SECONDS)} |\n" + "|---" * (2 + len(SECONDS)) + "|")
    for name, took in times["operators"].items():
        whole = sum(took[part] for part in ("annotate", "wait", "write", "rest"))
        cells = " | ".join(f"{took[part]:.2f}" for part in SECONDS)
        print(f"| {name} | {len(given.truth) / whole:.1f} | {cells} |")


def interval(change: Sequence[float] | None) -> str:
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(*change) if change else ""


def chosen(args: argparse.Namespace) -> Iterator[str]:
    names = ["overhead", "scenes", "pages"] + (["receipts", "street", "photos"] if args.data else [])
    for name in args.only.split(",") if args.only else names:
        if name not in names:
            raise SystemExit(f"--only {name}: expected some of {', '.join(names)} (with --data: real pictures too)")
        yield name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the optional test data (sroie, icdar2015, coco_open)")
    parser.add_argument("--models", type=Path, help="the folder of the small models (default: DATA/../models)")
    parser.add_argument("--only", help="some of the sets")
    parser.add_argument("--without", default="", metavar="NAME,...", help="specialists to leave out, such as grabcut")
    parser.add_argument("--pictures", type=int, help="at most this many of a set (scenes: 100, pages: 12)")
    parser.add_argument("--out", type=Path, help="where the JSON goes, too")
    args = parser.parse_args()
    models = args.models or (args.data and args.data.absolute().parent / "models")
    results: dict = {}
    for name in chosen(args):
        with tempfile.TemporaryDirectory() as folder:
            there = Path(folder)
            if name == "overhead":
                results[name] = overhead(there)
                continue
            if name in ("scenes", "pages"):
                given = drawn(name, there, args.pictures or {"scenes": 100, "pages": 12}[name])
            else:
                given = resolve_specialist(name, there, args.data.absolute(), models, args.pictures)
            given.specialists = [each for each in given.specialists if each not in args.without.split(",")]
            results[name] = measured(given, there)
    line = json.dumps({"benchmark": "engine", "results": results})
    if args.out:
        args.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()

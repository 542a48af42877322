"""What every claim is measured on: drawn scenes, simulated specialists, three sizes; and where results are kept.

A result is one JSON line, found again by its piece, arm, seed and size: what is there is not computed again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import florence2
from florence2 import scenes
from florence2.engine.curation.merging import MergeConfig
from florence2.engine.specialists.simulated import Noise, Simulated
from florence2.formats import jsonl
from florence2.metrics.detection import DetectionF1
from florence2.records import Sample
from florence2.refinement.stopping import ending
from florence2.store import Store

EVERY = 3  # every third scene has kinds that nano never saw
GROUPS = ("all", "seen", "unseen")  # scenes without such kinds, and with them
PAIRS = tuple(zip(scenes.KINDS[::4], scenes.KINDS[1::4]))  # kinds that the third noise confuses
NOISES: Mapping[str, Noise] = {
    "independent": Noise(),
    "by size": Noise(missed=0.05, missed_small=1.0, missed_covered=0.5),
    "confusion": Noise(confused=PAIRS),
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    name: str
    scenes: int
    tests: int
    long: int
    """Steps of a long training; a short one takes a fifth."""
    batch: int
    lr: float
    seeds: int


SIZES = {
    "quick": Size("quick", 36, 24, 20, 8, 4e-4, 1),
    "small": Size("small", 300, 150, 200, 8, 4e-4, 3),
    "full": Size("full", 400, 200, 1000, 16, 2e-4, 3),
}


class Results:
    """The lines of a folder's results, one file a piece and a size."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.folder, self.size, self.made = folder, size, 0
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, piece: str) -> list[dict[str, Any]]:
        file = self._file(piece)
        lines = file.read_text().splitlines() if file.is_file() else []
        out: dict[tuple[str, int], dict[str, Any]] = {}
        for number, line in enumerate(map(str.strip, lines), 1):
            if not line.endswith("}"):
                continue  # one that a kill or a full disk cut
            where = f"{file}, line {number}"
            result = _result(line, where)
            key = result["arm"], result["seed"]
            if key in out:
                raise ValueError(f"{where}: arm {key[0]!r} of seed {key[1]} is there already; take one of the two out")
            size = _size(result)
            other = next((_size(one) for one in out.values() if one["arm"] == key[0] and _size(one)), size)
            if size and size != other:
                raise ValueError(f"{where}: {size}, another seed of this arm {other}; take the wrong one out")
            out[key] = result
        return list(out.values())

    def once(self, piece: str, arm: str, seed: int, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The line of an arm, made where it is not there yet."""
        for line in self.of(piece):
            if (line["arm"], line["seed"]) == (arm, seed):
                return line
        line = {"arm": arm, "seed": seed, **make()}
        self.made += 1
        file = self._file(piece)
        text = file.read_text() if file.is_file() else ""
        cut = bool(text) and not text.endswith("\n")
        with open(file, "a", encoding="utf-8") as out:
            out.write("\n" * cut + json.dumps(line) + "\n")
        return line

    def _file(self, piece: str) -> Path:
        return self.folder / f"{piece}-{self.size.name}.jsonl"


def _result(line: str, where: str) -> dict[str, Any]:
    """One line of results; ValueError names one that is none."""
    try:
        found = json.loads(line)
        if _is_result(found):
            return dict(found)
    except (ValueError, AttributeError, TypeError, KeyError):
        pass
    raise ValueError(f"{where}: no result of an arm; take the line out, and it is computed again")


def _is_result(found: dict[str, Any]) -> bool:
    """Whether a line names its arm and seed, and holds counts of pictures or metrics with their resamples."""
    named = isinstance(found["arm"], str) and type(found["seed"]) is int
    if "metrics" in found:
        numbers = [*found["metrics"].values(), *(value for values in found["draws"].values() for value in values)]
        return named and found["metrics"].keys() == found["draws"].keys() and all(map(_is_number, numbers))
    tables = [found["counts"], found.get("labels"), found.get("filtered")]
    return named and all(table is None or _is_counts(table) for table in tables)


def _size(found: Mapping[str, Any]) -> str:
    """What a result was counted on, in words; nothing where its arm could not be measured."""
    if "metrics" in found:
        return ", ".join(f"{len(draws)} resamples of {task}" for task, draws in found["draws"].items())
    return f"counts of {len(found['counts'])} pictures" if found["counts"] else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_counts(table: Any) -> bool:
    """Of every picture: right, found, true."""
    return bool(table) and all(len(row) == 3 and all(type(value) is int for value in row) for row in table)


def drawn(folder: Path, first: int, count: int, **options: Any) -> Path:
    """A folder of scenes, drawn where it is not there; every third has kinds that nano never saw."""
    truth = folder / "truth.jsonl"
    if not truth.is_file():
        start = scenes.TRAINING_SEEDS + first
        options = {"signs": 0.0, **options}
        scenes.write(folder, (scenes.draw(start + i, withheld=i % EVERY == 0, **options) for i in range(count)))
    return truth


def first_seed(seed: int) -> int:
    """Where the scenes of a repetition begin; the tests are those of repetition -1, the same for all."""
    return (seed + 2) * 1_000_000


def annotated(truth: Path, out: Path, noise: Noise, seed: int, sources: int = 1) -> Store:
    """What so many simulated specialists say, judged by the shipped rules, several merged."""
    if (out / "done").is_file():
        return Store(out / "store")
    makers = [Numbered(str(truth), noise, seed * 10 + n, n) for n in range(sources)]
    store = florence2.annotate(truth.parent / "images", out / "store", makers, workers=0)
    florence2.filter(store, merging=MergeConfig() if sources > 1 else None)
    (out / "done").touch()
    return store


class Numbered(Simulated):
    """One of several simulated specialists, its noise its own."""

    def __init__(self, path: str, noise: Noise, seed: int, number: int) -> None:
        super().__init__(path, noise, seed)
        if number:
            self.spec = dataclasses.replace(self.spec, name=f"simulated_{number}")


def kept(store: Store, snapshot: int | None = None) -> dict[str, Sample]:
    """The view of a snapshot by picture name; unless named, the one that filters left, whatever rounds came after."""
    if snapshot is None:
        first = ending(store, store.snapshot(), 1)
        snapshot = store.snapshot().number if first is None else first.parent
    return {Path(sample.image.uri).stem: sample for sample in store.samples(snapshot)}


def truth_of(truth: Path) -> dict[str, Sample]:
    return {sample.id: sample for sample in jsonl.read(truth)}


def objects_only(sample: Sample) -> Sample:
    """The sample's objects and nothing else: what a student of detection is taught."""
    regions = tuple(dataclasses.replace(r, refines="") for r in sample.regions if r.kind == "object" and not r.refines)
    return dataclasses.replace(sample, regions=regions, texts=(), groundings=(), decisions=())


def labels_file(out: Path, samples: Sequence[Sample]) -> Path:
    """Training labels as JSON Lines."""
    if not out.is_file():
        jsonl.write(map(objects_only, samples), out)
    return out


Counts = list[list[int]]  # a row a picture: rightly named boxes, found, true


def counts(truth: Mapping[str, Sample], found: Mapping[str, Sample]) -> Counts:
    """Of every picture of the truth: right boxes (name and IoU 0.5), found ones, true ones."""
    out = []
    for name, true in truth.items():
        real = [r for r in true.regions if r.kind == "object"]
        said = [r for r in found[name].regions if r.kind == "object" and not r.refines] if name in found else []
        right = 0
        for label in {r.label for r in (*real, *said)}:
            metric = DetectionF1()
            metric.update([r for r in real if r.label == label], [r for r in said if r.label == label])
            right += metric.rows[0][2]
        out.append([right, len(said), len(real)])
    return out


def f1(rows: np.ndarray) -> np.ndarray:
    """F1 of summed rows (..., 3)."""
    return np.asarray(2 * rows[..., 0] / np.maximum(rows[..., 1] + rows[..., 2], 1e-9))


def groups(rows: Counts) -> Iterator[tuple[str, np.ndarray]]:
    """The rows of all scenes, of those without and of those with kinds that nano never saw."""
    table = np.asarray(rows, float)
    unseen = np.arange(len(table)) % EVERY == 0
    yield from zip(GROUPS, (table, table[~unseen], table[unseen]))


def resampled(tables: Sequence[np.ndarray], draws: int = 1000) -> np.ndarray:
    """(draws, tables) F1 of paired resamples of pictures, the same ones for each table."""
    rng = np.random.default_rng(0)
    places = rng.integers(0, len(tables[0]), (draws, len(tables[0])))
    return np.stack([f1(table[places].sum(1)) for table in tables], 1)


def interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
